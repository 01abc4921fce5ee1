/* SPDX-License-Identifier: MIT */
/* Running an instruction of the guest's on the host's processor, on the guest's state. */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "vcpu/x86_64/insn_internal.h"

#define SLOT_SIZE  32
#define CODE_SIZE  ((size_t)INSN_CODE_SLOTS * SLOT_SIZE)
#define DATA_SIZE  ((size_t)4096)
#define OPCODE_RET 0xc3

#define FSW_ES  0x80
#define FSW_ANY 0x3f

#define MXCSR_FLAGS      0x3fu
#define MXCSR_MASKS      0x1f80u
#define MXCSR_MASK_SHIFT 7

_Static_assert(INSN_MAX_LENGTH + 1 <= SLOT_SIZE, "a slot holds an instruction and a RET");
_Static_assert(CODE_SIZE % 4096 == 0, "code is whole pages");

/*
 * One memfd: code pages, mapped readable and executable and, elsewhere, readable and
 * writable; so no mapping is ever both writable and executable. The page that holds the
 * memory operand follows the executable mapping, within reach of RIP-relative addressing.
 */
struct insn_native {
    uint8_t *exec;       /* CODE_SIZE, then DATA_SIZE of data */
    uint8_t *code;       /* the writable alias */
    uint8_t *guest_area; /* XSAVE areas */
    uint8_t *host_area;
    size_t area_size;
    uint64_t components; /* of XSTATE_NATIVE: what this host has */
};

/* What the entry routine loads and stores; offsets are spelled out in the assembly. */
struct native_frame {
    uint64_t gpr[INSN_GPR_COUNT]; /* 0; RSP is left alone */
    uint64_t flags;               /* 128 */
    const void *code;             /* 136 */
    uint64_t components;          /* 144: state to switch, 0: none */
    void *guest_area;             /* 152 */
    void *host_area;              /* 160 */
};

_Static_assert(offsetof(struct native_frame, flags) == 128, "used in assembly");
_Static_assert(offsetof(struct native_frame, code) == 136, "used in assembly");
_Static_assert(offsetof(struct native_frame, components) == 144, "used in assembly");
_Static_assert(offsetof(struct native_frame, guest_area) == 152, "used in assembly");
_Static_assert(offsetof(struct native_frame, host_area) == 160, "used in assembly");

/*
 * Switch to the frame's registers, call its code, store the registers, switch back. The
 * stack stays the host's throughout, so that a signal may arrive at any point; the
 * direction flag, alignment check and trap flag are never the guest's.
 */
