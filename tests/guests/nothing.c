/* SPDX-License-Identifier: MIT */
/* Where nothing is, reads give all ones and writes change nothing; ROM stays as it is. */
#include "vmm/guest/guest.h"
#include "vmm/guest/ports.h"

static void check_ports(void)
{
    static const uint16_t ports[] = { 0x1230, 0x2ff0, 0xeee0, 0x180 };
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(ports); i++) {
        out32(ports[i], 0x12345678);
        CHECK(in8(ports[i]) == 0xff && in16(ports[i]) == 0xffff);
        CHECK(in32(ports[i]) == 0xffffffff);
    }
    print("ports\n");
}

static uint64_t check_user(void *argument)
{
    uint64_t address = *(uint64_t *)argument;

    mmio_write32(address + 8, 0);
    return mmio_read64(address) == UINT64_MAX && in32(0x1230) == 0xffffffff;
}

static void check_mmio(void)
{
    uint64_t addresses[] = { 0xd8000000, 0xdffffff0, 0xfed80000 };
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(addresses); i++) {
        mmio_write64(addresses[i], 0x123456789abcdef0);
        CHECK(mmio_read8(addresses[i]) == 0xff && mmio_read16(addresses[i]) == 0xffff);
        CHECK(mmio_read32(addresses[i]) == 0xffffffff);
        CHECK(mmio_read64(addresses[i]) == UINT64_MAX);
    }
    CHECK(user_run(check_user, &addresses[0], NULL) == 1);
    print("memory, from ring 0 and 3\n");
}

static uint64_t rom_sum(void *argument)
{
    const uint8_t *rom = argument;
    uint64_t sum = 0;
    unsigned i;

    for (i = 0; i < 0x10000; i++)
        sum = sum * 31 + rom[i];
    return sum;
}

static uint64_t rom_write(void *argument)
{
    volatile uint8_t *rom = argument;
    unsigned i;

    for (i = 0; i < 0x10000; i += 0x555)
        rom[i] = (uint8_t)(rom[i] + 1);
    return 0;
}

static void check_rom(uint64_t start)
{
    uint64_t before = user_run(rom_sum, (void *)start, NULL);

    rom_write((void *)start);
    CHECK(user_run(rom_sum, (void *)start, NULL) == before);
    user_run(rom_write, (void *)start, NULL);
    CHECK(user_run(rom_sum, (void *)start, NULL) == before);
    print("ROM at %lx\n", start);
}

int guest_main(int argc, char **argv)
{
    uint64_t rom;

    check_ports();
    check_mmio();
    if (boot_option("rom")) {
        CHECK(number_parse(boot_option("rom"), &rom));
        check_rom(rom);
    }
    return EXIT_PASS;
}
