/* SPDX-License-Identifier: MIT */
/* A real-mode guest that times COUNT writes to PORT: prints "S", then the TSC cycles they
 * took as eight hexadecimal digits, then leaves by the debug-exit port. With ROM defined it
 * is a 64 KiB firmware image, entered from the reset vector. It uses no memory. */
    .code16
    .globl start
start:
    movw $0x3f8, %dx
    movb $'S', %al
    outb %al, %dx
    rdtsc
    movl %eax, %esi
    movl $COUNT, %ecx
    movw $PORT, %dx
1:  outb %al, %dx
    decl %ecx
    jnz 1b
    rdtsc
    subl %esi, %eax
    movl %eax, %ebx
    movw $0x3f8, %dx
    movl $8, %ecx
2:  roll $4, %ebx
    movb %bl, %al
    andb $15, %al
    addb $'0', %al
    cmpb $'9', %al
    jbe 3f
    addb $('a' - '9' - 1), %al
3:  outb %al, %dx
    decl %ecx
    jnz 2b
    movb $'\n', %al
    outb %al, %dx
    movw $0xf4, %dx
    xorl %eax, %eax
    outl %eax, %dx
4:  hlt
    jmp 4b
#ifdef ROM
    .org 0xfff0
    ljmp $0xf000, $0
    .org 0x10000
#endif
