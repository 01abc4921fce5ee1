/* SPDX-License-Identifier: MIT */
/* Multiboot 1 kernels (Multiboot Specification 0.6.96): ELF or by address fields. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "vmm/boot/elf.h"

enum {
    MULTIBOOT_SEARCH = 8192, /* the header lies wholly in the first so many bytes */
    MULTIBOOT_HEADER_SIZE = 12,
    MULTIBOOT_ADDRESSES_SIZE = 32, /* with the address fields */

    MULTIBOOT_WANTS_VIDEO = 1 << 2,
    MULTIBOOT_REQUIRED = 0xffff, /* a loader refuses those of these it does not know */
    MULTIBOOT_KNOWN = 0x7,
    MULTIBOOT_HAS_ADDRESSES = 1 << 16,

    /* The information structure; flags say which fields count. */
    MULTIBOOT_INFO_FLAGS = 0,
    MULTIBOOT_MEM_LOWER = 4,
    MULTIBOOT_MEM_UPPER = 8,
    MULTIBOOT_CMDLINE = 16,
    MULTIBOOT_MODS_COUNT = 20,
    MULTIBOOT_MODS = 24,
    MULTIBOOT_MMAP_LENGTH = 44,
    MULTIBOOT_MMAP = 48,
    MULTIBOOT_LOADER_NAME = 64,
    MULTIBOOT_INFO_SIZE = 120,
    MULTIBOOT_MODULE_SIZE = 16,
    MULTIBOOT_MMAP_ENTRY = 24, /* with its 4-byte size field, which excludes itself */

    MULTIBOOT_INFO_MEMORY = 1 << 0,
    MULTIBOOT_INFO_CMDLINE = 1 << 2,
    MULTIBOOT_INFO_MODS = 1 << 3,
    MULTIBOOT_INFO_MMAP = 1 << 6,
    MULTIBOOT_INFO_LOADER = 1 << 9,
};
#define MULTIBOOT_MAGIC       UINT32_C(0x1badb002)
#define MULTIBOOT_ENTRY_MAGIC UINT32_C(0x2badb002)

struct multiboot_header {
    size_t offset; /* in the file */
    uint32_t flags;
    uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

static bool multiboot_find(const uint8_t *data, size_t size,
                           struct multiboot_header *header)
{
    size_t end = size < MULTIBOOT_SEARCH ? size : MULTIBOOT_SEARCH;

    for (size_t at = 0; at + MULTIBOOT_HEADER_SIZE <= end; at += 4) {
        uint32_t flags;

        if (load_le32(data + at) != MULTIBOOT_MAGIC) {
            continue;
        }
        flags = load_le32(data + at + 4);
        if (MULTIBOOT_MAGIC + flags + load_le32(data + at + 8) != 0) {
            continue;
        }
        *header = (struct multiboot_header){ .offset = at, .flags = flags };
        if ((flags & MULTIBOOT_HAS_ADDRESSES) != 0 &&
            at + MULTIBOOT_ADDRESSES_SIZE <= end) {
            header->header_addr = load_le32(data + at + 12);
            header->load_addr = load_le32(data + at + 16);
            header->load_end_addr = load_le32(data + at + 20);
            header->bss_end_addr = load_le32(data + at + 24);
            header->entry_addr = load_le32(data + at + 28);
        } else if ((flags & MULTIBOOT_HAS_ADDRESSES) != 0) {
            return false;
        }
        return true;
    }
    return false;
}

bool multiboot_probe(const void *data, size_t size)
{
    struct multiboot_header header;

    return multiboot_find(data, size, &header);
}

/* Load by the address fields ("a.out kludge"). */
static int multiboot_put_addresses(struct loader *loader,
                                   const struct multiboot_header *h,
                                   struct umbra_error *error)
{
    struct image *image = &loader->image;
    struct loader_piece piece = { .base = h->load_addr,
                                  .image = image,
                                  .what = "the multiboot image" };
    uint64_t offset, end;

