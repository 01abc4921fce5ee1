/* SPDX-License-Identifier: MIT */
/* Section headers and symbol tables of ELF files, which may be hostile. */
#include "vmm/symbols/elf_symbols.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/util.h"

enum {
    SECTIONS_MAX = 65536,
    NAMES_MAX = 1 << 20,
    SYMTAB_MAX = SYMBOL_MAX_COUNT * (int)sizeof(Elf64_Sym),
    STRTAB_MAX = 1 << 28,
    NOTES_MAX = 1 << 16,
};

static int source_read(const struct elf_source *source, uint64_t offset, void *buffer,
                       size_t size)
{
    uint8_t *to = buffer;

    if (offset > source->size || size > source->size - offset) {
        return -ENOEXEC;
    }
    if (source->fd < 0) {
        memcpy(buffer, source->bytes + offset, size);
        return 0;
    }
    while (size > 0) {
        ssize_t n = pread(source->fd, to, size, (off_t)offset);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -EIO; /* it shrank meanwhile */
        }
        to += n;
        offset += (uint64_t)n;
        size -= (size_t)n;
    }
    return 0;
}

static void section_decode(const uint8_t *at, bool is64, struct elf_section *section)
{
    if (is64) {
        Elf64_Shdr h;

        memcpy(&h, at, sizeof(h));
        *section =
            (struct elf_section){ h.sh_name, h.sh_type,   h.sh_link, h.sh_flags,
                                  h.sh_addr, h.sh_offset, h.sh_size, h.sh_entsize };
    } else {
        Elf32_Shdr h;

        memcpy(&h, at, sizeof(h));
        *section =
            (struct elf_section){ h.sh_name, h.sh_type,   h.sh_link, h.sh_flags,
                                  h.sh_addr, h.sh_offset, h.sh_size, h.sh_entsize };
    }
}

/* Where the section headers are. */
struct section_table {
    uint64_t offset;
    uint32_t count, entry_size, names;
};

static int elf_file_header(struct elf_file *file, struct section_table *table)
{
    uint8_t bytes[sizeof(Elf64_Ehdr)] = { 0 };
    uint16_t type;
    int ret = source_read(&file->source, 0, bytes, sizeof(Elf32_Ehdr));

    if (ret < 0 || memcmp(bytes, ELFMAG, SELFMAG) != 0 || bytes[EI_DATA] != ELFDATA2LSB) {
        return ret < 0 ? ret : -ENOEXEC;
    }
    file->is64 = bytes[EI_CLASS] == ELFCLASS64;
    if (file->is64) {
        Elf64_Ehdr h;

        ret = source_read(&file->source, 0, bytes, sizeof(h));
        memcpy(&h, bytes, sizeof(h));
        type = h.e_type;
        *table =
            (struct section_table){ h.e_shoff, h.e_shnum, h.e_shentsize, h.e_shstrndx };
    } else if (bytes[EI_CLASS] == ELFCLASS32) {
        Elf32_Ehdr h;

        memcpy(&h, bytes, sizeof(h));
        type = h.e_type;
        *table =
            (struct section_table){ h.e_shoff, h.e_shnum, h.e_shentsize, h.e_shstrndx };
    } else {
        return -ENOEXEC;
    }
    file->relocatable = type == ET_REL;
    return ret;
}

