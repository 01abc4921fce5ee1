/* SPDX-License-Identifier: MIT */
/* vcpu/x86_64/insn: privileged instructions, faults, decoding, counters, disassembly. */
#include "insn_fixture.h"

static void test_breakpoints(void **state)
{
    struct guest *guest = *state;

    RUN(guest, 0xcc);
    assert_exception(guest, 3);
    assert_false(guest->outcome.has_error_code);
    assert_int_equal(guest->cpu.rip, GUEST_CODE + 1); /* a trap */
    RUN(guest, 0xf1);
    assert_exception(guest, 1);
    assert_true(guest->outcome.has_payload);
    assert_int_equal(guest->outcome.payload, 0);
    assert_int_equal(guest->cpu.rip, GUEST_CODE + 2);
    RUN(guest, 0x0f, 0x0b); /* ud2 */
    assert_exception(guest, 6);
    assert_int_equal(guest->cpu.rip, GUEST_CODE + 2); /* a fault */
}

static void test_smap(void **state)
{
    struct guest *guest = *state;

    assert_int_equal(RUN(guest, 0x0f, 0x01, 0xcb), INSN_DONE); /* stac */
    assert_int_equal(guest->cpu.rflags, 0x40202);
    assert_int_equal(RUN(guest, 0x0f, 0x01, 0xca), INSN_DONE); /* clac */
    assert_int_equal(guest->cpu.rflags, 0x202);
    assert_int_equal(guest->cpu.rip, GUEST_CODE + 6);
    guest->cpu.cpl = 3;
    RUN(guest, 0x0f, 0x01, 0xca);
    assert_exception(guest, 6);
}

static void test_time_stamp(void **state)
{
    struct guest *guest = *state;

    guest->tsc = UINT64_C(0x123456789abcdef0);
    guest->tsc_aux = 7;
    assert_int_equal(RUN(guest, 0x0f, 0x01, 0xf9), INSN_DONE); /* rdtscp */
    assert_int_equal(guest->cpu.gpr[INSN_RAX], 0x9abcdef0);
    assert_int_equal(guest->cpu.gpr[INSN_RDX], 0x12345678);
    assert_int_equal(guest->cpu.gpr[INSN_RCX], 7);
    assert_int_equal(RUN(guest, 0xf3, 0x0f, 0xc7, 0xfe), INSN_DONE); /* rdpid %rsi */
    assert_int_equal(guest->cpu.gpr[INSN_RSI], 7);
    guest->cpu.cpl = 3;
    guest->cpu.cr4 |= 4; /* TSD */
    RUN(guest, 0x0f, 0x01, 0xf9);
    assert_exception(guest, 13);
}

static void test_segment_bases(void **state)
{
    struct guest *guest = *state;

    guest->cpu.gpr[INSN_RAX] = UINT64_C(0xffff888012345678);
    assert_int_equal(RUN(guest, 0xf3, 0x48, 0x0f, 0xae, 0xd0), INSN_DONE); /* wrfsbase */
    assert_true(guest->cpu.segments_changed);
    assert_int_equal(guest->cpu.segment[INSN_FS].base, guest->cpu.gpr[INSN_RAX]);
    guest->cpu.segment[INSN_GS].base = 0x1111222233334444;
    assert_int_equal(RUN(guest, 0xf3, 0x48, 0x0f, 0xae, 0xcb),
                     INSN_DONE); /* rdgsbase rbx */
    assert_int_equal(guest->cpu.gpr[INSN_RBX], 0x1111222233334444);
    assert_false(guest->cpu.segments_changed);
    guest->cpu.gpr[INSN_RAX] = UINT64_C(1) << 60;
    RUN(guest, 0xf3, 0x48, 0x0f, 0xae, 0xd8); /* wrgsbase: not canonical */
    assert_exception(guest, 13);
    guest->cpu.cr4 &= ~(UINT64_C(1) << 16);
    RUN(guest, 0xf3, 0x48, 0x0f, 0xae, 0xcb);
    assert_exception(guest, 6);
    guest->kernel_gs = 0x5000;
    assert_int_equal(RUN(guest, 0x0f, 0x01, 0xf8), INSN_DONE); /* swapgs */
    assert_int_equal(guest->cpu.segment[INSN_GS].base, 0x5000);
    assert_int_equal(guest->kernel_gs, 0x1111222233334444);
}

