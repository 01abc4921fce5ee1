/* SPDX-License-Identifier: MIT */
/* Reading symbols from kernels and other programs, wherever they keep them. */
#include "vmm/symbols/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/util.h"
#include "vmm/boot/image.h"
#include "vmm/boot/loader.h"
#include "vmm/symbols/kallsyms.h"

/* A file that is read whole, to search a kernel in it; and the largest ORC table. */
#define WHOLE_FILE_MAX (256 * MIB)
#define ORC_MAX        (64 * MIB)

static int file_seal(struct symbol_file *file, struct umbra_error *error)
{
    if (symbol_table_seal(&file->table) < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "no memory for symbols");
    }
    return 0;
}

static struct symbol_file *file_new(const char *name, const char *kind)
{
    const char *slash = name != NULL ? strrchr(name, '/') : NULL;
    struct symbol_file *file = calloc(1, sizeof(*file));

    if (file != NULL) {
        snprintf(file->origin, sizeof(file->origin), "%.64s: %s",
                 slash != NULL ? slash + 1 : name, kind);
    }
    return file;
}

void symbol_file_free(struct symbol_file *file)
{
    if (file != NULL) {
        symbol_table_release(&file->table);
        orc_table_release(&file->orc);
        free(file);
    }
}

bool symbol_file_address(const struct symbol_file *file, const char *name,
                         uint64_t *address)
{
    const struct symbol *symbol = symbol_table_find(&file->table, name);

    if (symbol != NULL) {
        *address = symbol->address +
                   (symbol_type(&file->table, symbol) == 'A' ? 0 : file->slide);
    }
    return symbol != NULL;
}

/* ---- ELF files and kernel images ------------------------------------------------------------- */

static void file_read_orc(struct symbol_file *file, const struct elf_file *elf)
{
    const struct elf_section *places = elf_file_section(elf, ".orc_unwind_ip");
    const struct elf_section *rules = elf_file_section(elf, ".orc_unwind");
    void *places_bytes, *rules_bytes;

    if (places == NULL || rules == NULL ||
        elf_file_read(elf, places, ORC_MAX, &places_bytes) < 0) {
        return;
    }
    if (elf_file_read(elf, rules, ORC_MAX, &rules_bytes) < 0) {
        free(places_bytes);
        return;
    }
    orc_table_set(&file->orc, places_bytes, places->size, rules_bytes, rules->size,
                  places->address, elf_file_section(elf, ".orc_header") != NULL);
}

/* What the ELF file itself says; -ENODATA when it names nothing. */
static int file_read_elf(const struct elf_source *source, const char *name,
                         struct symbol_file **out, struct umbra_error *error)
{
    struct symbol_file *file;
    struct elf_file elf;
    int ret = elf_file_open(source, &elf, error);

    if (ret < 0) {
        return ret;
    }
    file = file_new(name, "symbol table");
    ret = file == NULL ? -ENOMEM : elf_file_symbols(&elf, &file->table);
    if (ret == 0 && file->table.count == 0) {
        ret = -ENODATA;
    }
    if (ret == 0) {
        file->build_id_size = elf_file_build_id(&elf, file->build_id);
        file_read_orc(file, &elf);
        ret = file_seal(file, error);
    } else if (ret == -ENODATA) {
        error_set(error, UMBRA_ERROR_CONFIG, ENODATA, "it has no symbol table%s",
                  elf.relocatable ? " with addresses: it is an object file" : "");
    } else {
        error_set(error, ret == -ENOMEM ? UMBRA_ERROR_INTERNAL : UMBRA_ERROR_CONFIG, -ret,
                  "its symbol table %s",
                  ret == -ENOEXEC  ? "is not inside the file: it is cut off or corrupt"
                  : ret == -ENOMEM ? "needs more memory than there is"
                                   : "is larger than umbra reads");
    }
    elf_file_close(&elf);
    if (ret < 0) {
        symbol_file_free(file);
        return ret;
    }
    *out = file;
    return 0;
}

/* A kernel that names its symbols in itself. */
static int file_read_kallsyms(const uint8_t *bytes, size_t size, const char *name,
                              struct symbol_file **out, struct umbra_error *error)
{
    const struct elf_source source = { .fd = -1, .bytes = bytes, .size = size };
    struct symbol_file *file = file_new(name, "kallsyms");
    struct elf_file elf;
    size_t base_at;
    int ret = file == NULL ? -ENOMEM : kallsyms_read(bytes, size, &file->table, &base_at);

