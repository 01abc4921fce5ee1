/* SPDX-License-Identifier: MIT */
/* Trap entry points, and the switch into ring 3 or a guarded call and back out of it. */
#include "vmm/guest/layout.h"

    .text
    .code64
/* 256 entry points, 16 bytes each: those without an error code push a zero. */
    .balign 16
    .globl trap_entries
trap_entries:
    .set vector, 0
    .rept 256
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
    push $0
    .endif
    push $vector
    jmp trap_common
    .set vector, vector + 1
    .endr

    .balign 16
trap_common:
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    cld
    mov %rsp, %rdi
    mov %rsp, %rbx
    and $-16, %rsp
    call trap_handle
    mov %rbx, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq

/*
 * uint64_t context_run(struct cpu *, uint64_t (*function)(void *), void *argument,
 *                      void *user_stack, uint64_t user_flags)
 * Call the function, in ring 3 if user_stack is given. Returns its value; or, when a trap
 * handler called context_resume(), that function's.
 */
    .globl context_run
context_run:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    push CPU_RESUME(%rdi)
    push %rdi
    mov %rsp, CPU_RESUME(%rdi)
    mov %rdx, %rdi
    test %rcx, %rcx
    jnz 1f
    call *%rsi
    jmp context_end
1:  push $SEL_USER_DATA
    push %rcx
    push %r8
    push $SEL_USER_CODE
    push $user_entry
    iretq

/* void context_resume(struct cpu *, uint64_t value): does not return. */
    .globl context_resume
context_resume:
    mov CPU_RESUME(%rdi), %rsp
    mov %rsi, %rax
context_end:
    pop %rdi
    pop CPU_RESUME(%rdi)
    popfq
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

/* Ring 3 starts here and comes back by int3, the one software interrupt that every KVM
 * delivers out of ring 3. */
    .globl user_done
user_entry:
    xor %ebp, %ebp
    call *%rsi
    int3
user_done:
    ud2

    .section .note.GNU-stack, "", @progbits