static void test_cmpxchg16b(void **state)
{
    struct guest *guest = *state;
    uint8_t *at = &guest->memory[GUEST_DATA - GUEST_BASE];
    struct insn_cpu *cpu = &guest->cpu;

    store_le64(at, 1);
    store_le64(at + 8, 2);
    cpu->gpr[INSN_RSI] = GUEST_DATA;
    cpu->gpr[INSN_RAX] = 1;
    cpu->gpr[INSN_RDX] = 3;
    cpu->gpr[INSN_RBX] = 4;
    cpu->gpr[INSN_RCX] = 5;
    assert_int_equal(RUN(guest, 0xf0, 0x48, 0x0f, 0xc7, 0x0e), INSN_DONE);
    assert_false(cpu->rflags & 0x40);
    assert_int_equal(cpu->gpr[INSN_RDX], 2);
    assert_int_equal(RUN(guest, 0xf0, 0x48, 0x0f, 0xc7, 0x0e), INSN_DONE);
    assert_true(cpu->rflags & 0x40);
    assert_int_equal(load_le64(at), 4);
    assert_int_equal(load_le64(at + 8), 5);
    cpu->gpr[INSN_RSI] = GUEST_DATA + 8;
    RUN(guest, 0xf0, 0x48, 0x0f, 0xc7, 0x0e); /* not aligned */
    assert_exception(guest, 13);
    cpu->gpr[INSN_RSI] = GUEST_DATA;
    guest->read_only_from = GUEST_DATA;
    RUN(guest, 0xf0, 0x48, 0x0f, 0xc7, 0x0e);
    assert_exception(guest, 14);
    assert_int_equal(guest->outcome.error_code, 3);
    assert_int_equal(guest->outcome.payload, GUEST_DATA);
}

static void test_invpcid(void **state)
{
    struct guest *guest = *state;

    guest->cpu.gpr[INSN_RCX] = GUEST_DATA;
    guest->cpu.gpr[INSN_RAX] = 2;
    memset(&guest->memory[GUEST_DATA - GUEST_BASE], 0, 16);
    assert_int_equal(RUN(guest, 0x66, 0x0f, 0x38, 0x82, 0x01), INSN_DONE);
    assert_int_equal(guest->flushes, 1);
    guest->cpu.gpr[INSN_RAX] = 4; /* no such type */
    RUN(guest, 0x66, 0x0f, 0x38, 0x82, 0x01);
    assert_exception(guest, 13);
    assert_int_equal(guest->flushes, 1);
}

static void test_nothing_to_do(void **state)
{
    struct guest *guest = *state;

    assert_int_equal(RUN(guest, 0x0f, 0xae, 0xf0), INSN_DONE);       /* mfence */
    assert_int_equal(RUN(guest, 0x0f, 0x01, 0xe8), INSN_DONE);       /* serialize */
    assert_int_equal(RUN(guest, 0xf3, 0x0f, 0x1e, 0xfa), INSN_DONE); /* endbr64 */
    assert_int_equal(RUN(guest, 0x0f, 0x18, 0x08), INSN_DONE);       /* prefetcht0 */
    assert_int_equal(RUN(guest, 0xf3, 0x90), INSN_DONE);             /* pause */
    assert_int_equal(RUN(guest, 0x0f, 0x09), INSN_DONE);             /* wbinvd */
    assert_int_equal(RUN(guest, 0x66, 0x0f, 0xae, 0xf1), INSN_DONE); /* tpause */
    guest->cpu.gpr[INSN_RAX] = GUEST_DATA;
    assert_int_equal(RUN(guest, 0x66, 0x0f, 0xae, 0x38), INSN_DONE); /* clflushopt */
    guest->cpu.gpr[INSN_RAX] = 0x10;
    RUN(guest, 0x66, 0x0f, 0xae, 0x38);
    assert_exception(guest, 14);
    assert_int_equal(guest->outcome.payload, 0x10);
}

