/* SPDX-License-Identifier: MIT */
/* boot_load: read the image, tell its kind, hand it to that kind's loader. */
#include "vmm/boot/boot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "vmm/boot/elf.h"
#include "vmm/boot/loader.h"

/* Every kind is told from so many bytes. */
enum { BOOT_HEAD = 64 << 10 };

static const struct boot_kind {
    const char *name;
    int (*load)(struct loader *loader, struct umbra_error *error);
} boot_kinds[] = {
    [BOOT_IMAGE_BZIMAGE] = { "bzImage", bzimage_load },
    [BOOT_IMAGE_ELF64] = { "ELF64", elf_load },
    [BOOT_IMAGE_ELF32] = { "ELF32", elf_load },
    [BOOT_IMAGE_PVH] = { "PVH", pvh_load },
    [BOOT_IMAGE_MULTIBOOT] = { "multiboot", multiboot_load },
    [BOOT_IMAGE_FLAT] = { "flat", flat_load },
};

const char *boot_image_kind_name(enum boot_image_kind kind)
{
    return (size_t)kind < ARRAY_SIZE(boot_kinds) ? boot_kinds[kind].name : "unknown";
}

/* What somebody may have passed by mistake, by its first bytes. */
static const char *boot_guess(const uint8_t *data, size_t size)
{
    static const struct {
        const char *magic;
        size_t size;
        const char *what;
    } known[] = {
        { "\x1f\x8b", 2, "gzip data (an initrd?)" },
        { "\xfd"
          "7zXZ",
          6, "xz data (an initrd?)" },
        { "\x28\xb5\x2f\xfd", 4, "zstd data (an initrd?)" },
        { "070701", 6, "a cpio archive (an initrd?)" },
        { "!<arch>", 7, "an ar archive (a .deb package?)" },
        { "QFI\xfb", 4, "a qcow2 disk image" },
        { "MZ", 2, "a PE program without a Linux setup header" },
        { "#!", 2, "a script" },
        { "{", 1, "text (a JSON config?)" },
    };

    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        if (size >= known[i].size && memcmp(data, known[i].magic, known[i].size) == 0) {
            return known[i].what;
        }
    }
    return "in no format that umbra knows";
}

/* Tell the kind of an image from its first bytes. */
static int boot_detect(struct image *image, enum boot_image_kind *kind,
                       struct umbra_error *error)
{
    size_t head = image->size < BOOT_HEAD ? image->size : BOOT_HEAD;
    int result = image_need(image, 0, head, error);

    if (result != 0) {
        return result;
    }
    if (bzimage_probe(image->data, head)) {
        *kind = BOOT_IMAGE_BZIMAGE;
        return 0;
    }
    if (multiboot_probe(image->data, head)) {
        *kind = BOOT_IMAGE_MULTIBOOT;
        return 0;
    }
    if (elf_probe(image->data, head)) {
        struct elf_image elf;

        result = elf_parse(image, &elf, error);
        if (result == 0) {
            *kind = elf.has_pvh ? BOOT_IMAGE_PVH
                    : elf.is64  ? BOOT_IMAGE_ELF64
                                : BOOT_IMAGE_ELF32;
        }
        return result;
    }
    return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                     "it is %s; expected a bzImage, an ELF vmlinux, a PVH or multiboot "
                     "kernel (a flat binary needs --kernel-format flat)",
                     boot_guess(image->data, head));
}

int loader_put(struct loader *loader, const struct loader_piece *piece,
               struct umbra_error *error)
{
    int result = layout_claim(&loader->layout, piece->base, piece->memory_size,
                              piece->what, error);
    uint64_t rest = piece->memory_size - piece->size;
    gpa zero = piece->base + piece->size, inner = align_up(zero, 4096);
    gpa end = align_down(zero + rest, 4096);

    if (result != 0) {
        return result;
    }
    result = image_put(piece->image, piece->offset, piece->size, loader->mem, piece->base,
                       error);
    if (result != 0) {
        return result;
    }
    /* Whole pages are dropped, which costs nothing on fresh memory and stays lazy. */
    if (end > inner + MIB && guest_mem_discard(loader->mem, inner, end - inner) == 0) {
        result = guest_mem_fill(loader->mem, zero, 0, inner - zero);
        zero = end;
        rest = piece->base + piece->memory_size - end;
    }
    if (result == 0 && rest > 0) {
        result = guest_mem_fill(loader->mem, zero, 0, rest);
    }
    if (result != 0) {
        return error_set(error, UMBRA_ERROR_INTERNAL, -result,
                         "%s cannot be written to guest memory at 0x%" PRIx64,
                         piece->what, piece->base);
    }
    return 0;
}

