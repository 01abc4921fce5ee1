/* SPDX-License-Identifier: MIT */
/* vcpu/x86_64/insn: FXSAVE, the XSAVE family and the control registers of FPU state. */
#include "insn_fixture.h"

#define AREA GUEST_DATA

enum {
    MODRM_FXSAVE = 0x00,
    MODRM_FXRSTOR = 0x08,
    MODRM_LDMXCSR = 0x10,
    MODRM_STMXCSR = 0x18,
    MODRM_XSAVE = 0x20,
    MODRM_XRSTOR = 0x28,
    MODRM_XSAVEOPT = 0x30,
};

static uint8_t *area(struct guest *guest)
{
    return &guest->memory[AREA - GUEST_BASE];
}

/* 0F AE /n with REX.W and (RAX holds the mask) the area at RSI. */
static enum insn_result run_ae(struct guest *guest, uint8_t modrm, uint64_t mask)
{
    guest->cpu.gpr[INSN_RSI] = AREA;
    guest->cpu.gpr[INSN_RAX] = mask & 0xffffffff;
    guest->cpu.gpr[INSN_RDX] = mask >> 32;
    return RUN(guest, 0x48, 0x0f, 0xae, (uint8_t)(modrm | 6));
}

/* 0F C7 /n: XRSTORS 3, XSAVEC 4, XSAVES 5 */
static enum insn_result run_c7(struct guest *guest, uint8_t n, uint64_t mask)
{
    guest->cpu.gpr[INSN_RSI] = AREA;
    guest->cpu.gpr[INSN_RAX] = mask & 0xffffffff;
    guest->cpu.gpr[INSN_RDX] = mask >> 32;
    return RUN(guest, 0x48, 0x0f, 0xc7, (uint8_t)(n << 3 | 6));
}

/* Distinguishable contents in every component of @used. */
static void image_fill(struct guest *guest, uint64_t used)
{
    for (unsigned i = 32; i < 416; i++)
        guest->image[i] = (uint8_t)(i * 7 + i / 256);
    for (unsigned i = 32; i < 160; i += 16)
        memset(&guest->image[i + 10], 0, 6); /* reserved */
    for (unsigned i = 576; i < 2688; i++)
        guest->image[i] = (uint8_t)(i * 5 + i / 256);
    store_le16(guest->image, 0x27f);
    store_le64(guest->image + 8, 0xffff800011112222);
    store_le32(guest->image + 24, 0x9fc0);
    store_le64(guest->image + 512, used);
}

/* The processor's own XSAVE of the same state, for comparison. */
static void native_xsave(uint8_t *image, uint8_t *to, uint64_t mask, bool compact)
{
    static _Alignas(64) uint8_t host[IMAGE_SIZE];
    uint32_t low = (uint32_t)mask;

    if (compact)
        __asm__ volatile("xsave64 %0\n\txrstor64 %2\n\txsavec64 %1\n\txrstor64 %0"
                         : "+m"(host), "+m"(*(uint8_t(*)[IMAGE_SIZE])to)
                         : "m"(*(uint8_t(*)[IMAGE_SIZE])image), "a"(low), "d"(0));
    else
        __asm__ volatile("xsave64 %0\n\txrstor64 %2\n\txsave64 %1\n\txrstor64 %0"
                         : "+m"(host), "+m"(*(uint8_t(*)[IMAGE_SIZE])to)
                         : "m"(*(uint8_t(*)[IMAGE_SIZE])image), "a"(low), "d"(0));
}

static void assert_area_equal(const uint8_t *ours, const uint8_t *native, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (ours[i] != native[i])
            fail_msg("byte %zu is %#x, natively %#x", i, ours[i], native[i]);
    }
}

static void test_xsave_native(void **state)
{
    struct guest *guest = *state;
    static _Alignas(64) uint8_t native[IMAGE_SIZE];
    uint64_t full = guest->cpu.xcr0;
    const uint64_t masks[] = {
        1, 2, 3, 4, 5, 6, 7, full, full & ~UINT64_C(2), full & 0xe4
    };

    for (size_t i = 0; i < ARRAY_SIZE(masks) * 2; i++) {
        uint64_t mask = masks[i / 2] & full;

        image_fill(guest, i & 1 ? full : full & 0x45);
        /* What is not written has to stay. */
        memset(native, 0xa5, sizeof(native));
        memset(area(guest), 0xa5, 3072);
        memset(native + 512, 0, 64); /* XSAVE merges into the header */
        memset(area(guest) + 512, 0, 64);
        native_xsave(guest->image, native, mask, false);
        assert_int_equal(run_ae(guest, MODRM_XSAVE, mask), INSN_DONE);
        assert_area_equal(area(guest), native, 2688);
    }
}