static void test_descriptors(void **state)
{
    struct guest *guest = *state;
    struct insn_cpu *cpu = &guest->cpu;
    uint8_t *gdt = &guest->memory[0x2000];

    cpu->gdt_base = GUEST_BASE + 0x2000;
    cpu->gdt_limit = 0x3f;
    store_le64(gdt + 0x08, UINT64_C(0x00cf92000000ffff)); /* writable data, 4 GiB */
    store_le64(gdt + 0x10, UINT64_C(0x00af9a000000ffff)); /* 64-bit code */
    store_le64(gdt + 0x18, UINT64_C(0x0040f60000001234)); /* ring 3, 16-bit-ish, down */
    store_le64(gdt + 0x20, UINT64_C(0x0000890000000067)); /* an available TSS */
    store_le64(gdt + 0x28, UINT64_C(0x0000860000000000)); /* an interrupt gate */
    cpu->gpr[INSN_RAX] = 0x08;
    assert_int_equal(RUN(guest, 0x0f, 0x00, 0xe8), INSN_DONE); /* verw %ax */
    assert_true(cpu->rflags & 0x40);
    cpu->gpr[INSN_RAX] = 0x10;
    RUN(guest, 0x0f, 0x00, 0xe8);
    assert_false(cpu->rflags & 0x40);
    RUN(guest, 0x0f, 0x00, 0xe0); /* verr %ax */
    assert_true(cpu->rflags & 0x40);
    RUN(guest, 0x0f, 0x03, 0xd8); /* lsl %eax, %ebx */
    assert_true(cpu->rflags & 0x40);
    assert_int_equal(cpu->gpr[INSN_RBX], 0xffffffff);
    RUN(guest, 0x0f, 0x02, 0xd8); /* lar %eax, %ebx */
    assert_int_equal(cpu->gpr[INSN_RBX], 0xaf9a00);
    cpu->gpr[INSN_RAX] = 0x1b;
    RUN(guest, 0x0f, 0x03, 0xd8);
    assert_int_equal(cpu->gpr[INSN_RBX], 0x1234);
    cpu->gpr[INSN_RAX] = 0x20;
    RUN(guest, 0x0f, 0x03, 0xd8);
    assert_int_equal(cpu->gpr[INSN_RBX], 0x67);
    cpu->gpr[INSN_RAX] = 0x28;
    RUN(guest, 0x0f, 0x03, 0xd8);
    assert_false(cpu->rflags & 0x40);
    assert_int_equal(cpu->gpr[INSN_RBX], 0x67); /* unchanged */
    cpu->gpr[INSN_RAX] = 0x40;                  /* beyond the limit */
    RUN(guest, 0x0f, 0x00, 0xe0);
    assert_false(cpu->rflags & 0x40);
    cpu->cr0 &= ~UINT64_C(1);
    RUN(guest, 0x0f, 0x00, 0xe0); /* real mode has none of this */
    assert_int_not_equal(guest->outcome.result, INSN_DONE);
}

