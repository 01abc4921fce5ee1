/* SPDX-License-Identifier: MIT */
/* Linux's boot parameters, the "zero page" (Documentation/arch/x86/boot.rst). */
#ifndef VMM_BOOT_LINUX_PARAMS_H
#define VMM_BOOT_LINUX_PARAMS_H

#include "vmm/boot/loader.h"

/* Offsets into the zero page, those from 0x1f1 on also into a bzImage. */
enum {
    LINUX_RSDP_ADDR = 0x070,
    LINUX_EXT_RAMDISK_IMAGE = 0x0c0,
    LINUX_EXT_RAMDISK_SIZE = 0x0c4,
    LINUX_E820_ENTRIES = 0x1e8,
    LINUX_SETUP_SECTS = 0x1f1,
    LINUX_VID_MODE = 0x1fa,
    LINUX_BOOT_FLAG = 0x1fe,
    LINUX_JUMP_OFFSET = 0x201,
    LINUX_MAGIC = 0x202,
    LINUX_VERSION = 0x206,
    LINUX_KERNEL_VERSION = 0x20e,
    LINUX_TYPE_OF_LOADER = 0x210,
    LINUX_LOADFLAGS = 0x211,
    LINUX_CODE32_START = 0x214,
    LINUX_RAMDISK_IMAGE = 0x218,
    LINUX_RAMDISK_SIZE = 0x21c,
    LINUX_CMD_LINE_PTR = 0x228,
    LINUX_INITRD_ADDR_MAX = 0x22c,
    LINUX_RELOCATABLE = 0x234,
    LINUX_XLOADFLAGS = 0x236,
    LINUX_CMDLINE_SIZE = 0x238,
    LINUX_PAYLOAD_OFFSET = 0x248,
    LINUX_PAYLOAD_LENGTH = 0x24c,
    LINUX_SETUP_DATA = 0x250,
    LINUX_PREF_ADDRESS = 0x258,
    LINUX_INIT_SIZE = 0x260,
    LINUX_HEADER_END = 0x290, /* the room that the zero page has for a header */
    LINUX_E820_TABLE = 0x2d0,

    LINUX_BOOT_FLAG_VALUE = 0xaa55,
    LINUX_LOADED_HIGH = 0x01,
    LINUX_XLF_KERNEL_64 = 0x01,
    LINUX_XLF_ABOVE_4G = 0x02,
    LINUX_CMDLINE_DEFAULT = 2047, /* of an x86 vmlinux, which does not say */
    LINUX_SETUP_DTB = 2,
};
#define LINUX_MAGIC_VALUE   UINT32_C(0x53726448) /* "HdrS" */
#define LINUX_INITRD_MAX_64 UINT64_C(0x7fffffff)
#define LINUX_INITRD_MAX_32 UINT64_C(0x37ffffff)

struct linux_kernel {
    const uint8_t *header; /* the bzImage's bytes from LINUX_SETUP_SECTS; NULL: none */
    size_t header_size;
    uint32_t cmdline_max; /* bytes without the NUL */
    uint64_t initrd_max;  /* the highest address of the initrd's last byte */
    bool above_4g;        /* the initrd may also lie above 4 GiB */
};

/* Place the command line, initrd, FDT and zero page; *zero_page is where that is. */
int linux_params_put(struct loader *loader, const struct linux_kernel *kernel,
                     uint64_t *zero_page, struct umbra_error *error);

#endif
