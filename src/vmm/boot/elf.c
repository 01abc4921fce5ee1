/* SPDX-License-Identifier: MIT */
/* ELF kernels: headers checked, segments put at their physical addresses. */
#include "vmm/boot/elf.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/error.h"
#include "vmm/boot/linux_params.h"

/* Xen's public elfnote.h: the 32-bit physical entry point of a PVH kernel. */
enum { ELF_NOTE_PHYS32_ENTRY = 18 };

/* Far more than kernels have; what a hostile one has beyond that is not looked at. */
enum { ELF_NOTES_MAX = 64 << 10, ELF_NOTE_SEGMENTS_MAX = 16 };

bool elf_probe(const void *data, size_t size)
{
    return size >= EI_NIDENT && memcmp(data, ELFMAG, SELFMAG) == 0;
}

static bool elf_inside(size_t size, uint64_t offset, uint64_t length)
{
    return offset <= size && length <= size - offset;
}

/* The header fields that matter, of either class. */
struct elf_header {
    uint16_t type, machine, phentsize, phnum;
    uint64_t entry, phoff;
};

static int elf_header_read(const uint8_t *data, size_t size, struct elf_image *elf,
                           struct elf_header *header, struct umbra_error *error)
{
    size_t need;

    elf->is64 = data[EI_CLASS] == ELFCLASS64;
    need = elf->is64 ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr);
    if ((!elf->is64 && data[EI_CLASS] != ELFCLASS32) || data[EI_DATA] != ELFDATA2LSB) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "its ELF class %u or byte order %u is not that of a "
                         "little-endian x86 kernel",
                         data[EI_CLASS], data[EI_DATA]);
    }
    if (size < need) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "its ELF header is cut off: %zu of %zu bytes", size, need);
    }
    if (elf->is64) {
        Elf64_Ehdr h;

        memcpy(&h, data, sizeof(h));
        *header = (struct elf_header){ h.e_type,  h.e_machine, h.e_phentsize,
                                       h.e_phnum, h.e_entry,   h.e_phoff };
        need = sizeof(Elf64_Phdr);
    } else {
        Elf32_Ehdr h;

        memcpy(&h, data, sizeof(h));
        *header = (struct elf_header){ h.e_type,  h.e_machine, h.e_phentsize,
                                       h.e_phnum, h.e_entry,   h.e_phoff };
        need = sizeof(Elf32_Phdr);
    }
    if (header->machine != EM_X86_64 && header->machine != EM_386) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "it is built for ELF machine %u; expected x86-64 (%u) or i386 "
                         "(%u)",
                         header->machine, EM_X86_64, EM_386);
    }
    if (header->type != ET_EXEC && header->type != ET_DYN) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "its ELF type is %u; expected an executable (%u), not an object "
                         "file or core dump",
                         header->type, ET_EXEC);
    }
    if (header->phnum == 0 || header->phentsize < need ||
        !elf_inside(size, header->phoff, (uint64_t)header->phnum * header->phentsize)) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "its %u ELF program headers of %u bytes at offset %" PRIu64
                         " are not inside the file's %zu bytes: it is cut off or corrupt",
                         header->phnum, header->phentsize, header->phoff, size);
    }
    return 0;
}

static void elf_program_header(const uint8_t *at, bool is64, Elf64_Phdr *out)
{
    if (is64) {
        memcpy(out, at, sizeof(*out));
    } else {
        Elf32_Phdr h;

        memcpy(&h, at, sizeof(h));
        *out = (Elf64_Phdr){ .p_type = h.p_type,
                             .p_offset = h.p_offset,
                             .p_vaddr = h.p_vaddr,
                             .p_paddr = h.p_paddr,
                             .p_filesz = h.p_filesz,
                             .p_memsz = h.p_memsz,
                             .p_align = h.p_align };
    }
}

static int elf_segment_add(struct elf_image *elf, const Elf64_Phdr *h, size_t size,
                           struct umbra_error *error)
{
    if (h->p_memsz == 0 && h->p_filesz == 0) {
        return 0;
    }
    if (!elf_inside(size, h->p_offset, h->p_filesz)) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "its ELF segment of %" PRIu64 " bytes at offset %" PRIu64
                         " lies beyond the file's %zu bytes: it is cut off or corrupt",
                         h->p_filesz, h->p_offset, size);
    }
    if (h->p_memsz < h->p_filesz || h->p_paddr + h->p_memsz < h->p_paddr) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "its ELF segment at 0x%" PRIx64
                         " has an impossible size (%" PRIu64
                         " bytes in the file, %" PRIu64 " in memory)",
                         h->p_paddr, h->p_filesz, h->p_memsz);
    }
    if (elf->count == ELF_MAX_SEGMENTS) {
        return error_set(error, UMBRA_ERROR_CONFIG, E2BIG,
                         "it has more than %d ELF segments to load; link it into fewer",
                         ELF_MAX_SEGMENTS);
    }
    elf->segments[elf->count++] =
        (struct elf_segment){ h->p_offset, h->p_filesz, h->p_paddr, h->p_memsz,
                              h->p_vaddr };
    return 0;
}