static void test_memory_faults(void **state)
{
    struct guest *guest = *state;
    struct insn_cpu *cpu = &guest->cpu;

    cpu->gpr[INSN_RAX] = 0x5000;
    cpu->gpr[INSN_RCX] = 77;
    RUN(guest, 0xf3, 0x48, 0x0f, 0xb8, 0x08); /* popcnt (%rax), %rcx */
    assert_exception(guest, 14);
    assert_int_equal(guest->outcome.error_code, 0);
    assert_int_equal(guest->outcome.payload, 0x5000);
    assert_int_equal(cpu->rip, GUEST_CODE);
    assert_int_equal(cpu->gpr[INSN_RCX], 77);
    RUN(guest, 0xf3, 0x0f, 0x11, 0x08); /* movss %xmm1, (%rax): a write */
    assert_exception(guest, 14);
    assert_int_equal(guest->outcome.error_code, 2);
    cpu->gpr[INSN_RAX] = GUEST_DATA;
    guest->read_only_from = GUEST_DATA;
    RUN(guest, 0xf3, 0x0f, 0x11, 0x08);
    assert_exception(guest, 14);
    assert_int_equal(guest->outcome.error_code, 3);
    cpu->gpr[INSN_RAX] = UINT64_C(1) << 50;
    RUN(guest, 0xf3, 0x48, 0x0f, 0xb8, 0x08); /* not canonical */
    assert_exception(guest, 13);
    assert_true(guest->outcome.has_error_code);
    cpu->gpr[INSN_RSP] = UINT64_C(1) << 50;
    RUN(guest, 0xf3, 0x48, 0x0f, 0xb8, 0x0c, 0x24); /* the same by RSP */
    assert_exception(guest, 12);
    cpu->gpr[INSN_RAX] = GUEST_DEVICE; /* a device: nothing that we could complete */
    assert_int_equal(RUN(guest, 0xf3, 0x48, 0x0f, 0xb8, 0x08), INSN_UNHANDLED);
    assert_string_equal(guest->outcome.text, "popcnt rcx, qword ptr [rax]");
    assert_int_equal(cpu->rip, GUEST_CODE);
}

static void test_addressing(void **state)
{
    struct guest *guest = *state;
    struct insn_cpu *cpu = &guest->cpu;

    store_le64(&guest->memory[0x1100], 0xff);
    cpu->segment[INSN_GS].base = GUEST_DATA;
    cpu->gpr[INSN_RCX] = 0x80;
    RUN(guest, 0x65, 0xf3, 0x48, 0x0f, 0xb8, 0x04, 0x4d, 0, 0, 0, 0); /* gs:(,rcx,2) */
    assert_int_equal(guest->outcome.result, INSN_DONE);
    assert_int_equal(cpu->gpr[INSN_RAX], 8);
    cpu->gpr[INSN_RAX] = 0;
    /* popcnt rip-relative: GUEST_CODE + 11 + 9 bytes - 0x2f14 = 0x101100 */
    RUN(guest, 0xf3, 0x48, 0x0f, 0xb8, 0x05, 0xec, 0xd0, 0xff, 0xff);
    assert_int_equal(guest->outcome.result, INSN_DONE);
    assert_int_equal(cpu->gpr[INSN_RAX], 8);
    cpu->gpr[INSN_RDX] = UINT64_C(0xffffffff00000000) | (GUEST_DATA + 0x100);
    cpu->gpr[INSN_RAX] = 0;
    RUN(guest, 0x67, 0xf3, 0x48, 0x0f, 0xb8, 0x02); /* 32-bit address */
    assert_int_equal(cpu->gpr[INSN_RAX], 8);
    cpu->gpr[INSN_RSP] = 0x7; /* RSP as a value */
    RUN(guest, 0xf3, 0x48, 0x0f, 0xb8, 0xc4);
    assert_int_equal(cpu->gpr[INSN_RAX], 3);
    RUN(guest, 0xf3, 0x48, 0x0f, 0xb8, 0xe0); /* and as the result */
    assert_int_equal(cpu->gpr[INSN_RSP], 2);
    assert_int_equal(cpu->gpr[INSN_RAX], 3);
    cpu->gpr[INSN_RSP] = 0xf0;
    cpu->gpr[INSN_RAX] = 0x3c;
    RUN(guest, 0xc4, 0xe2, 0xd8, 0xf2, 0xc8); /* andn %rax, %rsp, %rcx */
    assert_int_equal(cpu->gpr[INSN_RCX], 0x0c);
}

