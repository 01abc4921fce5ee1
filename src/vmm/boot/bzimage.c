/* SPDX-License-Identifier: MIT */
/*
 * Linux's bzImage (Documentation/arch/x86/boot.rst): the compressed kernel inside is
 * unpacked here and entered directly, or left to the image's own stub.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "vmm/boot/elf.h"
#include "vmm/boot/linux_params.h"

enum { BZIMAGE_SECTOR = 512, BZIMAGE_ENTRY64 = 0x200 };

/* The setup header's fields, checked against the file. */
struct bzimage {
    uint16_t version; /* of the boot protocol, 0x20f for 2.15 */
    const uint8_t *code;
    size_t code_size; /* the protected-mode part */
    bool has_64bit_entry;
    bool relocatable;
    uint64_t load;      /* where the stub wants to be */
    uint64_t init_size; /* memory that the stub and the kernel need from there on */
    const uint8_t *payload;
    size_t payload_size; /* 0: none */
    char release[64];    /* "6.1.0-56-amd64" */
    struct linux_kernel kernel;
};

bool bzimage_probe(const void *image, size_t size)
{
    const uint8_t *data = image;

    return size >= LINUX_VERSION + 2 &&
           load_le16(data + LINUX_BOOT_FLAG) == LINUX_BOOT_FLAG_VALUE &&
           load_le32(data + LINUX_MAGIC) == LINUX_MAGIC_VALUE;
}

/* The version string up to its first space, from where the header points. */
static void bzimage_release(const uint8_t *data, size_t setup_size, char *text,
                            size_t text_size)
{
    size_t at = load_le16(data + LINUX_KERNEL_VERSION), used = 0;

    if (at != 0) {
        at += BZIMAGE_SECTOR;
        while (at < setup_size && data[at] > ' ' && data[at] < 0x7f &&
               used + 1 < text_size) {
            text[used++] = (char)data[at++];
        }
    }
    text[used] = '\0';
}

/* The fields that newer protocols added, or what older ones imply. */
static void bzimage_optional(const uint8_t *data, struct bzimage *bz)
{
    uint16_t xloadflags = bz->version >= 0x20c ? load_le16(data + LINUX_XLOADFLAGS) : 0;

    bz->kernel.cmdline_max =
        bz->version >= 0x206 ? load_le32(data + LINUX_CMDLINE_SIZE) : 255;
    bz->kernel.initrd_max = bz->version >= 0x203 ? load_le32(data + LINUX_INITRD_ADDR_MAX)
                                                 : LINUX_INITRD_MAX_32;
    bz->kernel.above_4g = (xloadflags & LINUX_XLF_ABOVE_4G) != 0;
    bz->has_64bit_entry = (xloadflags & LINUX_XLF_KERNEL_64) != 0;
    bz->relocatable = bz->version >= 0x205 && data[LINUX_RELOCATABLE] != 0;
    bz->load = MIB;
    if (bz->version >= 0x20a) {
        bz->init_size = load_le32(data + LINUX_INIT_SIZE);
        if (bz->relocatable) {
            bz->load = load_le64(data + LINUX_PREF_ADDRESS);
        }
    }
}

static int bzimage_payload(const uint8_t *data, struct bzimage *bz,
                           struct umbra_error *error)
{
    uint32_t offset, length;

    if (bz->version < 0x208) {
        return 0;
    }
    offset = load_le32(data + LINUX_PAYLOAD_OFFSET);
    length = load_le32(data + LINUX_PAYLOAD_LENGTH);
    if (offset > bz->code_size || length > bz->code_size - offset) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "its compressed kernel (%u bytes at %u) lies beyond the %zu "
                         "bytes of code in the file: it is cut off or corrupt; fetch or "
                         "build the image again",
                         length, offset, bz->code_size);
    }
    bz->payload = bz->code + offset;
    bz->payload_size = length;
    return 0;
}

static int bzimage_parse(const struct image *image, struct bzimage *bz,
                         struct umbra_error *error)
{
    const uint8_t *data = image->data;
    size_t setup_size, header_end;

    memset(bz, 0, sizeof(*bz));
    bz->version = load_le16(data + LINUX_VERSION);
    setup_size =
        ((size_t)(data[LINUX_SETUP_SECTS] != 0 ? data[LINUX_SETUP_SECTS] : 4) + 1) *
        BZIMAGE_SECTOR;
    header_end = LINUX_MAGIC + data[LINUX_JUMP_OFFSET];
    if (bz->version < 0x200) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "its boot protocol %u.%02u is older than 2.00 (Linux 1.3.73)",
                         bz->version >> 8, bz->version & 0xff);
    }
    if (image->size <= setup_size || setup_size < LINUX_HEADER_END) {
        return error_set(
            error, UMBRA_ERROR_CONFIG, ENOEXEC,
            "it is cut off: %zu bytes, but its real-mode part alone has %zu; "
            "fetch or build the image again",
            image->size, setup_size);
    }
    if ((data[LINUX_LOADFLAGS] & LINUX_LOADED_HIGH) == 0) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "it is a zImage, which loads below 1 MiB; build a bzImage");
    }
    /* Never copy setup code into the zero page, nor past its room for a header. */
    header_end = header_end > LINUX_HEADER_END ? LINUX_HEADER_END : header_end;
    bz->kernel.header = data + LINUX_SETUP_SECTS;
    bz->kernel.header_size = header_end - LINUX_SETUP_SECTS;
    bz->code = data + setup_size;
    bz->code_size = image->size - setup_size;
    bzimage_release(data, setup_size, bz->release, sizeof(bz->release));
    bzimage_optional(data, bz);
    return bzimage_payload(data, bz, error);
}

