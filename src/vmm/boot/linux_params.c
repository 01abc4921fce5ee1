/* SPDX-License-Identifier: MIT */
/* Linux's boot parameters, filled in from the board and the request. */
#include "vmm/boot/linux_params.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"

enum { LINUX_PAGE = 4096, LINUX_E820_ENTRY = 20 };

static int linux_cmdline_put(struct loader *loader, const struct linux_kernel *kernel,
                             uint8_t *page, struct umbra_error *error)
{
    const char *append = loader->request->append;
    size_t length = strlen(append);
    gpa base;
    int result;

    if (length > kernel->cmdline_max) {
        return error_set(error, UMBRA_ERROR_CONFIG, E2BIG,
                         "the command line has %zu bytes; this kernel takes at most %u: "
                         "shorten --append",
                         length, kernel->cmdline_max);
    }
    result = loader_put_low(loader, append, length + 1, "the command line", &base, error);
    if (result == 0) {
        store_le32(page + LINUX_CMD_LINE_PTR, (uint32_t)base);
    }
    return result;
}

static int linux_initrd_put(struct loader *loader, const struct linux_kernel *kernel,
                            uint8_t *page, gpa *base, uint64_t *size,
                            struct umbra_error *error)
{
    gpa max = kernel->initrd_max < BOARD_HIGH_RAM_BASE ? kernel->initrd_max + 1
                                                       : BOARD_HIGH_RAM_BASE;
    int result = loader_put_initrd(loader, MIB, max, true, base, size, error);

    if (result == -ENOMEM && kernel->above_4g) {
        result = loader_put_initrd(loader, MIB, UINT64_MAX, true, base, size, error);
    }
    if (result != 0) {
        return result;
    }
    store_le32(page + LINUX_RAMDISK_IMAGE, (uint32_t)*base);
    store_le32(page + LINUX_RAMDISK_SIZE, (uint32_t)*size);
    store_le32(page + LINUX_EXT_RAMDISK_IMAGE, (uint32_t)(*base >> 32));
    store_le32(page + LINUX_EXT_RAMDISK_SIZE, (uint32_t)(*size >> 32));
    return 0;
}

/* The FDT as a setup_data node: next, type, length, then the blob. */
static int linux_fdt_put(struct loader *loader, uint8_t *page, gpa initrd,
                         uint64_t initrd_size, struct umbra_error *error)
{
    const struct boot_request *request = loader->request;
    uint8_t *node = NULL;
    void *blob = NULL;
    size_t size = 0;
    gpa base;
    int result = fdt_build(request->board, request->append, initrd, initrd_size, &blob,
                           &size, error);

    if (result != 0) {
        return result;
    }
    node = calloc(1, 16 + size);
    if (node == NULL) {
        result = error_set(error, UMBRA_ERROR_INTERNAL, ENOMEM, "no memory for the FDT");
        goto out;
    }
    store_le32(node + 8, LINUX_SETUP_DTB);
    store_le32(node + 12, (uint32_t)size);
    memcpy(node + 16, blob, size);
    result = loader_put_low(loader, node, 16 + size, "the FDT", &base, error);
    if (result == 0) {
        store_le64(page + LINUX_SETUP_DATA, base);
    }
out:
    free(node);
    free(blob);
    return result;
}

static void linux_header_fill(const struct linux_kernel *kernel, uint8_t *page)
{
    if (kernel->header != NULL) {
        memcpy(page + LINUX_SETUP_SECTS, kernel->header, kernel->header_size);
    } else {
        store_le16(page + LINUX_VERSION, 0x20c);
        page[LINUX_LOADFLAGS] = LINUX_LOADED_HIGH;
        store_le32(page + LINUX_CMDLINE_SIZE, kernel->cmdline_max);
    }
    store_le16(page + LINUX_BOOT_FLAG, LINUX_BOOT_FLAG_VALUE);
    store_le32(page + LINUX_MAGIC, LINUX_MAGIC_VALUE);
    store_le16(page + LINUX_VID_MODE, 0xffff);
    page[LINUX_TYPE_OF_LOADER] = 0xff; /* no assigned number */
    store_le64(page + LINUX_SETUP_DATA, 0);
}

static void linux_e820_fill(const struct layout *layout, uint8_t *page)
{
    uint8_t *at = page + LINUX_E820_TABLE;

    page[LINUX_E820_ENTRIES] = (uint8_t)layout->map_count;
    for (size_t i = 0; i < layout->map_count; i++, at += LINUX_E820_ENTRY) {
        store_le64(at, layout->map[i].base);
        store_le64(at + 8, layout->map[i].size);
        store_le32(at + 16, layout->map[i].type);
    }
}

int linux_params_put(struct loader *loader, const struct linux_kernel *kernel,
                     uint64_t *zero_page, struct umbra_error *error)
{
    uint8_t page[LINUX_PAGE] = { 0 };
    uint64_t initrd_size = 0;
    gpa initrd = 0;
    int result;

    linux_header_fill(kernel, page);
    linux_e820_fill(&loader->layout, page);
    store_le64(page + LINUX_RSDP_ADDR, loader->rsdp);
    result = linux_cmdline_put(loader, kernel, page, error);
    if (result == 0) {
        result = linux_initrd_put(loader, kernel, page, &initrd, &initrd_size, error);
    }
    if (result == 0 && loader->request->fdt) {
        result = linux_fdt_put(loader, page, initrd, initrd_size, error);
    }
    if (result != 0) {
        return result;
    }
    return loader_put_low(loader, page, sizeof(page), "the zero page", zero_page, error);
}