static void test_other_modes(void **state)
{
    struct guest *guest = *state;
    struct insn_cpu *cpu = &guest->cpu;

    guest_make_32bit(guest);
    cpu->gpr[INSN_RAX] = 0xffff;
    assert_int_equal(RUN(guest, 0xf3, 0x0f, 0xb8, 0xc0), INSN_DONE); /* popcnt eax */
    assert_int_equal(cpu->gpr[INSN_RAX], 16);
    cpu->segment[INSN_DS].limit = 0xfff;
    cpu->segment[INSN_DS].base = GUEST_DATA;
    store_le32(&guest->memory[0x1ffc], 0x101);
    cpu->gpr[INSN_RBX] = 0xffc;
    assert_int_equal(RUN(guest, 0xf3, 0x0f, 0xb8, 0x03), INSN_DONE);
    assert_int_equal(cpu->gpr[INSN_RAX], 2);
    cpu->gpr[INSN_RBX] = 0xffd; /* one byte past the limit */
    RUN(guest, 0xf3, 0x0f, 0xb8, 0x03);
    assert_exception(guest, 13);
    cpu->gpr[INSN_RBX] = 0xff0;
    cpu->segment[INSN_DS].type = 1; /* read only */
    RUN(guest, 0xf3, 0x0f, 0x11, 0x03);
    assert_exception(guest, 13);
    assert_int_equal(RUN(guest, 0xc4, 0xe2, 0x78, 0xf2, 0xc8), INSN_DONE); /* andn */

    cpu->cr0 &= ~UINT64_C(1); /* real mode, 16-bit operands */
    cpu->segment[INSN_CS].db = false;
    cpu->segment[INSN_CS].base = GUEST_BASE;
    cpu->rip = GUEST_CODE - GUEST_BASE;
    cpu->gpr[INSN_RAX] = 0x12340000;
    cpu->gpr[INSN_RCX] = 0x5678f00f;
    insn_complete(guest->engine, cpu, &guest_ops, guest,
                  (const uint8_t[]){ 0xf3, 0x0f, 0xb8, 0xc1 }, 4, &guest->outcome);
    assert_int_equal(guest->outcome.result, INSN_DONE);
    assert_int_equal(cpu->gpr[INSN_RAX], 0x12340008); /* popcnt ax, cx */
    insn_complete(guest->engine, cpu, &guest_ops, guest,
                  (const uint8_t[]){ 0x66, 0xf3, 0x0f, 0xb8, 0xc1 }, 5, &guest->outcome);
    assert_int_equal(cpu->gpr[INSN_RAX], 16 - 1 + 1); /* popcnt eax, ecx: 4+4+8 */
}

static void test_fpu_unavailable(void **state)
{
    struct guest *guest = *state;
    struct insn_cpu *cpu = &guest->cpu;

    cpu->cr0 |= 8; /* TS */
    RUN(guest, 0xdb, 0xe3);
    assert_exception(guest, 7);
    RUN(guest, 0x0f, 0x57, 0xc0); /* xorps */
    assert_exception(guest, 7);
    cpu->cr0 = (cpu->cr0 & ~UINT64_C(8)) | 4; /* EM */
    RUN(guest, 0xd9, 0xe8);
    assert_exception(guest, 7);
    RUN(guest, 0x0f, 0x57, 0xc0);
    assert_exception(guest, 6);
    cpu->cr0 &= ~UINT64_C(4);
    cpu->cr4 &= ~UINT64_C(0x200); /* OSFXSR */
    RUN(guest, 0x0f, 0x57, 0xc0);
    assert_exception(guest, 6);
    cpu->xcr0 = 3;
    RUN(guest, 0xc5, 0xf8, 0x57, 0xc0); /* vxorps */
    assert_exception(guest, 6);
    cpu->xcr0 = 7;
    RUN(guest, 0x62, 0xf1, 0x7c, 0x48, 0x57, 0xc0); /* vxorps zmm */
    assert_exception(guest, 6);
}

