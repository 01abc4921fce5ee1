/* SPDX-License-Identifier: MIT */
/* The memory that natively run instructions are placed in, and the way into and out of it. */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "vcpu/x86_64/insn/internal.h"

#define SLOT_SIZE  32
#define CODE_SIZE  ((size_t)INSN_CODE_SLOTS * SLOT_SIZE)
#define DATA_SIZE  ((size_t)4096)
#define OPCODE_RET 0xc3

_Static_assert(INSN_MAX_LENGTH + 1 <= SLOT_SIZE, "a slot holds an instruction and a RET");
_Static_assert(CODE_SIZE % 4096 == 0, "code is whole pages");

_Static_assert(offsetof(struct insn_frame, flags) == 128, "used in assembly");
_Static_assert(offsetof(struct insn_frame, code) == 136, "used in assembly");
_Static_assert(offsetof(struct insn_frame, components) == 144, "used in assembly");
_Static_assert(offsetof(struct insn_frame, guest_area) == 152, "used in assembly");
_Static_assert(offsetof(struct insn_frame, host_area) == 160, "used in assembly");

/* C-callable; see internal.h. XSAVE and XRSTOR take the component mask in EDX:EAX. */
__asm__(".pushsection .text\n"
        ".type insn_native_enter, @function\n"
        ".globl insn_native_enter\n"
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
    native->data = native->exec + CODE_SIZE;
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

const uint8_t *insn_native_place(struct insn_native *native, struct insn_rewrite *rewrite)
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