void insn_native_enter(struct native_frame *frame);
__asm__(".pushsection .text\n"
        ".type insn_native_enter, @function\n"
        ".hidden insn_native_enter\n"
        "insn_native_enter:\n"
        "    endbr64\n"
        "    push %rbx\n"
        "    push %rbp\n"
        "    push %r12\n"
        "    push %r13\n"
        "    push %r14\n"
        "    push %r15\n"
        "    push %rdi\n"
        "    push 136(%rdi)\n"
        "    mov 144(%rdi), %rax\n"
        "    test %rax, %rax\n"
        "    jz 1f\n"
        "    mov %rax, %rdx\n"
        "    shr $32, %rdx\n"
        "    mov 160(%rdi), %rcx\n"
        "    xsave64 (%rcx)\n"
        "    mov 152(%rdi), %rcx\n"
        "    xrstor64 (%rcx)\n"
        "1:  push 128(%rdi)\n"
        "    popfq\n"
        "    mov 0(%rdi), %rax\n"
        "    mov 8(%rdi), %rcx\n"
        "    mov 16(%rdi), %rdx\n"
        "    mov 24(%rdi), %rbx\n"
        "    mov 40(%rdi), %rbp\n"
        "    mov 48(%rdi), %rsi\n"
        "    mov 64(%rdi), %r8\n"
        "    mov 72(%rdi), %r9\n"
        "    mov 80(%rdi), %r10\n"
        "    mov 88(%rdi), %r11\n"
        "    mov 96(%rdi), %r12\n"
        "    mov 104(%rdi), %r13\n"
        "    mov 112(%rdi), %r14\n"
        "    mov 120(%rdi), %r15\n"
        "    mov 56(%rdi), %rdi\n"
        "    call *(%rsp)\n"
        "    push %rdi\n"
        "    mov 16(%rsp), %rdi\n"
        "    mov %rax, 0(%rdi)\n"
        "    mov %rcx, 8(%rdi)\n"
        "    mov %rdx, 16(%rdi)\n"
        "    mov %rbx, 24(%rdi)\n"
        "    mov %rbp, 40(%rdi)\n"
        "    mov %rsi, 48(%rdi)\n"
        "    mov %r8, 64(%rdi)\n"
        "    mov %r9, 72(%rdi)\n"
        "    mov %r10, 80(%rdi)\n"
        "    mov %r11, 88(%rdi)\n"
        "    mov %r12, 96(%rdi)\n"
        "    mov %r13, 104(%rdi)\n"
        "    mov %r14, 112(%rdi)\n"
        "    mov %r15, 120(%rdi)\n"
        "    pop %rax\n"
        "    mov %rax, 56(%rdi)\n"
        "    pushfq\n"
        "    pop 128(%rdi)\n"
        "    mov 144(%rdi), %rax\n"
        "    test %rax, %rax\n"
        "    jz 2f\n"
        "    mov %rax, %rdx\n"
        "    shr $32, %rdx\n"
        "    mov 152(%rdi), %rcx\n"
        "    xsave64 (%rcx)\n"
        "    mov 160(%rdi), %rcx\n"
        "    xrstor64 (%rcx)\n"
        "2:  add $16, %rsp\n"
        "    pop %r15\n"
        "    pop %r14\n"
        "    pop %r13\n"
        "    pop %r12\n"
        "    pop %rbp\n"
        "    pop %rbx\n"
        "    ret\n"
        ".size insn_native_enter, . - insn_native_enter\n"
        ".popsection\n");

static int areas_create(struct insn_engine *engine, struct insn_native *native)
{
    size_t size = IMAGE_EXTENDED;

    native->components = engine->host_xcr0 & XSTATE_NATIVE;
    for (unsigned i = 2; i < 8; i++) {
        const struct insn_component *c = &engine->component[i];

        if ((native->components >> i & 1) && c->offset + c->size > size)
            size = c->offset + c->size;
    }
    native->area_size = align_up(size, 64);
    native->guest_area = aligned_alloc(64, native->area_size);
    native->host_area = aligned_alloc(64, native->area_size);
    if (!native->guest_area || !native->host_area)
        return -ENOMEM;
    memset(native->guest_area, 0, native->area_size);
    memset(native->host_area, 0, native->area_size);
    return 0;
}

int insn_native_create(struct insn_engine *engine)
{
    struct insn_native *native = calloc(1, sizeof(*native));
    int fd = -1;
    int error;
    void *map;

    if (!native)
        return -ENOMEM;
    engine->native = native;
    error = areas_create(engine, native);
    if (error)
        return error;
    fd = memfd_create("umbra-insn", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)CODE_SIZE))
        goto fail;
    map = mmap(NULL, CODE_SIZE + DATA_SIZE, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        goto fail;
    native->exec = map;
    if (mmap(map, CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, 0) ==
        MAP_FAILED)
        goto fail;
    map = mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        goto fail;
    native->code = map;
    close(fd);
    return 0;

fail: /* the caller destroys the half-built object */
    error = -errno;
    close(fd);
    return error;
}

void insn_native_destroy(struct insn_native *native)
{
    if (!native)
        return;
    if (native->exec)
        munmap(native->exec, CODE_SIZE + DATA_SIZE);
    if (native->code)
        munmap(native->code, CODE_SIZE);
    free(native->guest_area);
    free(native->host_area);
    free(native);
}