static void test_fpu_exceptions(void **state)
{
    struct guest *guest = *state;

    store_le16(guest->image + 0, 0x37b); /* zero divide unmasked */
    guest->image[512] = 3;
    assert_int_equal(RUN(guest, 0xd9, 0xe8), INSN_DONE); /* fld1 */
    assert_int_equal(RUN(guest, 0xd9, 0xee), INSN_DONE); /* fldz */
    assert_int_equal(RUN(guest, 0xde, 0xf9), INSN_DONE); /* fdivp: pending now */
    assert_int_equal(load_le16(guest->image + 2) & 0x84, 0x84);
    assert_true(load_le64(guest->image + 8) == 0 ||
                load_le64(guest->image + 8) ==
                    GUEST_CODE + 4); /* never an address of ours */
    RUN(guest, 0x9b);                /* fwait reports it */
    assert_exception(guest, 16);
    assert_int_equal(RUN(guest, 0xdf, 0xe0), INSN_DONE); /* fnstsw: no wait */
    assert_int_equal(guest->cpu.gpr[INSN_RAX] & 0x84, 0x84);
    assert_int_equal(RUN(guest, 0xdb, 0xe2), INSN_DONE); /* fnclex */
    assert_int_equal(RUN(guest, 0x9b), INSN_DONE);

    guest_reset(guest);
    store_le64(guest->image + 160, 0x3ff0000000000000); /* 1.0 / 0.0 */
    store_le64(guest->image + 512, 2);
    assert_int_equal(RUN(guest, 0xf2, 0x0f, 0x5e, 0xc1), INSN_DONE);
    assert_int_equal(load_le64(guest->image + 160), 0x7ff0000000000000);
    assert_int_equal(load_le32(guest->image + 24), 0x1f84);
    store_le64(guest->image + 160, 0x3ff0000000000000);
    store_le32(guest->image + 24, 0x1d80); /* zero divide unmasked */
    RUN(guest, 0xf2, 0x0f, 0x5e, 0xc1);
    assert_exception(guest, 19);
    assert_true(guest->cpu.fpu_changed);
    assert_int_equal(load_le64(guest->image + 160), 0x3ff0000000000000);
    assert_int_equal(load_le32(guest->image + 24), 0x1d84);
    guest->cpu.gpr[INSN_RAX] = GUEST_DATA + 8;
    RUN(guest, 0x66, 0x0f, 0x6f, 0x00); /* movdqa wants 16 */
    assert_exception(guest, 13);
    assert_int_equal(RUN(guest, 0xf3, 0x0f, 0x6f, 0x00), INSN_DONE);
}

/* What Linux's check for the FDIV bug runs. */
static void test_fdiv_check(void **state)
{
    struct guest *guest = *state;
    uint8_t *data = &guest->memory[GUEST_DATA - GUEST_BASE];
    double x = 4195835.0;
    double y = 3145727.0;

    memcpy(data, &x, 8);
    memcpy(data + 8, &y, 8);
    store_le32(data + 16, 1234);
    guest->cpu.gpr[INSN_RDI] = GUEST_DATA;
    RUN(guest, 0xdb, 0xe3);       /* fninit */
    RUN(guest, 0xdd, 0x07);       /* fldl x */
    RUN(guest, 0xdc, 0x77, 0x08); /* fdivl y */
    RUN(guest, 0xdc, 0x4f, 0x08); /* fmull y */
    RUN(guest, 0xdd, 0x07);       /* fldl x */
    RUN(guest, 0xde, 0xe1);       /* fsubrp */
    RUN(guest, 0xdb, 0x5f, 0x10); /* fistpl */
    assert_int_equal(guest->outcome.result, INSN_DONE);
    RUN(guest, 0x9b);
    RUN(guest, 0xdb, 0xe3);
    assert_int_equal(load_le32(data + 16), 0);
}

