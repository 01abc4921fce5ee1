/* SPDX-License-Identifier: MIT */
/* A processor and its memory made of plain arrays, for the tests of vcpu/x86_64/insn/insn.h.
 */
#ifndef TESTS_UNIT_INSN_FIXTURE_H
#define TESTS_UNIT_INSN_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/util.h"
#include "vcpu/x86_64/insn/insn.h"

#define GUEST_BASE   UINT64_C(0x100000) /* linear address of guest.memory */
#define GUEST_SIZE   0x8000
#define GUEST_DATA   (GUEST_BASE + 0x1000)
#define GUEST_CODE   (GUEST_BASE + 0x4000)
#define GUEST_DEVICE (GUEST_BASE + 0x7000) /* a page that is not RAM */
#define IMAGE_SIZE   16384

struct guest {
    struct insn_cpu cpu;
    struct insn_engine *engine;
    struct insn_outcome outcome;
    uint8_t memory[GUEST_SIZE] __attribute__((aligned(4096)));
    uint8_t image[IMAGE_SIZE] __attribute__((aligned(64)));
    uint64_t tsc;
    uint64_t tsc_aux;
    uint64_t kernel_gs;
    unsigned flushes;
    uint64_t read_only_from; /* addresses from here on cannot be written */
};

static inline uint64_t fixture_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static inline int guest_access(struct guest *guest, uint64_t address, size_t size,
                               enum insn_access access, struct insn_fault *fault)
{
    uint64_t last = address + size - 1;
    bool present = address >= GUEST_BASE && last < GUEST_BASE + GUEST_SIZE;

    if (present && last >= GUEST_DEVICE)
        return -ENXIO;
    if (present && (access != INSN_WRITE || last < guest->read_only_from))
        return 0;
    fault->vector = 14;
    fault->error_code = (present ? 1 : 0) | (access == INSN_WRITE ? 2 : 0) |
                        (access == INSN_FETCH ? 16 : 0);
    fault->address = address;
    if (address < GUEST_BASE + GUEST_SIZE && last >= GUEST_BASE + GUEST_SIZE)
        fault->address = GUEST_BASE + GUEST_SIZE;
    return -EFAULT;
}

static inline int guest_read(void *context, uint64_t address, void *buffer, size_t size,
                             enum insn_access access, struct insn_fault *fault)
{
    struct guest *guest = context;
    int error = guest_access(guest, address, size, access, fault);

    if (!error)
        memcpy(buffer, &guest->memory[address - GUEST_BASE], size);
    return error;
}

static inline int guest_write(void *context, uint64_t address, const void *buffer,
                              size_t size, struct insn_fault *fault)
{
    struct guest *guest = context;
    int error = guest_access(guest, address, size, INSN_WRITE, fault);

    if (!error)
        memcpy(&guest->memory[address - GUEST_BASE], buffer, size);
    return error;
}

static inline int guest_exchange16(void *context, uint64_t address, uint64_t expected[2],
                                   const uint64_t desired[2], bool *swapped,
                                   struct insn_fault *fault)
{
    struct guest *guest = context;
    uint8_t *at = &guest->memory[address - GUEST_BASE];
    int error = guest_access(guest, address, 16, INSN_WRITE, fault);

    if (error)
        return error;
    *swapped = !memcmp(at, expected, 16);
    if (*swapped)
        memcpy(at, desired, 16);
    else
        memcpy(expected, at, 16);
    return 0;
}

static inline int guest_fpu_load(void *context, void **image, size_t *size)
{
    struct guest *guest = context;

    *image = guest->image;
    *size = sizeof(guest->image);
    return 0;
}

static inline int guest_msr_read(void *context, uint32_t index, uint64_t *value)
{
    struct guest *guest = context;

    *value = index == 0x10 ? guest->tsc : index == 0xc0000103 ? guest->tsc_aux : 0;
    if (index == 0xc0000102)
        *value = guest->kernel_gs;
    return 0;
}

static inline int guest_msr_write(void *context, uint32_t index, uint64_t value)
{
    struct guest *guest = context;

    if (index != 0xc0000102)
        return -EINVAL;
    guest->kernel_gs = value;
    return 0;
}

static inline int guest_tlb_flush(void *context)
{
    struct guest *guest = context;

    guest->flushes++;
    return 0;
}

static const struct insn_ops guest_ops = {
    .read = guest_read,
    .write = guest_write,
    .exchange16 = guest_exchange16,
    .fpu_load = guest_fpu_load,
    .msr_read = guest_msr_read,
    .msr_write = guest_msr_write,
    .tlb_flush = guest_tlb_flush,
};

static inline uint64_t fixture_xgetbv(void)
{
    uint32_t low, high;

    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* 64-bit kernel mode, everything enabled, FPU state initial. */
static inline void guest_reset(struct guest *guest)
{
    struct insn_cpu *cpu = &guest->cpu;

    memset(cpu, 0, sizeof(*cpu));
    cpu->cr0 = 0x80050033;
    cpu->cr4 = 0x3506f0 | 1u << 18 | 1u << 16;
    cpu->efer = 0xd01;
    cpu->xcr0 = fixture_xgetbv() & 0xe7;
    cpu->rflags = 0x202;
    cpu->rip = GUEST_CODE;
    for (unsigned i = 0; i < INSN_SEGMENT_COUNT; i++) {
        cpu->segment[i].limit = 0xffffffff;
        cpu->segment[i].type = i == INSN_CS ? 11 : 3;
        cpu->segment[i].db = i != INSN_CS;
        cpu->segment[i].l = i == INSN_CS;
        cpu->segment[i].selector = i == INSN_CS ? 0x10 : 0x18;
    }
    memset(guest->image, 0, sizeof(guest->image));
    store_le16(guest->image, 0x37f);
    store_le32(guest->image + 24, 0x1f80);
    store_le32(guest->image + 28, 0xffff);
    guest->read_only_from = UINT64_MAX;
    guest->flushes = 0;
}

static inline void guest_make_32bit(struct guest *guest)
{
    guest->cpu.segment[INSN_CS].l = false;
    guest->cpu.segment[INSN_CS].db = true;
    guest->cpu.efer = 0;
}

static inline int guest_setup(void **state)
{
    struct guest *guest = aligned_alloc(4096, align_up(sizeof(*guest), 4096));

    if (!guest)
        return -1;
    memset(guest, 0, sizeof(*guest));
    if (insn_engine_create(&guest->engine))
        return -1;
    guest_reset(guest);
    *state = guest;
    return 0;
}

static inline int guest_teardown(void **state)
{
    struct guest *guest = *state;

    insn_engine_destroy(guest->engine);
    free(guest);
    return 0;
}

/* Put @size bytes of code at RIP and complete the instruction there. */
static inline enum insn_result guest_run(struct guest *guest, const void *code,
                                         size_t size)
{
    memcpy(&guest->memory[guest->cpu.rip - GUEST_BASE], code, size);
    insn_complete(guest->engine, &guest->cpu, &guest_ops, guest, code, size,
                  &guest->outcome);
    return guest->outcome.result;
}

#define RUN(guest, ...)                                                                  \
    guest_run((guest), (const uint8_t[]){ __VA_ARGS__ },                                 \
              sizeof((const uint8_t[]){ __VA_ARGS__ }))

#define assert_exception(guest, number)                                                  \
    do {                                                                                 \
        assert_int_equal((guest)->outcome.result, INSN_EXCEPTION);                       \
        assert_int_equal((guest)->outcome.vector, (number));                             \
    } while (0)

#endif
