/* SPDX-License-Identifier: MIT */
/* Leaves through the debug-exit port: value=V, width=1, 2 or 4 bytes. */
#include "vmm/guest/guest.h"
#include "vmm/guest/ports.h"

int guest_main(int argc, char **argv)
{
    uint64_t value = 0, width = 4;

    CHECK(boot_option("value") && number_parse(boot_option("value"), &value));
    if (boot_option("width"))
        CHECK(number_parse(boot_option("width"), &width));
    if (width == 1)
        out8(DEBUG_EXIT_PORT, (uint8_t)value);
    else if (width == 2)
        out16(DEBUG_EXIT_PORT, (uint16_t)value);
    else
        out32(DEBUG_EXIT_PORT, (uint32_t)value);
    guest_fail("still here after writing to the debug-exit port");
}