static void test_fetch(void **state)
{
    struct guest *guest = *state;
    const uint8_t code[] = { 0xf3, 0x48, 0x0f, 0xb8, 0xc1 };

    memcpy(&guest->memory[GUEST_CODE - GUEST_BASE], code, sizeof(code));
    guest->cpu.gpr[INSN_RCX] = 3;
    insn_complete(guest->engine, &guest->cpu, &guest_ops, guest, code, 2,
                  &guest->outcome);
    assert_int_equal(guest->outcome.result, INSN_DONE);
    assert_int_equal(guest->cpu.gpr[INSN_RAX], 2);
    guest->cpu.rip = 0x3000;
    insn_complete(guest->engine, &guest->cpu, &guest_ops, guest, NULL, 0,
                  &guest->outcome);
    assert_exception(guest, 14);
    assert_int_equal(guest->outcome.error_code, 16);
    assert_int_equal(guest->outcome.payload, 0x3000);
    assert_int_equal(guest->cpu.rip, 0x3000);
}

static void test_unhandled(void **state)
{
    struct guest *guest = *state;
    struct insn_cpu before;

    guest->cpu.gpr[INSN_RAX] = GUEST_DATA;
    before = guest->cpu;
    assert_int_equal(RUN(guest, 0x0f, 0x30), INSN_UNHANDLED);
    assert_string_equal(guest->outcome.text, "wrmsr");
    assert_int_equal(RUN(guest, 0xf0, 0x48, 0x01, 0x08), INSN_UNHANDLED);
    assert_string_equal(guest->outcome.text, "lock add qword ptr [rax], rcx");
    assert_int_equal(RUN(guest, 0xe8, 1, 0, 0, 0), INSN_UNHANDLED);       /* call */
    assert_int_equal(RUN(guest, 0x0f, 0x05), INSN_UNHANDLED);             /* syscall */
    assert_int_equal(RUN(guest, 0x66, 0x0f, 0xf7, 0xc1), INSN_UNHANDLED); /* maskmovdqu */
    assert_int_equal(RUN(guest, 0x06, 0x06, 0x06), INSN_UNHANDLED);
    assert_string_equal(guest->outcome.text, "(bad)");
    assert_memory_equal(&before, &guest->cpu, sizeof(before));
}

static void test_single_step(void **state)
{
    struct guest *guest = *state;

    guest->cpu.rflags |= 0x10100; /* TF, RF */
    assert_int_equal(RUN(guest, 0x0f, 0xae, 0xe8), INSN_DONE);
    assert_true(guest->outcome.single_step);
    assert_int_equal(guest->cpu.rflags, 0x302);
}

static void test_counts(void **state)
{
    struct guest *guest = *state;
    struct insn_engine *sum;
    struct insn_count counts[2];
    uint64_t total;

    for (unsigned i = 0; i < 3; i++)
        RUN(guest, 0x0f, 0xae, 0xe8); /* lfence */
    RUN(guest, 0xcc);
    RUN(guest, 0xcc);
    RUN(guest, 0x9b);
    RUN(guest, 0x0f, 0x30); /* not completed, not counted */
    assert_int_equal(insn_counts(guest->engine, counts, 2, &total), 2);
    assert_int_equal(total, 6);
    assert_string_equal(counts[0].mnemonic, "lfence");
    assert_int_equal(counts[0].count, 3);
    assert_string_equal(counts[1].mnemonic, "int3");
    assert_int_equal(counts[1].count, 2);
    assert_int_equal(insn_engine_create(&sum), 0);
    insn_counts_add(sum, guest->engine);
    insn_counts_add(sum, guest->engine);
    insn_counts(sum, NULL, 0, &total);
    assert_int_equal(total, 12);
    insn_engine_destroy(sum);
    insn_engine_destroy(NULL);
}

