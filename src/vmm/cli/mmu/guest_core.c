/* SPDX-License-Identifier: MIT */
/* A guest to look at in an ELF core that umbra wrote: RAM by PT_LOAD's physical addresses,
 * registers from the UMBRA notes (docs/control.md). The file is not trusted. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#undef PF_W /* a segment's flag here, a bit of error codes below */

#include "vmm/cli/exit_status.h"
#include "vmm/cli/mmu/guest.h"

enum {
    NOTE_PAGING = 1,
    NOTE_PAGING_SIZE = 56,
    MAX_CPUS = 256,
};

struct core_source {
    const uint8_t *file;
    uint64_t size;
    uint64_t offset[MMU_GUEST_RANGES]; /* in the file, of each range */
    struct umbra_paging paging[MAX_CPUS];
};

static int core_read(struct mmu_guest *guest, uint64_t gpa, void *buffer, size_t length)
{
    const struct core_source *source = guest->source;

    for (unsigned i = 0; i < guest->ranges; i++) {
        const struct umbra_memory_range *range = &guest->range[i];

        if (gpa >= range->gpa && gpa - range->gpa < range->length &&
            length <= range->length - (gpa - range->gpa)) {
            memcpy(buffer, source->file + source->offset[i] + (gpa - range->gpa), length);
            return 0;
        }
    }
    return -EFAULT;
}

static int core_paging(struct mmu_guest *guest, unsigned vcpu,
                       struct umbra_paging *paging)
{
    const struct core_source *source = guest->source;

    if (vcpu >= guest->cpus) {
        return -EINVAL;
    }
    *paging = source->paging[vcpu];
    return 0;
}

static int core_find(struct mmu_guest *guest, unsigned offset, const void *bytes,
                     size_t length, uint64_t *gpa, size_t max, size_t *count)
{
    const struct core_source *source = guest->source;

    *count = 0;
    for (unsigned i = 0; i < guest->ranges; i++) {
        const uint8_t *from = source->file + source->offset[i];

        for (uint64_t at = 0; at + MMU_PAGE_SIZE <= guest->range[i].length;
             at += MMU_PAGE_SIZE) {
            if (memcmp(from + at + offset, bytes, length) != 0) {
                continue;
            }
            if (*count < max) {
                gpa[*count] = guest->range[i].gpa + at;
            }
            ++*count;
        }
    }
    return 0;
}

static void core_close(struct mmu_guest *guest)
{
    struct core_source *source = guest->source;

    if (source->file != NULL) {
        munmap((void *)(uintptr_t)source->file, source->size);
    }
    free(source);
}

static const struct mmu_guest_ops core_ops = {
    .read = core_read, .paging = core_paging, .find = core_find, .close = core_close
};

/* The note's descriptor, as docs/control.md lays it out. */
static void core_note(struct mmu_guest *guest, const uint8_t *note)
{
    struct core_source *source = guest->source;
    uint32_t vcpu = load_le32(note + 4);

    if (load_le32(note) != 1 || vcpu != guest->cpus || vcpu >= MAX_CPUS) {
        return;
    }
    source->paging[guest->cpus++] = (struct umbra_paging){
        .size = sizeof(struct umbra_paging),
        .cr0 = load_le64(note + 8),
        .cr3 = load_le64(note + 16),
        .cr4 = load_le64(note + 24),
        .efer = load_le64(note + 32),
        .rflags = load_le64(note + 40),
        .pkru = load_le32(note + 48),
        .physical_bits = note[52],
        .gbpages = note[53] != 0,
        .amd = note[54] != 0,
        .cpl = note[55] & 3,
    };
}

