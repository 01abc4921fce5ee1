/* SPDX-License-Identifier: MIT */
/* Strict JSON into a configuration, by the table of keys. */
#ifndef VMM_CONFIG_JSON_H
#define VMM_CONFIG_JSON_H

#include "vmm/config/config.h"
#include "vmm/config/errors.h"

enum { CONFIG_TEXT_MAX = 1 << 20 }; /* bytes of a file; real ones have a few hundred */

/*
 * Read @text over @config; @name stands for the file in messages, relative paths go
 * behind @base_dir. Faults are added to @errors; @config is then partly changed. Returns
 * 0 also then, and -ENOMEM.
 */
int config_read_json(struct umbra_config *config, const char *text, const char *name,
                     const char *base_dir, struct config_errors *errors);

#endif
