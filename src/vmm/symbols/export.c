/* SPDX-License-Identifier: MIT */
/* A program's symbols as an ELF file of its own: sections without contents, a symbol table,
 * and call frame information. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/util.h"
#include "vmm/boot/image.h"
#include "vmm/boot/loader.h"
#include "vmm/symbols/file.h"
#include "vmm/symbols/frames.h"

enum { EXPORT_SECTIONS = 128, KERNEL_MAX = 256 << 20 };

struct export
{
    struct bytes file, names, strings;
    Elf64_Shdr sections[EXPORT_SECTIONS];
    unsigned count;
};

static unsigned export_section(struct export *out, const char *name,
                               const Elf64_Shdr *section)
{
    if (out->count == EXPORT_SECTIONS) {
        return 0;
    }
    out->sections[out->count] = *section;
    out->sections[out->count].sh_name = (Elf64_Word)out->names.size;
    bytes_add(&out->names, name, strlen(name) + 1);
    return out->count++;
}

/* A section with contents: what was added to the file since @from. */
static unsigned export_contents(struct export *out, const char *name, Elf64_Shdr section,
                                size_t from)
{
    section.sh_offset = from;
    section.sh_size = out->file.size - from;
    return export_section(out, name, &section);
}

static size_t export_align(struct export *out)
{
    while (out->file.size % 8 != 0 && !out->file.failed) {
        bytes_add8(&out->file, 0);
    }
    return out->file.size;
}

/* The places of the program's sections, so that tools know what is code. */
static void export_places(struct export *out, const struct elf_file *elf)
{
    for (size_t i = 0; i < elf->count; i++) {
        const struct elf_section *section = &elf->sections[i];
        const Elf64_Shdr place = {
            .sh_type = SHT_NOBITS,
            .sh_flags = section->flags & (SHF_ALLOC | SHF_WRITE | SHF_EXECINSTR),
            .sh_addr = section->address,
            .sh_offset = sizeof(Elf64_Ehdr),
            .sh_size = section->size,
            .sh_addralign = 1,
        };

        if (section->flags & SHF_ALLOC && section->address != 0 && section->size != 0 &&
            section->name < elf->names_size && out->count < EXPORT_SECTIONS - 8) {
            export_section(out, elf->names + section->name, &place);
        }
    }
}

static uint16_t export_place_of(const struct export *out, uint64_t address)
{
    for (unsigned i = 1; i < out->count; i++) {
        if (address - out->sections[i].sh_addr < out->sections[i].sh_size) {
            return (uint16_t)i;
        }
    }
    return SHN_ABS;
}

static void export_symbol(struct export *out, const struct symbol_table *table,
                          size_t index, bool local)
{
    const struct symbol *symbol = &table->list[index];
    const char *name = symbol_name(table, symbol);
    char type = symbol_type(table, symbol);
    bool is_local = type >= 'a' && type <= 'z' && type != 'w' && type != 'v';
    bool weak = type == 'w' || type == 'W' || type == 'v' || type == 'V';
    Elf64_Sym entry = { .st_name = (Elf64_Word)out->strings.size,
                        .st_shndx = SHN_ABS,
                        .st_value = symbol->address,
                        .st_size = symbol->size };

    if (is_local != local) {
        return;
    }
    if (type != 'A') {
        entry.st_shndx = export_place_of(out, symbol->address);
    }
    if (symbol->size == 0 && index + 1 < table->located) {
        /* Up to the next address: kallsyms has no sizes. */
        for (size_t next = index + 1; next < table->located && entry.st_size == 0;
             next++) {
            entry.st_size = table->list[next].address - symbol->address;
        }
    }
    entry.st_info = ELF64_ST_INFO(is_local ? STB_LOCAL
                                  : weak   ? STB_WEAK
                                           : STB_GLOBAL,
                                  type == 'A'            ? STT_NOTYPE
                                  : symbol_is_text(type) ? STT_FUNC
                                                         : STT_OBJECT);
    bytes_add(&out->strings, name, strlen(name) + 1);
    bytes_add(&out->file, &entry, sizeof(entry));
}

/* Local symbols come first (ELF specification, "Symbol Table"). */
static void export_symbols(struct export *out, const struct symbol_table *table)
{
    const Elf64_Sym none = { 0 };
    Elf64_Shdr symtab = { .sh_type = SHT_SYMTAB,
                          .sh_addralign = 8,
                          .sh_entsize = sizeof(Elf64_Sym) };
    size_t from = export_align(out), at;

    bytes_add(&out->file, &none, sizeof(none));
    bytes_add8(&out->strings, 0);
    for (int local = 1; local >= 0; local--) {
        if (!local) {
            symtab.sh_info = (Elf64_Word)((out->file.size - from) / sizeof(Elf64_Sym));
        }
        for (size_t i = 0; i < table->count; i++) {
            export_symbol(out, table, i, local != 0);
        }
    }
    symtab.sh_link = out->count + 1;
    export_contents(out, ".symtab", symtab, from);
    at = out->file.size;
    bytes_add(&out->file, out->strings.data, out->strings.size);
    export_contents(out, ".strtab",
                    (Elf64_Shdr){ .sh_type = SHT_STRTAB, .sh_addralign = 1 }, at);
}

