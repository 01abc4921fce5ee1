/* SPDX-License-Identifier: MIT */
/* Entry of a guest: multiboot 1 or PVH in 32-bit mode, the way to 64-bit mode, page tables,
 * the GDT, and the start of the other CPUs. Wants no memory but the image's own. */
#include "vmm/guest/layout.h"

/* Multiboot header with address fields, so that an ELF64 file may carry it (1, section
 * 3.1.3); without them (GUEST_MULTIBOOT_ELF) the loader reads ELF32 headers instead. */
#ifndef GUEST_NO_MULTIBOOT
#ifdef GUEST_MULTIBOOT_ELF
#define MULTIBOOT_FLAGS 0x3 /* modules page-aligned, memory map wanted */
#else
#define MULTIBOOT_FLAGS 0x10003
#endif
    .section .multiboot, "a"
    .balign 4
multiboot_header:
    .long 0x1badb002, MULTIBOOT_FLAGS, -(0x1badb002 + MULTIBOOT_FLAGS)
    .long multiboot_header, image_start, image_data_end, image_end, entry32
#endif

#ifndef GUEST_NO_PVH
    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long entry32
#endif

    .section .text.boot, "ax"
    .code32
    .globl entry32
entry32:
    cli
    cld
    mov %eax, boot_magic
    mov %ebx, boot_info
    mov $(cpu_blocks + CPU_MAIN_STACK), %eax
    mov %eax, start_stack
    lgdt gdt_pointer
    mov $guest_start, %ebp
    jmp enter_long_mode

    .globl ap_entry32
ap_entry32:
    mov $ap_start, %ebp
enter_long_mode: /* to EBP in 64-bit mode, on start_stack */
    mov $SEL_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $0x620, %eax /* CR4: PAE, OSFXSR, OSXMMEXCPT */
    mov %eax, %cr4
    mov $page_root, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx /* EFER.LME */
    rdmsr
    or $0x100, %eax
    wrmsr
    mov $0x80010033, %eax /* CR0: PE, MP, ET, NE, WP, PG */
    mov %eax, %cr0
    ljmp $SEL_CODE, $1f
    .code64
1:  mov start_stack, %esp
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov %ebp, %ebp
    call *%rbp
2:  cli
    hlt
    jmp 2b

/* Copied to TRAMPOLINE; a startup IPI enters it in real mode with CS = TRAMPOLINE >> 4. */
    .globl ap_trampoline, ap_trampoline_end
    .code16
ap_trampoline:
    cli
    cld
    mov %cs, %ax
    mov %ax, %ds
    lgdtl ap_gdt_pointer - ap_trampoline
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $SEL_CODE32, $ap_entry32
    .balign 4
ap_gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
ap_trampoline_end:
    .code64

    .data
    .balign 16
    .globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff /* 64-bit code, ring 0 */
    .quad 0x00cf93000000ffff /* data, ring 0 */
    .quad 0x00cff3000000ffff /* data, ring 3 */
    .quad 0x00affb000000ffff /* 64-bit code, ring 3 */
    .quad 0x00cf9b000000ffff /* 32-bit code, ring 0: on the way up only */
    .fill MAX_CPUS * 16, 1, 0
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt

    .balign 4
    .globl boot_magic, boot_info, start_stack
boot_magic:
    .long 0
boot_info:
    .long 0
start_stack:
    .long 0

/* Identity map of 4 GiB in 2 MiB pages, open to ring 3, built by the assembler: a guest
 * whose ring 0 is interpreted should not spend thousands of instructions on it. From
 * 0xd0000000 on there is no RAM but devices: uncached. */
    .balign 4096
    .globl page_root, page_root_directory
page_root:
    .quad page_root_directory + PTE_PRESENT + PTE_WRITE + PTE_USER
    .fill 511, 8, 0
page_root_directory:
    .set i, 0
    .rept 4
    .quad page_directories + i * 4096 + PTE_PRESENT + PTE_WRITE + PTE_USER
    .set i, i + 1
    .endr
    .fill 508, 8, 0
page_directories:
    .set i, 0
    .rept 2048
    .if i < 0x680
    .quad (i << 21) + PTE_PRESENT + PTE_WRITE + PTE_USER + PTE_LARGE
    .else
    .quad (i << 21) + PTE_PRESENT + PTE_WRITE + PTE_USER + PTE_LARGE + PTE_UNCACHED
    .endif
    .set i, i + 1
    .endr

    .section .note.GNU-stack, "", @progbits