static int elf_file_sections(struct elf_file *file, const struct section_table *table)
{
    size_t need = file->is64 ? sizeof(Elf64_Shdr) : sizeof(Elf32_Shdr);
    uint32_t names = table->names;
    uint64_t count = table->count;
    struct elf_section first;
    uint8_t bytes[sizeof(Elf64_Shdr)];
    int ret;

    if (table->offset == 0) {
        return 0;
    }
    if (table->entry_size < need) {
        return -ENOEXEC;
    }
    ret = source_read(&file->source, table->offset, bytes, need);
    if (ret < 0) {
        return ret;
    }
    /* Numbers too large for the header are in the first section's. */
    section_decode(bytes, file->is64, &first);
    count = count == 0 ? first.size : count;
    names = names == SHN_XINDEX ? first.link : names;
    if (count > SECTIONS_MAX) {
        return -ENOEXEC;
    }
    file->sections = calloc(count, sizeof(*file->sections));
    if (file->sections == NULL && count > 0) {
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < count && ret == 0; i++) {
        ret = source_read(&file->source, table->offset + i * table->entry_size, bytes,
                          need);
        if (ret == 0) {
            section_decode(bytes, file->is64, &file->sections[file->count++]);
        }
    }
    if (ret == 0 && names < file->count) {
        void *data;

        ret = elf_file_read(file, &file->sections[names], NAMES_MAX, &data);
        if (ret == 0) {
            file->names = data;
            file->names_size = file->sections[names].size;
        }
    }
    return ret;
}

int elf_file_open(const struct elf_source *source, struct elf_file *file,
                  struct umbra_error *error)
{
    struct section_table table = { 0 };
    int ret;

    memset(file, 0, sizeof(*file));
    file->source = *source;
    ret = elf_file_header(file, &table);
    if (ret == -ENOEXEC) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENOEXEC,
                         "it is not a little-endian ELF file");
    }
    if (ret == 0) {
        ret = elf_file_sections(file, &table);
    }
    if (ret < 0) {
        elf_file_close(file);
        error_set(error, ret == -ENOEXEC ? UMBRA_ERROR_CONFIG : UMBRA_ERROR_INTERNAL,
                  -ret, "its ELF section headers %s",
                  ret == -ENOEXEC ? "are not inside the file: it is cut off or corrupt"
                                  : "cannot be read");
    }
    return ret;
}

void elf_file_close(struct elf_file *file)
{
    free(file->sections);
    free(file->names);
    memset(file, 0, sizeof(*file));
}

const struct elf_section *elf_file_section(const struct elf_file *file, const char *name)
{
    for (size_t i = 0; i < file->count; i++) {
        const struct elf_section *section = &file->sections[i];

        if (section->name < file->names_size && section->type != SHT_NOBITS &&
            strcmp(file->names + section->name, name) == 0) {
            return section;
        }
    }
    return NULL;
}

int elf_file_read(const struct elf_file *file, const struct elf_section *section,
                  uint64_t limit, void **data)
{
    uint8_t *bytes;
    int ret;

    if (section->type == SHT_NOBITS || section->size > file->source.size) {
        return -ENOEXEC;
    }
    if (section->size > limit) {
        return -EFBIG;
    }
    bytes = malloc(section->size + 1);
    if (bytes == NULL) {
        return -ENOMEM;
    }
    ret = source_read(&file->source, section->offset, bytes, section->size);
    if (ret < 0) {
        free(bytes);
        return ret;
    }
    bytes[section->size] = '\0';
    *data = bytes;
    return 0;
}

/* ---- Symbols ------------------------------------------------------------------------------- */

/* nm(1)'s letter for a symbol; '\0' for one that names no place or number. */
static char symbol_letter(const struct elf_file *file, const Elf64_Sym *symbol)
{
    unsigned type = ELF64_ST_TYPE(symbol->st_info), bind = ELF64_ST_BIND(symbol->st_info);
    const struct elf_section *section;
    char letter;

    if (symbol->st_shndx == SHN_UNDEF || type == STT_FILE || type == STT_SECTION ||
        type == STT_TLS || symbol->st_shndx == SHN_COMMON) {
        return '\0';
    }
    if (symbol->st_shndx == SHN_ABS) {
        return 'A';
    }
    section = symbol->st_shndx < file->count ? &file->sections[symbol->st_shndx] : NULL;
    /* Per-CPU variables of Linux are linked at 0: offsets, not addresses. */
    if (section != NULL && (!(section->flags & SHF_ALLOC) || section->address == 0)) {
        return section->flags & SHF_ALLOC ? 'A' : '\0';
    }
    letter = section == NULL                  ? 'D'
             : section->flags & SHF_EXECINSTR ? 'T'
             : section->type == SHT_NOBITS    ? 'B'
             : section->flags & SHF_WRITE     ? 'D'
                                              : 'R';
    if (bind == STB_WEAK) {
        return letter == 'T' ? 'W' : 'V';
    }
    return bind == STB_LOCAL ? (char)(letter + ('a' - 'A')) : letter;
}