/* The executable address of @rewrite's code, written now unless it is there already. */
static const uint8_t *code_place(struct insn_native *native, struct insn_rewrite *rewrite)
{
    uint8_t image[SLOT_SIZE] = { 0 };
    uint32_t hash = 2166136261u;
    uint32_t eax, ebx, ecx, edx;
    size_t offset;

    for (unsigned i = 0; i < rewrite->length; i++)
        hash = (hash ^ rewrite->code[i]) * 16777619u;
    offset = (size_t)((hash >> 16 ^ hash) % INSN_CODE_SLOTS) * SLOT_SIZE;
    if (rewrite->displacement)
        store_le32(&rewrite->code[rewrite->displacement],
                   (uint32_t)(CODE_SIZE - offset - rewrite->length));
    memcpy(image, rewrite->code, rewrite->length);
    image[rewrite->length] = OPCODE_RET;
    if (memcmp(native->code + offset, image, SLOT_SIZE)) {
        memcpy(native->code + offset, image, SLOT_SIZE);
        /* Code written through another linear address needs a serializing instruction
         * before it is executed (SDM volume 3, 8.1.3). */
        __cpuid(0, eax, ebx, ecx, edx);
        (void)(eax + ebx + ecx + edx);
    }
    return native->exec + offset;
}

