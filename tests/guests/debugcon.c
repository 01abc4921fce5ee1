/* SPDX-License-Identifier: MIT */
/* Writes a line to the debug port, from ring 0 and from ring 3. */
#include "vmm/guest/guest.h"
#include "vmm/guest/ports.h"

static uint64_t write_text(void *argument)
{
    const char *text;

    for (text = argument; *text; text++)
        out8(DEBUGCON_PORT, (uint8_t)*text);
    return 0;
}

int guest_main(int argc, char **argv)
{
    CHECK(in8(DEBUGCON_PORT) == 0xe9);
    write_text("debug port, ring 0\n");
    user_run(write_text, "debug port, ring 3\n", NULL);
    return EXIT_PASS;
}
