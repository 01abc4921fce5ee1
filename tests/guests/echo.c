/* SPDX-License-Identifier: MIT */
/* Says how it was started: protocol, arguments, memory, modules with a checksum. */
#include "vmm/guest/guest.h"

static uint64_t module_sum(void *argument)
{
    const struct boot_module *module = argument;
    const uint8_t *bytes = (const uint8_t *)module->start;
    uint64_t sum = 0, i;

    for (i = 0; i < module->size; i++)
        sum = (sum * 31 + bytes[i]) & 0xffffffff;
    return sum;
}

int guest_main(int argc, char **argv)
{
    unsigned i;

    print("protocol %s\n", boot.protocol == BOOT_PVH ? "pvh" : "multiboot");
    for (i = 0; i < (unsigned)argc; i++)
        print("arg %u <%s>\n", i, argv[i]);
    for (i = 0; i < boot.module_count; i++)
        print("module %lu bytes sum %lx\n", boot.modules[i].size,
              user_run(module_sum, &boot.modules[i], NULL));
    print("ranges %u ram %lu KiB rsdp %s\n", boot.range_count, boot_ram_size() >> 10,
          boot.rsdp ? "given" : "not given");
    return EXIT_PASS;
}