    if (h->load_addr > h->header_addr || h->header_addr - h->load_addr > h->offset) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "its multiboot header says it is at 0x%x in an image loaded at "
                         "0x%x, but it is at offset %zu of the file",
                         h->header_addr, h->load_addr, h->offset);
    }
    offset = h->offset - (h->header_addr - h->load_addr);
    piece.offset = offset;
    piece.size = h->load_end_addr != 0 ? (uint64_t)h->load_end_addr - h->load_addr
                                       : image->size - offset;
    if ((h->load_end_addr != 0 && h->load_end_addr < h->load_addr) ||
        piece.size > image->size - offset) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "its multiboot header wants 0x%x..0x%x loaded, but the file has "
                         "only %" PRIu64 " bytes from there on: it is cut off or corrupt",
                         h->load_addr, h->load_end_addr, image->size - offset);
    }
    end = h->load_addr + piece.size;
    end = h->bss_end_addr > end ? h->bss_end_addr : end;
    piece.memory_size = end - h->load_addr;
    if (h->entry_addr < h->load_addr || h->entry_addr >= end) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "its entry point 0x%x lies outside what is loaded "
                         "(0x%x..0x%" PRIx64 ")",
                         h->entry_addr, h->load_addr, end);
    }
    loader->entry->rip = h->entry_addr;
    return loader_put(loader, &piece, error);
}

static int multiboot_put_elf(struct loader *loader, struct umbra_error *error)
{
    struct elf_image elf;
    int result;

    if (!elf_probe(loader->image.data, loader->image.size)) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "it has a multiboot header without address fields and is not an "
                         "ELF file, so nothing says where to load it; set flag bit 16 or "
                         "link it as ELF");
    }
    result = elf_parse(&loader->image, &elf, error);
    if (result == 0 && elf.entry > UINT32_MAX) {
        result = error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                           "its entry point 0x%" PRIx64 " is above 4 GiB, out of reach "
                           "of multiboot's 32-bit start",
                           elf.entry);
    }
    if (result == 0) {
        result = elf_put(loader, &elf, &loader->image, error);
        loader->entry->rip = elf.entry;
    }
    return result;
}

/* "path options", as boot loaders and QEMU pass it, at *base. */
static int multiboot_cmdline_put(struct loader *loader, const char *path,
                                 const char *options, gpa *base,
                                 struct umbra_error *error)
{
    char *text = NULL;
    int length = asprintf(&text, "%s%s%s", path, options[0] != '\0' ? " " : "", options);
    int result;

    if (length < 0) {
        return error_set(error, UMBRA_ERROR_INTERNAL, ENOMEM,
                         "no memory for the command line");
    }
    result = loader_put_low(loader, text, (uint64_t)length + 1, "the command line", base,
                            error);
    free(text);
    return result;
}

/* mem_upper: KiB from 1 MiB to the first hole. */
static uint32_t multiboot_mem_upper(const struct layout *layout)
{
    for (size_t i = 0; i < layout->map_count; i++) {
        if (layout->map[i].type == MEMORY_USABLE && layout->map[i].base == MIB) {
            return (uint32_t)(layout->map[i].size / KIB);
        }
    }
    return 0;
}

static void multiboot_map_fill(const struct layout *layout, uint8_t *at)
{
    for (size_t i = 0; i < layout->map_count; i++, at += MULTIBOOT_MMAP_ENTRY) {
        store_le32(at, MULTIBOOT_MMAP_ENTRY - 4);
        store_le64(at + 4, layout->map[i].base);
        store_le64(at + 12, layout->map[i].size);
        store_le32(at + 20, layout->map[i].type);
    }
}

/* The pieces that the information structure points at. */
struct multiboot_parts {
    gpa cmdline, initrd, module_cmdline, loader_name;
    uint64_t initrd_size;
};

/* Structure, module list and memory map in one block, which points into itself. */
static int multiboot_info_put(struct loader *loader, const struct multiboot_parts *parts,
                              struct umbra_error *error)
{
    enum {
        MODULE = MULTIBOOT_INFO_SIZE,
        MAP = MODULE + MULTIBOOT_MODULE_SIZE,
        SIZE = MAP + MEMORY_MAP_MAX * MULTIBOOT_MMAP_ENTRY
    };
    uint8_t info[SIZE] = { 0 };
    uint32_t flags = MULTIBOOT_INFO_MEMORY | MULTIBOOT_INFO_CMDLINE |
                     MULTIBOOT_INFO_MMAP | MULTIBOOT_INFO_LOADER;
    gpa base;
    int result = loader_put_low(loader, info, sizeof(info), "the multiboot information",
                                &base, error);

