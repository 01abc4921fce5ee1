/* SPDX-License-Identifier: MIT */
/*
 * virtiofsd as a child of ours: started for one shared folder, ended with the device. It
 * ends by itself when its connection does, so also when umbra is killed.
 */
#ifndef VIRTIO_FS_VIRTIOFSD_H
#define VIRTIO_FS_VIRTIOFSD_H

#include <stdbool.h>

#include <umbra/umbra.h>

#include "base/log.h"

struct virtiofsd;

/* For @path; @id names it in the log. It is not started yet. */
int virtiofsd_create(const char *id, const char *path, bool readonly,
                     const struct log *log, struct virtiofsd **daemon,
                     struct umbra_error *error);
/* Ends it. NULL is fine. */
void virtiofsd_destroy(struct virtiofsd *daemon);

/* Start it, after ending an earlier one; *fd is the connection to it. */
int virtiofsd_start(struct virtiofsd *daemon, int *fd, struct umbra_error *error);
/* What it says, for the log: a descriptor that polls readable, -1: none; and take it. */
int virtiofsd_output_fd(const struct virtiofsd *daemon);
void virtiofsd_output(struct virtiofsd *daemon);
/* Its connection failed: say in @error what it said and how it ended. */
void virtiofsd_explain(struct virtiofsd *daemon, struct umbra_error *error);
/* It did not start, for the reason in @error: shall it be tried with less of a sandbox? Says
 * so in the log. */
bool virtiofsd_relax(struct virtiofsd *daemon, const struct umbra_error *error);

#endif