/* Look for the PVH entry in a PT_NOTE segment; damaged notes are only passed over. */
static void elf_notes(struct elf_image *elf, struct image *image, const Elf64_Phdr *h)
{
    const uint8_t *data = image->data;
    uint64_t align = h->p_align == 8 ? 8 : 4, at = h->p_offset, end;

    if (!elf_inside(image->size, h->p_offset, h->p_filesz) ||
        h->p_filesz > ELF_NOTES_MAX ||
        image_need(image, h->p_offset, h->p_filesz, NULL) != 0) {
        return;
    }
    end = h->p_offset + h->p_filesz;
    while (end - at >= 12) {
        uint64_t name = at + 12, name_size = load_le32(data + at);
        uint64_t desc_size = load_le32(data + at + 4);
        uint64_t desc = at + align_up(12 + name_size, align);

        if (desc > end || desc_size > end - desc) {
            return;
        }
        if (load_le32(data + at + 8) == ELF_NOTE_PHYS32_ENTRY && name_size == 4 &&
            memcmp(data + name, "Xen", 4) == 0 && (desc_size == 4 || desc_size == 8)) {
            elf->has_pvh = true;
            elf->pvh_entry =
                desc_size == 4 ? load_le32(data + desc) : load_le64(data + desc);
        }
        at = desc + align_up(desc_size, align);
        if (at > end) {
            return;
        }
    }
}

bool elf_contains(const struct elf_image *elf, uint64_t address)
{
    for (unsigned i = 0; i < elf->count; i++) {
        if (address - elf->segments[i].address < elf->segments[i].memory_size) {
            return true;
        }
    }
    return false;
}

/* e_entry is physical in Linux and virtual elsewhere. */
static int elf_entry(struct elf_image *elf, uint64_t entry, struct umbra_error *error)
{
    elf->entry = entry;
    if (elf_contains(elf, entry)) {
        return 0;
    }
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *segment = &elf->segments[i];

        if (entry - segment->virtual_address < segment->memory_size) {
            elf->entry = segment->address + (entry - segment->virtual_address);
            return 0;
        }
    }
    return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                     "its entry point 0x%" PRIx64 " lies in none of its segments: it is "
                     "corrupt or not a kernel",
                     entry);
}

int elf_parse(struct image *image, struct elf_image *elf, struct umbra_error *error)
{
    const uint8_t *data = image->data;
    size_t size = image->size;
    struct elf_header header = { 0 };
    unsigned notes = 0;
    int result;

    memset(elf, 0, sizeof(*elf));
    result = image_need(image, 0, size < sizeof(Elf64_Ehdr) ? size : sizeof(Elf64_Ehdr),
                        error);
    if (result == 0 && !elf_probe(data, size)) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC, "it is not an ELF file");
    }
    if (result == 0) {
        result = elf_header_read(data, size, elf, &header, error);
    }
    if (result == 0) {
        result = image_need(image, header.phoff, (size_t)header.phnum * header.phentsize,
                            error);
    }
    for (unsigned i = 0; result == 0 && i < header.phnum; i++) {
        Elf64_Phdr h;

        elf_program_header(data + header.phoff + (size_t)i * header.phentsize, elf->is64,
                           &h);
        if (h.p_type == PT_LOAD) {
            result = elf_segment_add(elf, &h, size, error);
        } else if (h.p_type == PT_NOTE && notes++ < ELF_NOTE_SEGMENTS_MAX) {
            elf_notes(elf, image, &h);
        } else if (h.p_type == PT_INTERP) {
            return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                             "it is a program for an operating system (it names an ELF "
                             "interpreter), not a kernel");
        }
    }
    if (result != 0) {
        return result;
    }
    if (elf->count == 0) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "it has no ELF segment to load");
    }
    return elf_entry(elf, header.entry, error);
}

int elf_put(struct loader *loader, const struct elf_image *elf, struct image *image,
            struct umbra_error *error)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *segment = &elf->segments[i];
        struct loader_piece piece = { .base = segment->address,
                                      .image = image,
                                      .offset = segment->offset,
                                      .size = segment->file_size,
                                      .memory_size = segment->memory_size,
                                      .what = "an ELF segment" };
        int result = loader_put(loader, &piece, error);

        if (result != 0) {
            return result;
        }
        if (loader->entry->segment_count < BOOT_MAX_SEGMENTS) {
            loader->entry->segments[loader->entry->segment_count++] =
                (struct boot_segment){ segment->virtual_address, segment->address,
                                       segment->memory_size };
        }
    }
    return 0;
}

bool elf_linux_version(const struct loader *loader, const struct elf_image *elf,
                       char *text, size_t text_size)
{
    for (unsigned i = 0; i < elf->count; i++) {
        if (loader_linux_version(loader, elf->segments[i].address,
                                 elf->segments[i].file_size, text, text_size)) {
            return true;
        }
    }
    return false;
}

/* A vmlinux, or any kernel that takes a zero page in (r)si. */
int elf_load(struct loader *loader, struct umbra_error *error)
{
    struct boot_entry *entry = loader->entry;
    struct linux_kernel kernel = { .cmdline_max = LINUX_CMDLINE_DEFAULT,
                                   .initrd_max = LINUX_INITRD_MAX_64,
                                   .above_4g = true };
    char version[64];
    struct elf_image elf;
    int result = elf_parse(&loader->image, &elf, error);

    if (result == 0) {
        result = elf_put(loader, &elf, &loader->image, error);
    }
    if (result != 0) {
        return result;
    }
    if (!elf.is64) {
        kernel.initrd_max = LINUX_INITRD_MAX_32;
        kernel.above_4g = false;
    }
    entry->linux_kernel = elf_linux_version(loader, &elf, version, sizeof(version));
    result = linux_params_put(loader, &kernel, &entry->rsi, error);
    if (result != 0) {
        return result;
    }
    snprintf(entry->description, sizeof(entry->description), "ELF%s kernel%s%s",
             elf.is64 ? "64" : "32", entry->linux_kernel ? ", Linux " : "",
             entry->linux_kernel ? version : "");
    return loader_enter(loader, elf.is64 ? BOOT_MODE_LONG : BOOT_MODE_PROTECTED,
                        elf.entry, error);
}