    if (ret == 0 && elf_file_open(&source, &elf, NULL) == 0) {
        file->build_id_size = elf_file_build_id(&elf, file->build_id);
        file_read_orc(file, &elf);
        elf_file_close(&elf);
    }
    if (ret == 0) {
        ret = file_seal(file, error);
    } else {
        error_set(error, UMBRA_ERROR_CONFIG, -ret, "%s",
                  ret == -ENOENT
                      ? "it has no symbol table, and no Linux kernel with kallsyms "
                        "was found in it"
                      : "its symbols need more memory than there is");
    }
    if (ret < 0) {
        symbol_file_free(file);
        return ret;
    }
    *out = file;
    return 0;
}

int symbol_file_parse(const uint8_t *bytes, size_t size, const char *name,
                      struct symbol_file **file, struct umbra_error *error)
{
    const struct elf_source source = { .fd = -1, .bytes = bytes, .size = size };
    void *unpacked = NULL;
    int ret;

    if (bzimage_probe(bytes, size)) {
        ret = bzimage_unpack(bytes, size, WHOLE_FILE_MAX, &unpacked, &size, error);
        if (ret == 0) {
            ret = file_read_kallsyms(unpacked, size, name, file, error);
        }
        free(unpacked);
        return ret;
    }
    ret = file_read_elf(&source, name, file, error);
    return ret == -ENODATA ? file_read_kallsyms(bytes, size, name, file, error) : ret;
}

int symbol_file_read_table(const char *path, struct symbol_file **file,
                           struct umbra_error *error)
{
    struct elf_source source = { .fd = -1 };
    struct stat status;
    int ret;

    source.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (source.fd < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno, "cannot open it");
    }
    if (fstat(source.fd, &status) < 0 || !S_ISREG(status.st_mode)) {
        close(source.fd);
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL, "it is not a regular file");
    }
    source.size = (uint64_t)status.st_size;
    ret = file_read_elf(&source, path, file, error);
    close(source.fd);
    return ret;
}

int symbol_file_read(const char *path, struct symbol_file **file,
                     struct umbra_error *error)
{
    /* Of a file with debug information only the parts that matter are read. */
    int ret = symbol_file_read_table(path, file, error);
    struct image image;

    if (ret != -ENODATA && ret != -ENOEXEC) {
        return ret;
    }
    ret = image_read(path, "symbols", WHOLE_FILE_MAX, &image, error);
    if (ret == 0) {
        ret = symbol_file_parse(image.data, image.size, path, file, error);
        image_close(&image);
    }
    return ret;
}

/* ---- Guest memory ---------------------------------------------------------------------------- */

/* A copy of guest memory, since what it is read from may change all the time. */
struct snapshot {
    gpa base;
    uint8_t *bytes;
    size_t size;
};

static int snapshot_take(const struct guest_mem *mem, gpa base, uint64_t size,
                         struct snapshot *snapshot)
{
    snapshot->base = base;
    snapshot->size = size;
    snapshot->bytes = malloc(size > 0 ? size : 1);
    if (snapshot->bytes == NULL) {
        return -ENOMEM;
    }
    return guest_mem_read(mem, base, snapshot->bytes, size);
}

/* How far before and behind its tokens a kernel's tables are looked for. */
#define GUEST_BEFORE (48 * MIB)
#define GUEST_BEHIND (16 * MIB)

/* Look for a kernel's symbols in [from, to) of @region, and copy what is around them. */
static int guest_window(const struct guest_mem *mem, const struct guest_region *region,
                        uint64_t from, uint64_t to, struct snapshot *snapshot)
{
    uint64_t start, end;

    for (; guest_region_data(region, from, &start, &end) && start < to; from = end) {
        uint64_t begin, page;
        size_t at;

        end = end < to ? end : to;
        if (!kallsyms_probe(region->host + start, end - start, &at)) {
            continue;
        }
        page = align_down(start + at, 4096);
        begin = page - start > GUEST_BEFORE ? page - GUEST_BEFORE : start;
        end = end - page > GUEST_BEHIND ? page + GUEST_BEHIND : end;
        return snapshot_take(mem, region->base + begin, end - begin, snapshot);
    }
    return -ENOENT;
}

/* Where the kernel's virtual addresses are in memory: *offset is virtual minus physical. */
static bool guest_map(const struct symbol_file *file, const struct boot_entry *entry,
                      const struct snapshot *snapshot, uint64_t *offset)
{
    static const char text[] = "Linux version ";
    const uint8_t *at = snapshot->bytes, *end = at + snapshot->size;
    uint64_t banner;

    if (entry->segment_count > 0) {
        *offset = entry->segments[0].virtual_address - entry->segments[0].address;
        return true;
    }
    if (!symbol_file_address(file, "linux_banner", &banner)) {
        return false;
    }
    for (; (at = memmem(at, (size_t)(end - at), text, sizeof(text) - 1)) != NULL; at++) {
        *offset = banner - (snapshot->base + (uint64_t)(at - snapshot->bytes));
        if (*offset % (2 * MIB) == 0) { /* the kernel is mapped by large pages */
            return true;
        }
    }
    return false;
}

