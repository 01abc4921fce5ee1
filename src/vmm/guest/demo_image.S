/* SPDX-License-Identifier: MIT */
/* The demo guest's ELF file, embedded; empty where it is not built (see demo_image.h). */
    .section .rodata
    .globl demo_image, demo_image_end
    .hidden demo_image, demo_image_end
    .balign 16
demo_image:
#ifdef DEMO_IMAGE
    .incbin DEMO_IMAGE
#endif
demo_image_end:
    .byte 0

    .section .note.GNU-stack, "", %progbits