static void bzimage_describe(struct loader *loader, const struct bzimage *bz,
                             const char *how)
{
    snprintf(loader->entry->description, sizeof(loader->entry->description),
             "bzImage %s (%s)", bz->release[0] != '\0' ? bz->release : "Linux", how);
}

/* Put the stub where it wants to be and let it unpack its kernel. */
static int bzimage_enter_stub(struct loader *loader, struct bzimage *bz,
                              struct umbra_error *error)
{
    struct loader_piece piece = {
        .base = bz->load,
        .image = &loader->image,
        .offset = (uint64_t)(bz->code - loader->image.data),
        .size = bz->code_size,
        .memory_size = bz->init_size > bz->code_size ? bz->init_size : bz->code_size,
        .what = "the compressed kernel",
    };
    int result = loader_put(loader, &piece, error);

    if (result == 0) {
        result = linux_params_put(loader, &bz->kernel, &loader->entry->rsi, error);
    }
    if (result != 0) {
        return result;
    }
    bzimage_describe(loader, bz, "unpacked by the guest");
    if (bz->has_64bit_entry && bz->code_size > BZIMAGE_ENTRY64 &&
        bz->load < BOARD_HIGH_RAM_BASE) {
        return loader_enter(loader, BOOT_MODE_LONG, bz->load + BZIMAGE_ENTRY64, error);
    }
    return loader_enter(loader, BOOT_MODE_PROTECTED, bz->load, error);
}

/* Put the kernel that @vmlinux holds (an ELF, behind it relocations that KASLR would
 * need) at its own addresses and enter it past the stub. */
static int bzimage_enter_kernel(struct loader *loader, struct bzimage *bz,
                                const void *vmlinux, size_t size, const char *format,
                                struct umbra_error *error)
{
    struct image image;
    struct elf_image elf;
    char how[48];
    int result;

    image_borrow(vmlinux, size, loader->image.name, "kernel", &image);
    result = elf_parse(&image, &elf, error);
    if (result == 0) {
        result = elf_put(loader, &elf, &image, error);
    }
    if (result == 0) {
        result = linux_params_put(loader, &bz->kernel, &loader->entry->rsi, error);
    }
    if (result != 0) {
        return result;
    }
    snprintf(how, sizeof(how), "%s, unpacked on the host", format);
    bzimage_describe(loader, bz, how);
    return loader_enter(loader, elf.is64 ? BOOT_MODE_LONG : BOOT_MODE_PROTECTED,
                        elf.entry, error);
}

int bzimage_unpack(const void *data, size_t size, size_t limit, void **vmlinux,
                   size_t *vmlinux_size, struct umbra_error *error)
{
    const struct image image = { .data = data, .size = size };
    const char *format;
    struct bzimage bz;
    int result = bzimage_parse(&image, &bz, error);

    if (result == 0 && bz.payload_size == 0) {
        result = error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                           "its boot protocol does not tell where its kernel is");
    }
    return result != 0 ? result
                       : boot_decompress(bz.payload, bz.payload_size, limit, vmlinux,
                                         vmlinux_size, &format, error);
}

int bzimage_load(struct loader *loader, struct umbra_error *error)
{
    uint64_t limit = guest_mem_ram_size(loader->mem);
    const char *format = NULL;
    void *vmlinux = NULL;
    struct bzimage bz;
    size_t size = 0;
    int result = image_need(&loader->image, 0, loader->image.size, error);

    if (result == 0) {
        result = bzimage_parse(&loader->image, &bz, error);
    }
    if (result != 0) {
        return result;
    }
    loader->entry->linux_kernel = true;
    if (loader->request->decompress_in_guest || bz.payload_size == 0) {
        return bzimage_enter_stub(loader, &bz, error);
    }
    limit = limit < LOADER_IMAGE_MAX ? limit : LOADER_IMAGE_MAX;
    result = boot_decompress(bz.payload, bz.payload_size, limit, &vmlinux, &size, &format,
                             error);
    if (result == -ENOEXEC) {
        log_warning(loader->request->log,
                    "boot: %s: its payload is in an unknown format; the guest unpacks it",
                    loader->image.name);
        return bzimage_enter_stub(loader, &bz, error);
    }
    if (result == 0) {
        result = bzimage_enter_kernel(loader, &bz, vmlinux, size, format, error);
    }
    free(vmlinux);
    return result;
}