static void export_build(struct export *out, const struct elf_file *elf,
                         const struct symbol_file *file)
{
    Elf64_Ehdr header = {
        .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
                     EV_CURRENT },
        .e_type = ET_EXEC,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_ehsize = sizeof(header),
        .e_shentsize = sizeof(Elf64_Shdr),
    };
    size_t at;

    bytes_add(&out->file, &header, sizeof(header));
    export_section(out, "", &(Elf64_Shdr){ 0 });
    export_places(out, elf);
    if (file->orc.count > 0) {
        at = export_align(out);
        frames_write(&file->orc, &file->table, &out->file);
        export_contents(out, ".debug_frame",
                        (Elf64_Shdr){ .sh_type = SHT_PROGBITS, .sh_addralign = 8 }, at);
    }
    export_symbols(out, &file->table);
    header.e_shstrndx = (Elf64_Half)out->count;
    at = out->file.size;
    export_section(out, ".shstrtab",
                   &(Elf64_Shdr){ .sh_type = SHT_STRTAB,
                                  .sh_offset = at,
                                  .sh_size = out->names.size + sizeof(".shstrtab"),
                                  .sh_addralign = 1 });
    bytes_add(&out->file, out->names.data, out->names.size);
    header.e_shoff = export_align(out);
    header.e_shnum = (Elf64_Half)out->count;
    bytes_add(&out->file, out->sections, out->count * sizeof(out->sections[0]));
    if (!out->file.failed) {
        memcpy(out->file.data, &header, sizeof(header));
    }
}

static int export_write(const struct bytes *bytes, const char *path,
                        struct umbra_error *error)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644), ret = 0;
    size_t done = 0;

    if (fd < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                           "cannot create %s (an existing file is not overwritten)",
                           path);
    }
    while (done < bytes->size && ret == 0) {
        ssize_t n = write(fd, bytes->data + done, bytes->size - done);

        if (n < 0 && errno != EINTR) {
            ret = -errno;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    if (close(fd) < 0 && ret == 0) {
        ret = -errno;
    }
    if (ret < 0) {
        unlink(path);
        error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "cannot write %s", path);
    }
    return ret;
}

/* From a program's bytes to a file. */
static int export_program(const uint8_t *bytes, size_t size, const char *name,
                          const char *path, struct umbra_error *error)
{
    const struct elf_source source = { .fd = -1, .bytes = bytes, .size = size };
    struct export *out = calloc(1, sizeof(*out));
    struct symbol_file *file = NULL;
    struct elf_file elf = { 0 };
    int ret = out == NULL ? -ENOMEM : elf_file_open(&source, &elf, error);

    if (ret == 0) {
        ret = symbol_file_parse(bytes, size, name, &file, error);
    }
    if (ret == 0) {
        export_build(out, &elf, file);
        ret = out->file.failed || out->strings.failed || out->names.failed ? -ENOMEM : 0;
    }
    if (ret == -ENOMEM) {
        error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "no memory for its symbols");
    }
    if (ret < 0) {
        error_prefix(error, "symbols of '%s'", name);
    } else {
        ret = export_write(&out->file, path, error);
    }
    elf_file_close(&elf);
    symbol_file_free(file);
    if (out != NULL) {
        free(out->file.data);
        free(out->names.data);
        free(out->strings.data);
    }
    free(out);
    return ret;
}

int umbra_symbols_export(const char *kernel, const char *path, struct umbra_error *error)
{
    void *unpacked = NULL;
    struct image image;
    size_t size;
    int ret = image_read(kernel, "kernel", KERNEL_MAX, &image, error);

    if (ret < 0) {
        return ret;
    }
    if (!bzimage_probe(image.data, image.size)) {
        ret = export_program(image.data, image.size, kernel, path, error);
    } else {
        ret = bzimage_unpack(image.data, image.size, KERNEL_MAX, &unpacked, &size, error);
        if (ret < 0) {
            error_prefix(error, "symbols of '%s'", kernel);
        } else {
            ret = export_program(unpacked, size, kernel, path, error);
        }
    }
    free(unpacked);
    image_close(&image);
    return ret;
}
