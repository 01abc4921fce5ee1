/* SPDX-License-Identifier: MIT */
/* Adapting a Linux guest's command line to a KVM whose CPUID masks do not apply. */
#ifndef VMM_BOOT_ADAPT_H
#define VMM_BOOT_ADAPT_H

#include "vcpu/probe.h"

/*
 * The command line @append with what this host's KVM needs added behind it, malloc'd into
 * *adapted; *adapted is NULL when nothing needs to be added. Options that the user gave
 * win, except that clearcpuid= is merged. 0 or -ENOMEM.
 */
int adapt_command_line(const struct kvm_probe *probe, const char *append, char **adapted);

/* One line for the log that says what was done and why; static. */
const char *adapt_reason(const struct kvm_probe *probe);

#endif
