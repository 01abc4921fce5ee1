/* SPDX-License-Identifier: MIT */
/* The chapters of the demo guest's report. */
#ifndef VMM_GUEST_DEMO_H
#define VMM_GUEST_DEMO_H

#include <stdbool.h>

extern unsigned demo_problems;
void demo_line(const char *name, bool good, const char *text);

void demo_interrupts(void);
void demo_devices(void);
void demo_compute(void);

#endif
