/* SPDX-License-Identifier: MIT */
/* Launcher text ("512M", "path=root.img,readonly") into a configuration. */
#ifndef VMM_CONFIG_TEXT_H
#define VMM_CONFIG_TEXT_H

#include "vmm/config/value.h"

/* Set @key, of the root table. 0, -ENOMEM, or -EINVAL with @why. */
int config_read_text(struct umbra_config *config, const struct config_key *key,
                     const char *text, struct config_why *why);

#endif