    if (result != 0) {
        return result;
    }
    store_le32(info + MULTIBOOT_MEM_LOWER, (uint32_t)(BOARD_EBDA_BASE / KIB));
    store_le32(info + MULTIBOOT_MEM_UPPER, multiboot_mem_upper(&loader->layout));
    store_le32(info + MULTIBOOT_CMDLINE, (uint32_t)parts->cmdline);
    store_le32(info + MULTIBOOT_MMAP_LENGTH,
               (uint32_t)loader->layout.map_count * MULTIBOOT_MMAP_ENTRY);
    store_le32(info + MULTIBOOT_MMAP, (uint32_t)(base + MAP));
    store_le32(info + MULTIBOOT_LOADER_NAME, (uint32_t)parts->loader_name);
    if (parts->initrd_size != 0) {
        flags |= MULTIBOOT_INFO_MODS;
        store_le32(info + MULTIBOOT_MODS_COUNT, 1);
        store_le32(info + MULTIBOOT_MODS, (uint32_t)(base + MODULE));
        store_le32(info + MODULE, (uint32_t)parts->initrd);
        store_le32(info + MODULE + 4, (uint32_t)(parts->initrd + parts->initrd_size));
        store_le32(info + MODULE + 8, (uint32_t)parts->module_cmdline);
    }
    store_le32(info + MULTIBOOT_INFO_FLAGS, flags);
    multiboot_map_fill(&loader->layout, info + MAP);
    loader->entry->rbx = base;
    return guest_mem_load(loader->mem, base, info, sizeof(info)) == 0
               ? 0
               : error_set(error, UMBRA_ERROR_INTERNAL, EFAULT,
                           "the multiboot information cannot be written to guest memory");
}

/* Modules lie right behind the kernel, where kernels look for free memory after them. */
static int multiboot_parts_put(struct loader *loader, struct multiboot_parts *parts,
                               struct umbra_error *error)
{
    static const char name[] = "umbra";
    const struct boot_request *request = loader->request;
    gpa kernel_end = layout_end(&loader->layout, BOARD_HIGH_RAM_BASE);
    int result = multiboot_cmdline_put(loader, loader->image.name, request->append,
                                       &parts->cmdline, error);

    if (result == 0) {
        result = loader_put_low(loader, name, sizeof(name), "the loader's name",
                                &parts->loader_name, error);
    }
    if (result == 0) {
        result = loader_put_initrd(loader, kernel_end > MIB ? kernel_end : MIB,
                                   BOARD_HIGH_RAM_BASE, false, &parts->initrd,
                                   &parts->initrd_size, error);
    }
    if (result == 0 && request->initrd_path != NULL) {
        result = multiboot_cmdline_put(loader, request->initrd_path, "",
                                       &parts->module_cmdline, error);
    }
    return result;
}

int multiboot_load(struct loader *loader, struct umbra_error *error)
{
    struct boot_entry *entry = loader->entry;
    struct multiboot_parts parts = { 0 };
    struct multiboot_header header;
    uint32_t unknown;
    int result;

    if (!multiboot_find(loader->image.data, loader->image.size, &header)) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "it has no valid multiboot header in its first 8 KiB");
    }
    unknown = header.flags & MULTIBOOT_REQUIRED & ~(uint32_t)MULTIBOOT_KNOWN;
    if (unknown != 0) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOTSUP,
                         "its multiboot header requires features 0x%x that no boot "
                         "loader defines",
                         unknown);
    }
    if ((header.flags & MULTIBOOT_WANTS_VIDEO) != 0) {
        log_warning(loader->request->log,
                    "boot: %s: wants a video mode, which this board does not have",
                    loader->image.name);
    }
    result = (header.flags & MULTIBOOT_HAS_ADDRESSES) != 0
                 ? multiboot_put_addresses(loader, &header, error)
                 : multiboot_put_elf(loader, error);
    if (result == 0) {
        result = multiboot_parts_put(loader, &parts, error);
    }
    if (result == 0) {
        result = multiboot_info_put(loader, &parts, error);
    }
    if (result != 0) {
        return result;
    }
    entry->rax = MULTIBOOT_ENTRY_MAGIC;
    snprintf(entry->description, sizeof(entry->description), "multiboot kernel (%s)",
             (header.flags & MULTIBOOT_HAS_ADDRESSES) != 0 ? "address fields" : "ELF");
    return loader_enter(loader, BOOT_MODE_PROTECTED, entry->rip, error);
}