static void test_xsavec_native(void **state)
{
    struct guest *guest = *state;
    static _Alignas(64) uint8_t native[IMAGE_SIZE];
    uint64_t full = guest->cpu.xcr0;
    const uint64_t masks[] = { 1, 2, 3, 4, 5, 7, full, full & ~UINT64_C(2), full & 0xe4 };

    for (size_t i = 0; i < ARRAY_SIZE(masks); i++) {
        image_fill(guest, full);
        memset(native, 0xa5, sizeof(native));
        memset(area(guest), 0xa5, 3072);
        native_xsave(guest->image, native, masks[i] & full, true);
        assert_int_equal(run_c7(guest, 4, masks[i] & full), INSN_DONE);
        assert_area_equal(area(guest), native, 2688);
    }
}

/* FOP, FIP and FDP, whatever processor this is. 0xa5 is what was there before. */
static void test_x87_pointers(void **state)
{
    const uint64_t kept = UINT64_C(0xa5a5a5a5a5a5a5a5);
    const uint64_t fip = UINT64_C(0xffff800011112222);
    const struct {
        enum insn_x87_pointers pointers;
        bool pending;
        uint64_t saved, restored;
    } rows[] = {
        { INSN_X87_SAVED, false, fip, fip },  { INSN_X87_SAVED, true, fip, fip },
        { INSN_X87_ZEROED, false, 0, fip },   { INSN_X87_ZEROED, true, fip, fip },
        { INSN_X87_KEPT, false, kept, kept }, { INSN_X87_KEPT, true, fip, fip },
    };
    struct guest *guest = *state;

    for (size_t i = 0; i < ARRAY_SIZE(rows) * 2; i++) {
        bool xsave = i & 1;
        typeof(rows[0]) *row = &rows[i / 2];

        insn_x87_pointers_set(guest->engine, row->pointers);
        image_fill(guest, 3);
        if (row->pending) { /* a zero divide, which FCW does not mask */
            store_le16(guest->image, 0x27b);
            store_le16(guest->image + 2, 0x8084);
        }
        memset(area(guest), 0xa5, 512);
        memset(area(guest) + 512, 0, 64);
        assert_int_equal(run_ae(guest, xsave ? MODRM_XSAVE : MODRM_FXSAVE, 3), INSN_DONE);
        assert_int_equal(load_le64(area(guest) + 8), row->saved);
        store_le64(area(guest) + 8, fip);
        store_le64(guest->image + 8, kept);
        assert_int_equal(run_ae(guest, xsave ? MODRM_XRSTOR : MODRM_FXRSTOR, 3),
                         INSN_DONE);
        assert_int_equal(load_le64(guest->image + 8), row->restored);
    }
    assert_int_equal(insn_x87_pointers_of("GenuineIntel", UINT32_MAX), INSN_X87_SAVED);
    assert_int_equal(insn_x87_pointers_of("AuthenticAMD", 4), INSN_X87_ZEROED);
    assert_int_equal(insn_x87_pointers_of("AuthenticAMD", ~4u), INSN_X87_KEPT);
    assert_int_equal(insn_x87_pointers_of("HygonGenuine", ~4u), INSN_X87_KEPT);
}

