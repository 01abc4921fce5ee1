/* SPDX-License-Identifier: MIT */
/* PVH kernels (Xen's x86/HVM direct boot ABI): a start info block, entered in 32 bits. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/error.h"
#include "vmm/boot/elf.h"

/* struct hvm_start_info, version 1, with what it points at behind it in one block. */
enum {
    PVH_VERSION = 0x04,
    PVH_MODULE_COUNT = 0x0c,
    PVH_MODULES = 0x10,
    PVH_CMDLINE = 0x18,
    PVH_RSDP = 0x20,
    PVH_MEMMAP = 0x28,
    PVH_MEMMAP_COUNT = 0x30,
    PVH_INFO_SIZE = 0x38,
    PVH_MODULE_SIZE = 0x20,
    PVH_MEMMAP_SIZE = 0x18,
    PVH_BLOCK_SIZE = PVH_INFO_SIZE + PVH_MODULE_SIZE + MEMORY_MAP_MAX * PVH_MEMMAP_SIZE,
};
#define PVH_MAGIC UINT32_C(0x336ec578)

static int pvh_info_put(struct loader *loader, gpa initrd, uint64_t initrd_size,
                        struct umbra_error *error)
{
    const char *append = loader->request->append;
    const struct layout *layout = &loader->layout;
    uint8_t block[PVH_BLOCK_SIZE] = { 0 };
    uint8_t *module = block + PVH_INFO_SIZE, *map = module + PVH_MODULE_SIZE;
    gpa cmdline, base;
    int result = loader_put_low(loader, append, strlen(append) + 1, "the command line",
                                &cmdline, error);

    /* The block points into itself: find its place with a first write, then fill it. */
    if (result == 0) {
        result = loader_put_low(loader, block, sizeof(block), "the PVH start info", &base,
                                error);
    }
    if (result != 0) {
        return result;
    }
    store_le32(block, PVH_MAGIC);
    store_le32(block + PVH_VERSION, 1);
    store_le64(block + PVH_CMDLINE, cmdline);
    store_le64(block + PVH_RSDP, loader->rsdp);
    store_le64(block + PVH_MEMMAP, base + PVH_INFO_SIZE + PVH_MODULE_SIZE);
    store_le32(block + PVH_MEMMAP_COUNT, (uint32_t)layout->map_count);
    if (initrd_size != 0) {
        store_le32(block + PVH_MODULE_COUNT, 1);
        store_le64(block + PVH_MODULES, base + PVH_INFO_SIZE);
        store_le64(module, initrd);
        store_le64(module + 8, initrd_size);
    }
    for (size_t i = 0; i < layout->map_count; i++, map += PVH_MEMMAP_SIZE) {
        store_le64(map, layout->map[i].base);
        store_le64(map + 8, layout->map[i].size);
        store_le32(map + 16, layout->map[i].type);
    }
    loader->entry->rbx = base;
    return guest_mem_load(loader->mem, base, block, sizeof(block)) == 0
               ? 0
               : error_set(error, UMBRA_ERROR_INTERNAL, EFAULT,
                           "the PVH start info cannot be written to guest memory");
}

int pvh_load(struct loader *loader, struct umbra_error *error)
{
    struct boot_entry *entry = loader->entry;
    char version[64];
    struct elf_image elf;
    uint64_t initrd_size;
    gpa initrd;
    int result = elf_parse(&loader->image, &elf, error);

    if (result != 0) {
        return result;
    }
    if (!elf_contains(&elf, elf.pvh_entry) || elf.pvh_entry > UINT32_MAX) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "its PVH note names the entry point 0x%" PRIx64
                         ", which lies in none of its segments below 4 GiB",
                         elf.pvh_entry);
    }
    result = elf_put(loader, &elf, &loader->image, error);
    if (result == 0) {
        result = loader_put_initrd(loader, MIB, BOARD_HIGH_RAM_BASE, true, &initrd,
                                   &initrd_size, error);
    }
    if (result == 0) {
        result = pvh_info_put(loader, initrd, initrd_size, error);
    }
    if (result != 0) {
        return result;
    }
    entry->linux_kernel = elf_linux_version(loader, &elf, version, sizeof(version));
    snprintf(entry->description, sizeof(entry->description), "PVH kernel%s%s",
             entry->linux_kernel ? ", Linux " : "", entry->linux_kernel ? version : "");
    return loader_enter(loader, BOOT_MODE_PROTECTED, elf.pvh_entry, error);
}