/* A malloc'd copy of what is between two symbols. */
static void *guest_between(const struct guest_mem *mem, const struct symbol_file *file,
                           const char *const names[2], uint64_t offset, uint64_t *first,
                           size_t *size)
{
    uint64_t last;
    void *bytes;

    if (!symbol_file_address(file, names[0], first) ||
        !symbol_file_address(file, names[1], &last) || last <= *first ||
        last - *first > ORC_MAX) {
        return NULL;
    }
    *size = last - *first;
    bytes = malloc(*size);
    if (bytes != NULL && guest_mem_read(mem, *first - offset, bytes, *size) < 0) {
        free(bytes);
        return NULL;
    }
    return bytes;
}

static void guest_read_orc(struct symbol_file *file, const struct guest_mem *mem,
                           uint64_t offset)
{
    static const char *const places_names[] = { "__start_orc_unwind_ip",
                                                "__stop_orc_unwind_ip" };
    static const char *const rules_names[] = { "__start_orc_unwind",
                                               "__stop_orc_unwind" };
    static const char *const header_names[] = { "__start_orc_header",
                                                "__stop_orc_header" };
    uint64_t places_at, rules_at;
    size_t places_size, rules_size;
    void *places, *rules, *header;

    places = guest_between(mem, file, places_names, offset, &places_at, &places_size);
    rules = guest_between(mem, file, rules_names, offset, &rules_at, &rules_size);
    if (places == NULL || rules == NULL) {
        free(places);
        free(rules);
        return;
    }
    header = guest_between(mem, file, header_names, offset, &rules_at, &(size_t){ 0 });
    orc_table_set(&file->orc, places, places_size, rules, rules_size, places_at,
                  header != NULL);
    free(header);
}

size_t symbol_file_guest_id(const struct symbol_file *file, const struct guest_mem *mem,
                            uint64_t offset, uint8_t id[BUILD_ID_MAX])
{
    static const char *const names[] = { "__start_notes", "__stop_notes" };
    uint64_t first;
    size_t size;
    void *notes = guest_between(mem, file, names, offset, &first, &size);
    size_t length = notes != NULL ? notes_build_id(notes, size, id) : 0;

    free(notes);
    return length;
}

bool symbol_file_moved(const struct symbol_file *file, const struct guest_mem *mem)
{
    uint8_t base[sizeof(uint64_t)];

    return file->base_at != 0 &&
           (guest_mem_read(mem, file->base_at, base, sizeof(base)) < 0 ||
            load_le64(base) != file->base);
}

static int guest_read(const struct guest_mem *mem, const struct boot_entry *entry,
                      const struct snapshot *snapshot, struct symbol_file **out)
{
    struct symbol_file *file = file_new("guest", "kallsyms in memory");
    uint64_t offset;
    size_t base_at;
    int ret = file == NULL ? -ENOMEM
                           : kallsyms_read(snapshot->bytes, snapshot->size, &file->table,
                                           &base_at);

    if (ret == 0) {
        ret = file_seal(file, NULL);
    }
    if (ret < 0) {
        symbol_file_free(file);
        return ret;
    }
    file->base_at = snapshot->base + base_at;
    file->base = load_le64(snapshot->bytes + base_at);
    if (guest_map(file, entry, snapshot, &offset)) {
        file->located = true;
        file->offset = offset;
        guest_read_orc(file, mem, offset);
        file->build_id_size = symbol_file_guest_id(file, mem, offset, file->build_id);
    }
    *out = file;
    return 0;
}

int symbol_file_of_guest(const struct guest_mem *mem, const struct boot_entry *entry,
                         struct symbol_file **file)
{
    struct snapshot snapshot = { 0 };
    const struct guest_region *regions;
    size_t count;
    int ret = -ENOENT;

    if (!entry->linux_kernel) {
        return -ENOENT;
    }
    regions = guest_mem_regions(mem, &count);
    for (size_t r = 0; r < count && ret == -ENOENT; r++) {
        const struct guest_region *region = &regions[r];

        for (unsigned i = 0; i < entry->segment_count && ret == -ENOENT; i++) {
            uint64_t from = entry->segments[i].address - region->base;

            if (from < region->size) {
                ret = guest_window(mem, region, from, from + entry->segments[i].size,
                                   &snapshot);
            }
        }
        /* A kernel that unpacked itself can be anywhere. */
        if (entry->segment_count == 0) {
            ret = guest_window(mem, region, 0, region->size, &snapshot);
        }
    }
    if (ret == 0) {
        ret = guest_read(mem, entry, &snapshot, file);
    }
    free(snapshot.bytes);
    return ret;
}