static void symbol_decode(const uint8_t *at, bool is64, Elf64_Sym *symbol)
{
    if (is64) {
        memcpy(symbol, at, sizeof(*symbol));
    } else {
        Elf32_Sym small;

        memcpy(&small, at, sizeof(small));
        *symbol = (Elf64_Sym){ .st_name = small.st_name,
                               .st_info = small.st_info,
                               .st_other = small.st_other,
                               .st_shndx = small.st_shndx,
                               .st_value = small.st_value,
                               .st_size = small.st_size };
    }
}

static int symbols_add(const struct elf_file *file, const struct elf_section *section,
                       struct symbol_table *table)
{
    size_t entry = file->is64 ? sizeof(Elf64_Sym) : sizeof(Elf32_Sym);
    const struct elf_section *strings;
    void *symbols = NULL, *names = NULL;
    int ret;

    if (section->link >= file->count) {
        return -ENOEXEC;
    }
    strings = &file->sections[section->link];
    ret = elf_file_read(file, section, SYMTAB_MAX, &symbols);
    if (ret == 0) {
        ret = elf_file_read(file, strings, STRTAB_MAX, &names);
    }
    for (uint64_t i = 0; ret == 0 && i < section->size / entry; i++) {
        Elf64_Sym symbol;
        const char *name;
        char letter;

        symbol_decode((const uint8_t *)symbols + i * entry, file->is64, &symbol);
        letter = symbol_letter(file, &symbol);
        if (letter == '\0' || symbol.st_name >= strings->size) {
            continue;
        }
        name = (const char *)names + symbol.st_name;
        ret = symbol_table_add(table, symbol.st_value, symbol.st_size, letter, name,
                               strnlen(name, SYMBOL_MAX_NAME + 1));
    }
    free(symbols);
    free(names);
    return ret;
}

int elf_file_symbols(const struct elf_file *file, struct symbol_table *table)
{
    static const uint32_t types[] = { SHT_SYMTAB, SHT_DYNSYM };

    for (size_t t = 0; t < ARRAY_SIZE(types) && !file->relocatable; t++) {
        for (size_t i = 0; i < file->count; i++) {
            if (file->sections[i].type == types[t]) {
                return symbols_add(file, &file->sections[i], table);
            }
        }
    }
    return -ENODATA;
}

/* ---- The build id --------------------------------------------------------------------------- */

size_t notes_build_id(const uint8_t *notes, size_t size, uint8_t id[BUILD_ID_MAX])
{
    size_t at = 0;

    while (size - at >= sizeof(Elf32_Nhdr)) {
        uint32_t name_size = load_le32(notes + at);
        uint32_t id_size = load_le32(notes + at + 4);
        uint64_t name = at + sizeof(Elf32_Nhdr);
        uint64_t value = name + align_up(name_size, 4);

        if (value > size || id_size > size - value) {
            break;
        }
        if (load_le32(notes + at + 8) == NT_GNU_BUILD_ID && name_size == 4 &&
            memcmp(notes + name, "GNU", 4) == 0 && id_size <= BUILD_ID_MAX) {
            memcpy(id, notes + value, id_size);
            return id_size;
        }
        value += align_up(id_size, 4);
        if (value > size) {
            break;
        }
        at = value;
    }
    return 0;
}

size_t elf_file_build_id(const struct elf_file *file, uint8_t id[BUILD_ID_MAX])
{
    size_t size = 0;

    for (size_t i = 0; i < file->count && size == 0; i++) {
        void *notes;

        if (file->sections[i].type == SHT_NOTE &&
            elf_file_read(file, &file->sections[i], NOTES_MAX, &notes) == 0) {
            size = notes_build_id(notes, file->sections[i].size, id);
            free(notes);
        }
    }
    return size;
}
