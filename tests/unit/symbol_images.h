/* SPDX-License-Identifier: MIT */
/* Small programs with symbols, made up byte by byte: ELF files and Linux's kallsyms. */
#ifndef TESTS_UNIT_SYMBOL_IMAGES_H
#define TESTS_UNIT_SYMBOL_IMAGES_H

#include <elf.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "vmm/symbols/frames.h"

#define SYMBOL_IMAGE_TEXT UINT64_C(0x81000000)
#define SYMBOL_IMAGE_BASE UINT64_C(0xffffffff81000000)

static inline void image_section(struct bytes *out, bool is64, const Elf64_Shdr *s)
{
    if (is64) {
        bytes_add(out, s, sizeof(*s));
    } else {
        const Elf32_Shdr h = { .sh_name = s->sh_name,
                               .sh_type = s->sh_type,
                               .sh_flags = (Elf32_Word)s->sh_flags,
                               .sh_addr = (Elf32_Addr)s->sh_addr,
                               .sh_offset = (Elf32_Off)s->sh_offset,
                               .sh_size = (Elf32_Word)s->sh_size,
                               .sh_link = s->sh_link,
                               .sh_entsize = (Elf32_Word)s->sh_entsize };

        bytes_add(out, &h, sizeof(h));
    }
}

static inline void image_symbol(struct bytes *out, bool is64, const Elf64_Sym *s)
{
    if (is64) {
        bytes_add(out, s, sizeof(*s));
    } else {
        const Elf32_Sym h = { .st_name = s->st_name,
                              .st_value = (Elf32_Addr)s->st_value,
                              .st_size = (Elf32_Word)s->st_size,
                              .st_info = s->st_info,
                              .st_shndx = s->st_shndx };

        bytes_add(out, &h, sizeof(h));
    }
}

/* Four symbols in a table of @type: code of 32 bytes, a local helper, data, a per-CPU
 * variable; and a build id of four bytes. */
static inline struct bytes symbol_image_elf(bool is64, uint32_t type)
{
    static const char names[] = "\0.text\0.data\0.percpu\0.notes\0symtab\0strtab\0names";
    static const char strings[] = "\0code\0helper\0data\0per_cpu\0file.c";
    static const uint8_t note[] = { 4, 0, 0,   0,   4,   0, 0, 0, 3, 0,
                                    0, 0, 'G', 'N', 'U', 0, 1, 2, 3, 4 };
    const Elf64_Sym symbols[] = {
        { 0 },
        { .st_name = 25, .st_info = STT_FILE, .st_shndx = SHN_ABS },
        { .st_name = 1,
          .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
          .st_shndx = 1,
          .st_value = SYMBOL_IMAGE_TEXT,
          .st_size = 0x20 },
        { .st_name = 6,
          .st_info = ELF64_ST_INFO(STB_LOCAL, STT_FUNC),
          .st_shndx = 1,
          .st_value = SYMBOL_IMAGE_TEXT + 0x20 },
        { .st_name = 13,
          .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_OBJECT),
          .st_shndx = 2,
          .st_value = SYMBOL_IMAGE_TEXT + 0x1000,
          .st_size = 8 },
        { .st_name = 18,
          .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_OBJECT),
          .st_shndx = 3,
          .st_value = 0x40,
          .st_size = 8 },
    };
    const size_t header = is64 ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr);
    const size_t entry = is64 ? sizeof(Elf64_Sym) : sizeof(Elf32_Sym);
    Elf64_Shdr sections[] = {
        { 0 },
        { .sh_name = 1,
          .sh_type = SHT_NOBITS,
          .sh_flags = SHF_ALLOC | SHF_EXECINSTR,
          .sh_addr = SYMBOL_IMAGE_TEXT,
          .sh_size = 0x1000 },
        { .sh_name = 7,
          .sh_type = SHT_NOBITS,
          .sh_flags = SHF_ALLOC | SHF_WRITE,
          .sh_addr = SYMBOL_IMAGE_TEXT + 0x1000,
          .sh_size = 0x1000 },
        { .sh_name = 13,
          .sh_type = SHT_NOBITS,
          .sh_flags = SHF_ALLOC | SHF_WRITE,
          .sh_size = 0x1000 },
        { .sh_name = 21,
          .sh_type = SHT_NOTE,
          .sh_flags = SHF_ALLOC,
          .sh_addr = 1,
          .sh_size = sizeof(note) },
        { .sh_name = 28, .sh_type = type, .sh_link = 6, .sh_entsize = entry },
        { .sh_name = 35, .sh_type = SHT_STRTAB, .sh_size = sizeof(strings) },
        { .sh_name = 42, .sh_type = SHT_STRTAB, .sh_size = sizeof(names) },
    };
    struct bytes out = { 0 };
    uint8_t zeroes[sizeof(Elf64_Ehdr)] = { 0 };

    bytes_add(&out, zeroes, header);
    sections[4].sh_offset = out.size;
    bytes_add(&out, note, sizeof(note));
    sections[5].sh_offset = out.size;
    for (size_t i = 0; i < ARRAY_SIZE(symbols); i++) {
        image_symbol(&out, is64, &symbols[i]);
    }
    sections[5].sh_size = out.size - sections[5].sh_offset;
    sections[6].sh_offset = out.size;
    bytes_add(&out, strings, sizeof(strings));
    sections[7].sh_offset = out.size;
    bytes_add(&out, names, sizeof(names));
    if (is64) {
        const Elf64_Ehdr h = { .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3,
                                            ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
                               .e_type = ET_EXEC,
                               .e_machine = EM_X86_64,
                               .e_shoff = out.size,
                               .e_shentsize = sizeof(Elf64_Shdr),
                               .e_shnum = ARRAY_SIZE(sections),
                               .e_shstrndx = 7 };

        memcpy(out.data, &h, sizeof(h));
    } else {
        const Elf32_Ehdr h = { .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3,
                                            ELFCLASS32, ELFDATA2LSB, EV_CURRENT },
                               .e_type = ET_EXEC,
                               .e_machine = EM_386,
                               .e_shoff = (Elf32_Off)out.size,
                               .e_shentsize = sizeof(Elf32_Shdr),
                               .e_shnum = ARRAY_SIZE(sections),
                               .e_shstrndx = 7 };

        memcpy(out.data, &h, sizeof(h));
    }
    for (size_t i = 0; i < ARRAY_SIZE(sections); i++) {
        image_section(&out, is64, &sections[i]);
    }
    return out;
}