static bool uses_x87(const struct insn_run *run, enum insn_unit unit)
{
    if (unit == INSN_UNIT_X87)
        return true;
    for (unsigned i = 0; i < run->insn.operand_count; i++) {
        if (run->operand[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(run->operand[i].reg.value) == ZYDIS_REGCLASS_MMX)
            return true;
    }
    return false;
}

/* x87 and MMX instructions report a pending unmasked exception before they start, except
 * for the control instructions without a wait. Run natively, they would signal umbra. */
static int x87_pending(struct insn_run *run)
{
    uint16_t fsw = load_le16(run->image + IMAGE_FSW);
    uint16_t fcw = load_le16(run->image + IMAGE_FCW);

    switch (run->insn.mnemonic) {
    case ZYDIS_MNEMONIC_FNINIT:
    case ZYDIS_MNEMONIC_FNCLEX:
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTSW:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FENI8087_NOP:
    case ZYDIS_MNEMONIC_FDISI8087_NOP:
    case ZYDIS_MNEMONIC_FSETPM287_NOP:
        return INSN_CONTINUE;
    default:
        break;
    }
    if (!(fsw & FSW_ES) && !(fsw & ~fcw & FSW_ANY))
        return INSN_CONTINUE;
    return run->cpu->cr0 & CR0_NE ? insn_fault(run, VECTOR_MF) : INSN_GIVE_UP;
}

/* Real mode and virtual 8086 mode have their own layouts of the x87 environment. */
static bool is_environment(ZydisMnemonic mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_FLDENV || mnemonic == ZYDIS_MNEMONIC_FNSTENV ||
           mnemonic == ZYDIS_MNEMONIC_FRSTOR || mnemonic == ZYDIS_MNEMONIC_FNSAVE;
}

/* Alignment that the operand must have (SDM volume 2, 2.4 and 2.7: exception types). */
static size_t operand_alignment(const struct insn_run *run, size_t size)
{
    switch (run->insn.meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_SSE1:
    case ZYDIS_EXCEPTION_CLASS_AVX1:
    case ZYDIS_EXCEPTION_CLASS_E1:
    case ZYDIS_EXCEPTION_CLASS_E1NF:
        return size;
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE4:
        break;
    default:
        return 1;
    }
    switch (run->insn.mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
        return 1;
    default:
        return size == 16 ? 16 : 1;
    }
}

/* Some elements may be masked out, and then must not fault. */
static bool is_masked(const struct insn_run *run, const ZydisDecodedOperand *op)
{
    switch (run->insn.mnemonic) {
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        return true;
    default:
        return (op->actions &
                (ZYDIS_OPERAND_ACTION_CONDREAD | ZYDIS_OPERAND_ACTION_CONDWRITE)) ||
               run->insn.avx.mask.mode > ZYDIS_MASK_MODE_DISABLED;
    }
}

/* Bring the memory operand's bytes into the data page; @address is where they live. */
static int operand_load(struct insn_run *run, const ZydisDecodedOperand *op,
                        uint64_t *address)
{
    bool write = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    uint8_t *data = run->engine->native->exec + CODE_SIZE;
    size_t size = op->size / 8;
    int result = insn_address(run, op, size, write ? INSN_WRITE : INSN_READ, address);

    if (result)
        return result;
    if (*address & (operand_alignment(run, size) - 1))
        return insn_fault_code(run, VECTOR_GP, 0);
    /* Operands that are only written are read too: an x87 store with an unmasked
     * exception and a masked vector store leave bytes as they are. */
    result = insn_read(run, *address, data, size);
    if (result == INSN_FAULTED && is_masked(run, op))
        return INSN_GIVE_UP;
    if (result == INSN_FAULTED && write && run->outcome->vector == VECTOR_PF)
        run->outcome->error_code |= 2; /* the access that faults is a write */
    return result;
}

/* The guest's own addresses instead of ours where the x87 recorded them. */
static void x87_pointers_fix(struct insn_run *run, const uint8_t *code, uint64_t operand)
{
    const struct insn_native *native = run->engine->native;
    uint8_t *area = native->guest_area;
    uint64_t cs = run->bits == 64 ? 0 : run->cpu->segment[INSN_CS].selector;

    if (load_le64(area + IMAGE_FIP) == (uint64_t)(uintptr_t)code) {
        store_le64(area + IMAGE_FIP, run->cpu->rip | cs << 32);
        store_le16(area + IMAGE_FOP, (uint16_t)((run->insn.opcode & 7) << 8 |
                                                run->bytes[run->insn.raw.modrm.offset]));
    }
    if (load_le64(area + IMAGE_FDP) == (uint64_t)(uintptr_t)(native->exec + CODE_SIZE))
        store_le64(area + IMAGE_FDP, operand);
}

/* Which state components are switched around an instruction. VEX and EVEX instructions
 * write whole registers, so everything that the host has goes along. */
static uint64_t components_choose(const struct insn_run *run, enum insn_unit unit)
{
    uint64_t have = run->engine->native->components;

    if (unit == INSN_UNIT_INTEGER)
        return 0;
    if (uses_x87(run, unit))
        return have & (XSTATE_X87 | XSTATE_SSE);
    if (unit == INSN_UNIT_SSE)
        return have & XSTATE_SSE;
    return have & ~XSTATE_X87;
}

/* Fill the guest's XSAVE area from its image. Everything that could make XRSTOR fault is
 * put right: the header, and reserved bits of MXCSR. */
static int area_fill(struct insn_run *run, uint64_t components, uint32_t *mxcsr)
{
    const struct insn_native *native = run->engine->native;
    uint8_t *area = native->guest_area;

    if (run->image_size < native->area_size)
        return INSN_GIVE_UP;
    memcpy(area, run->image, native->area_size);
    memset(area + IMAGE_HEADER, 0, IMAGE_EXTENDED - IMAGE_HEADER);
    store_le64(area + IMAGE_HEADER, load_le64(run->image + IMAGE_HEADER) & components);
    /* All exceptions masked and no flags: what the instruction raises shows afterwards.
     */
    *mxcsr = load_le32(run->image + IMAGE_MXCSR) & run->engine->mxcsr_mask;
    store_le32(area + IMAGE_MXCSR, (*mxcsr | MXCSR_MASKS) & ~MXCSR_FLAGS);
    return INSN_CONTINUE;
}

/* SIMD exceptions that the guest has not masked; otherwise MXCSR as it is to be. An exact
 * tiny result with underflow unmasked is the one case that masked execution cannot see.
 */
static int mxcsr_settle(struct insn_run *run, uint32_t mxcsr)
{
    uint8_t *area = run->engine->native->guest_area;
    uint32_t raised = load_le32(area + IMAGE_MXCSR) & MXCSR_FLAGS;

    mxcsr |= raised;
    if (!(raised & ~(mxcsr >> MXCSR_MASK_SHIFT))) {
        store_le32(area + IMAGE_MXCSR, mxcsr);
        return INSN_CONTINUE;
    }
    store_le32(run->image + IMAGE_MXCSR, mxcsr);
    store_le64(run->image + IMAGE_HEADER,
               load_le64(run->image + IMAGE_HEADER) | XSTATE_SSE);
    run->cpu->fpu_changed = true;
    return insn_fault(run, run->cpu->cr4 & CR4_OSXMMEXCPT ? VECTOR_XM : VECTOR_UD);
}

/* Take the guest's XSAVE area over into its image. */
static void area_commit(struct insn_run *run, uint64_t components)
{
    const struct insn_native *native = run->engine->native;
    uint8_t *area = native->guest_area;
    uint64_t before = load_le64(run->image + IMAGE_HEADER);
    uint64_t after = load_le64(area + IMAGE_HEADER);

    memcpy(run->image, area, IMAGE_HEADER);
    memcpy(run->image + IMAGE_EXTENDED, area + IMAGE_EXTENDED,
           native->area_size - IMAGE_EXTENDED);
    after = (before & ~components) | (after & components);
    if (load_le32(area + IMAGE_MXCSR) != MXCSR_MASKS)
        after |= XSTATE_SSE;
    store_le64(run->image + IMAGE_HEADER, after);
    run->cpu->fpu_changed = true;
}

/* Load the state that @components name, or find out why the instruction must not run. */
static int state_prepare(struct insn_run *run, enum insn_unit unit, uint64_t components,
                         uint32_t *mxcsr)
{
    int result;

    if (unit == INSN_UNIT_INTEGER)
        return INSN_CONTINUE;
    result = insn_fpu_check(run, unit);
    if (!result && (!components ||
                    (is_environment(run->insn.mnemonic) && !insn_protected(run->cpu))))
        result = INSN_GIVE_UP;
    if (!result)
        result = insn_image_load(run);
    if (!result && uses_x87(run, unit))
        result = x87_pending(run);
    return result ? result : area_fill(run, components, mxcsr);
}

static void registers_commit(struct insn_run *run, const struct native_frame *frame,
                             int spare)
{
    struct insn_cpu *cpu = run->cpu;

    for (unsigned i = 0; i < INSN_GPR_COUNT; i++) {
        if (i != INSN_RSP && (int)i != spare)
            cpu->gpr[i] = frame->gpr[i];
    }
    if (spare >= 0)
        cpu->gpr[INSN_RSP] = frame->gpr[spare];
    insn_flags_set(run, RFLAGS_ARITHMETIC, frame->flags);
}

int insn_native_run(struct insn_run *run)
{
    struct insn_native *native = run->engine->native;
    struct native_frame frame = { .guest_area = native->guest_area,
                                  .host_area = native->host_area };
    struct insn_rewrite rewrite;
    uint64_t address = 0;
    uint32_t mxcsr = 0;
    bool present;
    enum insn_unit unit = insn_host_unit(run->engine, &run->insn, &present);
    int result;

    if (unit == INSN_UNIT_NONE)
        return INSN_GIVE_UP;
    if (!present)
        return insn_fault(run, VECTOR_UD);
    result = insn_rewrite(run, &rewrite);
    if (result)
        return result;
    frame.components = components_choose(run, unit);
    result = state_prepare(run, unit, frame.components, &mxcsr);
    if (!result && rewrite.memory)
        result = operand_load(run, rewrite.memory, &address);
    if (result)
        return result;

    memcpy(frame.gpr, run->cpu->gpr, sizeof(frame.gpr));
    if (rewrite.spare >= 0)
        frame.gpr[rewrite.spare] = run->cpu->gpr[INSN_RSP];
    frame.flags = (run->cpu->rflags & RFLAGS_ARITHMETIC) | 2;
    frame.code = code_place(native, &rewrite);
    insn_native_enter(&frame);

    if (unit == INSN_UNIT_SSE || unit == INSN_UNIT_AVX || unit == INSN_UNIT_AVX512)
        result = mxcsr_settle(run, mxcsr);
    else if (frame.components)
        store_le32(native->guest_area + IMAGE_MXCSR, mxcsr);
    if (!result && rewrite.memory &&
        (rewrite.memory->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
        result =
            insn_write(run, address, native->exec + CODE_SIZE, rewrite.memory->size / 8);
    if (result)
        return result;
    if (frame.components) {
        if (uses_x87(run, unit))
            x87_pointers_fix(run, frame.code, address);
        area_commit(run, frame.components);
    }
    registers_commit(run, &frame, rewrite.spare);
    return INSN_CONTINUE;
}
