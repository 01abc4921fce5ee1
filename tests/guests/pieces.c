/* SPDX-License-Identifier: MIT */
/* Accesses that KVM takes in several pieces, for ever: 16 bytes at once and 8 across pages of
 * MMIO, and repeated port accesses. tests/api/test_pieces.c has the device and looks for holes. */
#include "vmm/guest/guest.h"

#define DEVICE     0xd8000000ull
#define WIDE       (DEVICE + 0x10)  /* 16 bytes: twice the round */
#define CROSSED    (DEVICE + 0xffc) /* 8 bytes across pages: twice the round */
#define READ       (DEVICE + 0x20)  /* 16 bytes: twice the same */
#define PORT       0x300
#define CR4_OSFXSR (1ull << 9)

int guest_main(int argc, char **argv)
{
    static const uint8_t bytes[8] = { 0, 1, 2, 3, 4, 5, 6, 7 };
    uint64_t cr4, pair[2] __attribute__((aligned(16)));
    uint64_t round;

    __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
    __asm__ volatile("mov %0, %%cr4" ::"r"(cr4 | CR4_OSFXSR));
    print("ready\n");
    for (round = 0;; round++) {
        const uint8_t *from = bytes;
        uint64_t count = sizeof(bytes);

        pair[0] = pair[1] = round;
        __asm__ volatile("movups %0, %%xmm0\n\tmovups %%xmm0, (%1)" ::"m"(pair), "r"(WIDE)
                         : "memory");
        __asm__ volatile("mov %0, (%1)" ::"r"(round << 32 | (uint32_t)round), "r"(CROSSED)
                         : "memory");
        __asm__ volatile("movups (%1), %%xmm0\n\tmovups %%xmm0, %0"
                         : "=m"(pair)
                         : "r"(READ)
                         : "memory");
        if (pair[0] != pair[1])
            guest_fail("read %lx and %lx", pair[0], pair[1]);
        __asm__ volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(PORT) : "memory");
    }
}