static void test_disassemble(void **state)
{
    const uint8_t code[] = { 0x48, 0x89, 0xe5, 0xcc };
    char text[64];

    assert_int_equal(insn_disassemble(code, 4, 0x1000, 64, text, sizeof(text)), 3);
    assert_string_equal(text, "mov rbp, rsp");
    assert_int_equal(insn_disassemble(code, 4, 0x1000, 32, text, sizeof(text)), 1);
    assert_string_equal(text, "dec eax");
    assert_int_equal(insn_disassemble(code, 2, 0x1000, 64, text, sizeof(text)), -EINVAL);
    assert_string_equal(text, "(bad)");
    assert_int_equal(insn_disassemble(code, 4, 0x1000, 64, text, 5), -EINVAL);
}

/* Bytes that a hostile guest might choose: whatever they are, the process survives and
 * nothing but guest state changes. */
static void test_random_code(void **state)
{
    struct guest *guest = *state;
    static const uint8_t maps[][3] = { { 0x0f }, { 0x0f, 0x38 }, { 0x0f, 0x3a }, { 0 } };
    const char *longer =
        getenv("INSN_RANDOM_ROUNDS"); /* default: a fraction of a second */
    unsigned long rounds = longer ? strtoul(longer, NULL, 10) : 200000;
    uint64_t seed = 42 + rounds;
    uint64_t total;

    for (unsigned n = 0; n < rounds; n++) {
        uint64_t r = fixture_random(&seed);
        uint8_t code[15];
        size_t at = 0;

        if (n % 1000 == 0) {
            guest_reset(guest);
            guest->image[512] = (uint8_t)(r >> 40 & 7);
            if (r >> 48 & 1)
                guest_make_32bit(guest);
            guest->cpu.segment[INSN_CS].db ^= r >> 49 & 1; /* 16-bit code, or undefined */
        }
        guest->cpu.rip = GUEST_CODE;
        guest->cpu.gpr[r >> 32 & 15] = GUEST_DATA + (r >> 36 & 0xff);
        store_le64(code, fixture_random(&seed));
        store_le64(code + 7, fixture_random(&seed));
        if (r & 1)
            code[at++] = (const uint8_t[]){ 0x66, 0xf2, 0xf3, 0x67 }[r >> 1 & 3];
        if (r & 8)
            code[at++] = (uint8_t)(0x40 | (r >> 4 & 15));
        switch (r >> 8 & 7) {
        case 0:
            code[at] = 0xc5;
            break;
        case 1:
            code[at] = 0xc4;
            code[at + 1] = (uint8_t)((code[at + 1] & 0xe0) | (1 + (r >> 12) % 3));
            break;
        case 2:
            code[at] = 0x62;
            code[at + 1] = (uint8_t)((code[at + 1] & 0xf0) | (1 + (r >> 12) % 3));
            code[at + 2] |= 4;
            break;
        case 3:
            code[at] = (uint8_t)(0xd8 + (r >> 12 & 7));
            break;
        default:
            memcpy(&code[at], maps[r >> 12 & 3], (r >> 12 & 3) == 0 ? 1 : 2);
            break;
        }
        guest_run(guest, code, sizeof(code));
        if (guest->outcome.computing)
            insn_burst(guest->engine, &guest->cpu, &guest_ops, guest, 20);
    }
    insn_counts(guest->engine, NULL, 0, &total);
    print_message("%lu of %lu completed\n", total, rounds);
    assert_true(total > rounds / 10);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, guest_setup, guest_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_breakpoints),    TEST(test_smap),
        TEST(test_time_stamp),     TEST(test_segment_bases),
        TEST(test_cmpxchg16b),     TEST(test_invpcid),
        TEST(test_nothing_to_do),  TEST(test_descriptors),
        TEST(test_memory_faults),  TEST(test_addressing),
        TEST(test_other_modes),    TEST(test_fpu_unavailable),
        TEST(test_fpu_exceptions), TEST(test_fdiv_check),
        TEST(test_fetch),          TEST(test_unhandled),
        TEST(test_single_step),    TEST(test_counts),
        TEST(test_random_code),    cmocka_unit_test(test_disassemble),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