static void core_notes(struct mmu_guest *guest, const uint8_t *at, uint64_t size)
{
    while (size >= sizeof(Elf64_Nhdr)) {
        Elf64_Nhdr header;
        uint64_t name, length;

        memcpy(&header, at, sizeof(header));
        name = align_up(header.n_namesz, 4);
        length = sizeof(header) + name + align_up(header.n_descsz, 4);
        if (length > size) {
            return;
        }
        if (header.n_type == NOTE_PAGING && header.n_namesz == sizeof("UMBRA") &&
            memcmp(at + sizeof(header), "UMBRA", sizeof("UMBRA")) == 0 &&
            header.n_descsz >= NOTE_PAGING_SIZE) {
            core_note(guest, at + sizeof(header) + name);
        }
        at += length;
        size -= length;
    }
}

/* A segment of RAM; the second mapping of a kernel image repeats bytes that are there. */
static void core_load(struct mmu_guest *guest, const Elf64_Phdr *segment)
{
    struct core_source *source = guest->source;

    if (segment->p_filesz == 0 || guest->ranges == MMU_GUEST_RANGES ||
        segment->p_paddr % MMU_PAGE_SIZE != 0 || segment->p_filesz % MMU_PAGE_SIZE != 0 ||
        segment->p_paddr + segment->p_filesz < segment->p_paddr) {
        return;
    }
    for (unsigned i = 0; i < guest->ranges; i++) {
        if (segment->p_paddr < guest->range[i].gpa + guest->range[i].length &&
            guest->range[i].gpa < segment->p_paddr + segment->p_filesz) {
            return;
        }
    }
    source->offset[guest->ranges] = segment->p_offset;
    guest->range[guest->ranges++] =
        (struct umbra_memory_range){ .gpa = segment->p_paddr,
                                     .length = segment->p_filesz };
}

static const char *core_parse(struct mmu_guest *guest)
{
    struct core_source *source = guest->source;
    Elf64_Ehdr header;

    if (source->size < sizeof(header)) {
        return "it is too short";
    }
    memcpy(&header, source->file, sizeof(header));
    if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_type != ET_CORE ||
        header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64) {
        return "it is no ELF core of an x86-64 machine";
    }
    for (unsigned i = 0; i < header.e_phnum; i++) {
        uint64_t at = header.e_phoff + (uint64_t)i * sizeof(Elf64_Phdr);
        Elf64_Phdr segment;

        if (header.e_phoff > source->size || at > source->size - sizeof(segment)) {
            return "its program headers are cut off";
        }
        memcpy(&segment, source->file + at, sizeof(segment));
        if (segment.p_offset > source->size ||
            segment.p_filesz > source->size - segment.p_offset) {
            return "a segment is cut off";
        }
        if (segment.p_type == PT_NOTE) {
            core_notes(guest, source->file + segment.p_offset, segment.p_filesz);
        } else if (segment.p_type == PT_LOAD) {
            core_load(guest, &segment);
        }
    }
    return guest->ranges == 0 ? "it holds no memory"
           : guest->cpus == 0 ? "it has no UMBRA note with the control registers; umbra "
                                "core writes one"
                              : NULL;
}

int mmu_guest_open_core(struct mmu_guest *guest, const char *command, const char *path)
{
    struct core_source *source = calloc(1, sizeof(*source));
    const char *wrong = NULL;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *file = MAP_FAILED;

    *guest = (struct mmu_guest){ .command = command, .source = source, .held = true };
    if (source != NULL && fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
        st.st_size > 0) {
        file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    }
    if (file == MAP_FAILED) {
        fprintf(stderr, "umbra %s: cannot read the core %s: %s\n", command, path,
                fd < 0 ? strerror(errno) : "it is no file with contents");
        free(source);
        if (fd >= 0) {
            close(fd);
        }
        return fd < 0 ? EXIT_STATUS_MISSING : EXIT_STATUS_CONFIG;
    }
    close(fd);
    source->file = file;
    source->size = (uint64_t)st.st_size;
    guest->ops = &core_ops;
    wrong = core_parse(guest);
    if (wrong != NULL) {
        fprintf(stderr, "umbra %s: %s: %s\n", command, path, wrong);
        mmu_guest_close(guest);
        return EXIT_STATUS_CONFIG;
    }
    return -1;
}