int loader_put_low(struct loader *loader, const void *data, uint64_t size,
                   const char *what, gpa *base, struct umbra_error *error)
{
    struct layout_wish wish = {
        .size = size, .align = 4096, .max = BOARD_EBDA_BASE, .what = what
    };
    int result = layout_place(&loader->layout, &wish, base, error);

    if (result != 0) {
        wish.max = BOARD_HIGH_RAM_BASE;
        result = layout_place(&loader->layout, &wish, base, error);
    }
    if (result == 0 && guest_mem_load(loader->mem, *base, data, size) != 0) {
        result =
            error_set(error, UMBRA_ERROR_INTERNAL, EFAULT,
                      "%s cannot be written to guest memory at 0x%" PRIx64, what, *base);
    }
    return result;
}

int loader_put_initrd(struct loader *loader, gpa min, gpa max, bool top, gpa *base,
                      uint64_t *size, struct umbra_error *error)
{
    const char *path = loader->request->initrd_path;
    struct layout_wish wish = {
        .align = 4096, .min = min, .max = max, .top = top, .what = "the initrd"
    };
    struct image image;
    int result;

    *base = 0;
    *size = 0;
    if (path == NULL) {
        return 0;
    }
    result = image_open(path, "initrd", UINT64_MAX, &image, error);
    if (result == 0) {
        wish.size = image.size;
        result = layout_place(&loader->layout, &wish, base, error);
        if (result != 0) {
            error_prefix(error, "initrd '%s'", path);
        }
    }
    if (result == 0) {
        *size = wish.size;
        result = image_put(&image, 0, image.size, loader->mem, *base, error);
    }
    image_close(&image);
    loader->file_named = result != 0;
    return result;
}

bool loader_linux_version(const struct loader *loader, gpa base, uint64_t size,
                          char *text, size_t text_size)
{
    static const char banner[] = "Linux version ";
    uint64_t span = guest_mem_span(loader->mem, base);
    const char *at, *end;
    size_t used = 0;

    size = size < span ? size : span;
    at = guest_mem_const_ptr(loader->mem, base, size);
    if (at == NULL) {
        return false;
    }
    end = at + size;
    /* The format string "Linux version %s" may come first. */
    for (;;) {
        at = memmem(at, (size_t)(end - at), banner, sizeof(banner) - 1);
        if (at == NULL) {
            return false;
        }
        at += sizeof(banner) - 1;
        if (at < end && *at >= '0' && *at <= '9') {
            break;
        }
    }
    while (at<end && * at> ' ' && *at < 0x7f && used + 1 < text_size) {
        text[used++] = *at++;
    }
    text[used] = '\0';
    return true;
}

/* The image as bytes, whichever way it was given. */
static int boot_open(const struct boot_request *request, struct image *image,
                     struct umbra_error *error)
{
    if (request->kernel_path != NULL) {
        return image_open(request->kernel_path, "kernel", LOADER_IMAGE_MAX, image, error);
    }
    if (request->kernel_bytes == NULL || request->kernel_size == 0) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "no kernel given; name one with \"kernel\" or --kernel");
    }
    image_borrow(request->kernel_bytes, request->kernel_size, "(embedded)", "kernel",
                 image);
    return 0;
}

/* ACPI tables go where firmware has them; a guest without RAM there does without. */
static int boot_acpi(struct loader *loader, struct umbra_error *error)
{
    const struct boot_request *request = loader->request;

    if (request->no_acpi ||
        guest_mem_span(loader->mem, BOARD_ROM_BASE) < BOARD_ROM_SIZE) {
        return 0;
    }
    return acpi_write(request->board, loader->mem, BOARD_ROM_BASE, BOARD_ROM_SIZE,
                      &loader->rsdp, error);
}

bool boot_entry_physical(const struct boot_entry *entry, uint64_t address, gpa *physical)
{
    for (unsigned i = 0; i < entry->segment_count; i++) {
        const struct boot_segment *segment = &entry->segments[i];

        if (address - segment->virtual_address < segment->size) {
            *physical = segment->address + (address - segment->virtual_address);
            return true;
        }
    }
    return false;
}

int boot_load(const struct boot_request *request, struct boot_entry *entry,
              struct umbra_error *error)
{
    struct loader loader = { .request = request, .mem = request->mem, .entry = entry };
    int result;

    memset(entry, 0, sizeof(*entry));
    layout_init(&loader.layout, request->board);
    result = boot_open(request, &loader.image, error);
    if (result != 0) {
        return result;
    }
    result = boot_acpi(&loader, error);
    if (result != 0) {
        goto out;
    }
    entry->kind = BOOT_IMAGE_FLAT;
    if (!request->flat) {
        result = boot_detect(&loader.image, &entry->kind, error);
    }
    if (result == 0) {
        result = boot_kinds[entry->kind].load(&loader, error);
    }
    if (result != 0) {
        if (!loader.file_named) {
            error_prefix(error, "kernel '%s'", loader.image.name);
        }
        goto out;
    }
    log_info(request->log, "boot: %s: %s, entered at 0x%" PRIx64, loader.image.name,
             entry->description, entry->rip);
out:
    image_close(&loader.image);
    return result;
}