/* ---- kallsyms ---------------------------------------------------------------------------------- */

/* Where the kernel's build puts the parts, and how addresses are stored. */
enum symbol_layout {
    SYMBOL_LAYOUT_OLD,     /* until 6.1: addresses first */
    SYMBOL_LAYOUT_ORDERED, /* 6.2, 6.3: the order of names behind the markers */
    SYMBOL_LAYOUT_NEW,     /* since 6.4: addresses last */
    SYMBOL_LAYOUT_PLAIN,   /* the same; no per-CPU symbols set apart */
    SYMBOL_LAYOUTS,
};

enum { SYMBOL_IMAGE_COUNT = 1000, SYMBOL_IMAGE_PER_CPU = 10 };

static inline void symbol_image_name(unsigned index, char name[32])
{
    snprintf(name, 32, "symbol_%u_%s", index,
             index == 3  ? "long_enough_name"
             : index % 2 ? "odd"
                         : "even");
}

static inline void image_align(struct bytes *out)
{
    while (out->size % 8 != 0) {
        bytes_add8(out, 0);
    }
}

static inline void image_addresses(struct bytes *out, enum symbol_layout layout)
{
    for (unsigned i = 0; i < SYMBOL_IMAGE_COUNT; i++) {
        int32_t offset = layout == SYMBOL_LAYOUT_PLAIN ? (int32_t)(16 * i)
                         : i < SYMBOL_IMAGE_PER_CPU    ? (int32_t)(16 * i)
                                                       : -1 - (int32_t)(16 * i);

        bytes_add32(out, (uint32_t)offset);
    }
    image_align(out);
    bytes_add64(out, SYMBOL_IMAGE_BASE);
}

/* Tokens are single letters, but for 0x01, "symbol_". */
static inline void image_tokens(struct bytes *out)
{
    uint16_t index[256];
    size_t start = out->size;

    for (unsigned i = 0; i < 256; i++) {
        index[i] = htole16((uint16_t)(out->size - start));
        if (i == 1) {
            bytes_add(out, "symbol_", 8);
        } else {
            bytes_add8(out, i > ' ' && i < 0x7f ? (uint8_t)i : 'x');
            bytes_add8(out, 0);
        }
    }
    image_align(out);
    bytes_add(out, index, sizeof(index));
}

static inline void image_names(struct bytes *out, uint32_t markers[], unsigned *count)
{
    size_t start = out->size;

    *count = 0;
    for (unsigned i = 0; i < SYMBOL_IMAGE_COUNT; i++) {
        char name[32];

        symbol_image_name(i, name);
        if (i % 256 == 0) {
            markers[(*count)++] = (uint32_t)(out->size - start);
        }
        /* The type, "symbol_" as a token, the rest letter by letter. */
        bytes_add8(out, (uint8_t)(2 + strlen(name + 7)));
        bytes_add8(out, i % 2 ? 'T' : 'd');
        bytes_add8(out, 1);
        bytes_add(out, name + 7, strlen(name + 7));
    }
}

static inline struct bytes symbol_image_kallsyms(enum symbol_layout layout)
{
    bool first = layout == SYMBOL_LAYOUT_OLD || layout == SYMBOL_LAYOUT_ORDERED;
    struct bytes out = { 0 };
    uint32_t markers[16];
    unsigned count;

    bytes_add(&out, "some kernel code", 16);
    if (first) {
        image_addresses(&out, layout);
    }
    bytes_add64(&out, SYMBOL_IMAGE_COUNT);
    image_names(&out, markers, &count);
    image_align(&out);
    for (unsigned i = 0; i < count; i++) {
        bytes_add32(&out, markers[i]);
    }
    image_align(&out);
    if (layout == SYMBOL_LAYOUT_ORDERED) {
        for (unsigned i = 0; i < SYMBOL_IMAGE_COUNT; i++) {
            bytes_add(&out,
                      (uint8_t[]){ (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i },
                      3);
        }
        image_align(&out);
    }
    image_tokens(&out);
    if (!first) {
        image_align(&out);
        image_addresses(&out, layout);
    }
    bytes_add(&out, "some more of it.", 16);
    return out;
}

#endif