static void test_round_trip(void **state)
{
    struct guest *guest = *state;
    static uint8_t saved[IMAGE_SIZE];
    uint64_t full = guest->cpu.xcr0;
    const struct {
        bool c7;
        uint8_t save, restore;
    } pairs[] = { { false, MODRM_XSAVE, MODRM_XRSTOR },
                  { false, MODRM_XSAVEOPT, MODRM_XRSTOR },
                  { true, 4, MODRM_XRSTOR },
                  { true, 5, 3 } };

    insn_x87_pointers_set(guest->engine, INSN_X87_SAVED);
    for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
        memset(area(guest), 0, 3072);
        image_fill(guest, full);
        memcpy(saved, guest->image, sizeof(saved));
        if (pairs[i].c7)
            run_c7(guest, pairs[i].save, full);
        else
            run_ae(guest, pairs[i].save, full);
        assert_int_equal(guest->outcome.result, INSN_DONE);
        assert_false(guest->cpu.fpu_changed);
        guest_reset(guest);
        if (pairs[i].restore == 3)
            run_c7(guest, 3, full);
        else
            run_ae(guest, pairs[i].restore, full);
        assert_int_equal(guest->outcome.result, INSN_DONE);
        assert_true(guest->cpu.fpu_changed);
        store_le32(saved + 28, 0xffff);
        assert_area_equal(guest->image, saved, 520);
        for (unsigned c = 576; c < 2688; c++) {
            bool held = c < 832 || (c >= 1088 && (full & 0xe0)); /* AVX; AVX-512 */

            if (held && c < 1088 + 64)
                assert_int_equal(guest->image[c], saved[c]);
        }
    }
}

static void test_initial_components(void **state)
{
    struct guest *guest = *state;

    memset(area(guest), 0, 3072);
    store_le32(area(guest) + 24, 0x1f80);
    image_fill(guest, 7);
    assert_int_equal(run_ae(guest, MODRM_XRSTOR, 5), INSN_DONE); /* header: all initial */
    assert_int_equal(load_le16(guest->image), 0x37f);
    assert_int_equal(load_le64(guest->image + 576), 0);
    assert_int_equal(load_le64(guest->image + 512), 2);
    assert_int_equal(guest->image[160], (uint8_t)(160 * 7)); /* SSE was not asked for */
    assert_int_equal(load_le32(guest->image + 24), 0x1f80);  /* but AVX brings MXCSR */
}

static void test_bad_headers(void **state)
{
    struct guest *guest = *state;
    uint8_t *at = area(guest);

    memset(at, 0, 3072);
    store_le64(at + 512, UINT64_C(1) << 40);
    run_ae(guest, MODRM_XRSTOR, 7);
    assert_exception(guest, 13);
    store_le64(at + 512, 1);
    store_le64(at + 520, 1); /* neither zero nor compacted */
    run_ae(guest, MODRM_XRSTOR, 7);
    assert_exception(guest, 13);
    store_le64(at + 520, UINT64_C(1) << 63 | 2); /* x87 in use but not in the format */
    run_ae(guest, MODRM_XRSTOR, 7);
    assert_exception(guest, 13);
    store_le64(at + 520, 0);
    run_c7(guest, 3, 7); /* XRSTORS wants the compacted form */
    assert_exception(guest, 13);
    store_le64(at + 512, 2);
    store_le32(at + 24, 0x80000000);
    run_ae(guest, MODRM_XRSTOR, 7);
    assert_exception(guest, 13);
    assert_false(guest->cpu.fpu_changed);
    guest->cpu.gpr[INSN_RSI] = AREA + 32;
    RUN(guest, 0x48, 0x0f, 0xae, 0x26);
    assert_exception(guest, 13);
    guest->cpu.gpr[INSN_RSI] =
        GUEST_BASE + GUEST_SIZE - 0x1000 - 640; /* meets a device */
    guest->cpu.gpr[INSN_RAX] = 7;
    assert_int_equal(RUN(guest, 0x48, 0x0f, 0xae, 0x26), INSN_UNHANDLED);
    guest->cpu.cr4 &= ~(UINT64_C(1) << 18);
    run_ae(guest, MODRM_XSAVE, 7);
    assert_exception(guest, 6);
}

static void test_fxsave(void **state)
{
    struct guest *guest = *state;
    static uint8_t saved[IMAGE_SIZE];

    insn_x87_pointers_set(guest->engine, INSN_X87_SAVED);
    image_fill(guest, 3);
    memcpy(saved, guest->image, sizeof(saved));
    memset(area(guest), 0xee, 512);
    assert_int_equal(run_ae(guest, MODRM_FXSAVE, 0), INSN_DONE);
    assert_area_equal(area(guest), saved, 28);
    assert_area_equal(area(guest) + 32, saved + 32, 384);
    assert_int_equal(area(guest)[416], 0xee);
    guest_reset(guest);
    assert_int_equal(run_ae(guest, MODRM_FXRSTOR, 0), INSN_DONE);
    assert_area_equal(guest->image, saved, 28);
    assert_area_equal(guest->image + 32, saved + 32, 384);
    assert_int_equal(load_le64(guest->image + 512), 3);
    store_le32(area(guest) + 24, 0x10000);
    run_ae(guest, MODRM_FXRSTOR, 0);
    assert_exception(guest, 13);
}

