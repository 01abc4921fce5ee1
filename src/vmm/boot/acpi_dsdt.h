/* SPDX-License-Identifier: MIT */
/* The body of the DSDT: the board's devices as AML. */
#ifndef VMM_BOOT_ACPI_DSDT_H
#define VMM_BOOT_ACPI_DSDT_H

#include "vmm/board/board.h"
#include "vmm/boot/aml.h"

void acpi_dsdt_build(const struct board *board, struct aml *aml);

#endif