static void test_mxcsr(void **state)
{
    struct guest *guest = *state;

    store_le32(area(guest), 0x9fc0);
    assert_int_equal(run_ae(guest, MODRM_LDMXCSR, 0), INSN_DONE);
    assert_int_equal(load_le32(guest->image + 24), 0x9fc0);
    assert_true(guest->image[512] & 2); /* or KVM_SET_XSAVE would drop it */
    store_le32(area(guest), 0);
    assert_int_equal(run_ae(guest, MODRM_STMXCSR, 0), INSN_DONE);
    assert_int_equal(load_le32(area(guest)), 0x9fc0);
    store_le32(area(guest), 0x80001f80);
    run_ae(guest, MODRM_LDMXCSR, 0);
    assert_exception(guest, 13);
}

static enum insn_result run_xsetbv(struct guest *guest, uint64_t value)
{
    guest->cpu.gpr[INSN_RCX] = 0;
    guest->cpu.gpr[INSN_RAX] = value & 0xffffffff;
    guest->cpu.gpr[INSN_RDX] = value >> 32;
    return RUN(guest, 0x0f, 0x01, 0xd1);
}

static void test_xcr0(void **state)
{
    struct guest *guest = *state;
    const uint64_t bad[] = { 0, 2, 5, 0x27, UINT64_C(1) << 62 | 7, 0x23 };

    guest->cpu.xcr0 = 1;
    assert_int_equal(run_xsetbv(guest, 7), INSN_DONE);
    assert_int_equal(guest->cpu.xcr0, 7);
    assert_true(guest->cpu.xcr0_changed);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        run_xsetbv(guest, bad[i]);
        assert_exception(guest, 13);
        assert_int_equal(guest->cpu.xcr0, 7);
    }
    assert_int_equal(RUN(guest, 0x0f, 0x01, 0xd0), INSN_DONE); /* xgetbv */
    assert_int_equal(guest->cpu.gpr[INSN_RAX], 7);
    guest->cpu.gpr[INSN_RCX] = 1;
    store_le64(guest->image + 512, 3);
    assert_int_equal(RUN(guest, 0x0f, 0x01, 0xd0), INSN_DONE);
    assert_int_equal(guest->cpu.gpr[INSN_RAX], 3);
    guest->cpu.gpr[INSN_RCX] = 2;
    RUN(guest, 0x0f, 0x01, 0xd0);
    assert_exception(guest, 13);
    guest->cpu.cpl = 3;
    run_xsetbv(guest, 3);
    assert_exception(guest, 13);
}

/* 32-bit code sees eight registers of each kind and leaves the others alone. */
static void test_32bit(void **state)
{
    struct guest *guest = *state;

    insn_x87_pointers_set(guest->engine, INSN_X87_SAVED);
    image_fill(guest, 7);
    guest_make_32bit(guest);
    guest->cpu.gpr[INSN_RSI] = AREA;
    guest->cpu.gpr[INSN_RAX] = 7;
    guest->cpu.gpr[INSN_RDX] = 0;
    memset(area(guest), 0, 1024);
    assert_int_equal(RUN(guest, 0x0f, 0xae, 0x26), INSN_DONE);
    assert_int_equal(load_le64(area(guest) + 280), load_le64(guest->image + 280));
    assert_int_equal(load_le64(area(guest) + 288), 0);
    assert_int_equal(load_le64(area(guest) + 696), load_le64(guest->image + 696));
    assert_int_equal(load_le64(area(guest) + 704), 0);
    assert_int_equal(load_le64(area(guest) + 8), 0x11112222);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, guest_setup, guest_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_xsave_native),
        TEST(test_xsavec_native),
        TEST(test_x87_pointers),
        TEST(test_round_trip),
        TEST(test_initial_components),
        TEST(test_bad_headers),
        TEST(test_fxsave),
        TEST(test_mxcsr),
        TEST(test_xcr0),
        TEST(test_32bit),
    };

    if (!(fixture_xgetbv() & 4)) {
        print_message("skipped: this processor has no AVX state\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
