/* SPDX-License-Identifier: MIT */
/* Walking the guest's page tables (SDM volume 3, chapter 4). */
#include <errno.h>

#include "vcpu/x86_64/walk.h"

enum {
    PAGE_SHIFT = 12,
    PAGE_SIZE = 4096,
    WALK_MAX_PAGES = 5, /* 16 KiB at any alignment */
    VECTOR_PF = 14,
};

#define PTE_PRESENT  UINT64_C(0x1)
#define PTE_WRITE    UINT64_C(0x2)
#define PTE_USER     UINT64_C(0x4)
#define PTE_ACCESSED UINT64_C(0x20)
#define PTE_DIRTY    UINT64_C(0x40)
#define PTE_LARGE    UINT64_C(0x80)
#define PTE_NX       (UINT64_C(1) << 63)
#define PTE_ADDRESS  UINT64_C(0x000ffffffffff000)

#define CR0_WP    UINT64_C(0x10000)
#define CR0_PG    UINT64_C(0x80000000)
#define CR4_PSE   UINT64_C(0x10)
#define CR4_PAE   UINT64_C(0x20)
#define CR4_LA57  UINT64_C(0x1000)
#define CR4_SMEP  UINT64_C(0x100000)
#define CR4_SMAP  UINT64_C(0x200000)
#define EFER_LMA  UINT64_C(0x400)
#define EFER_NXE  UINT64_C(0x800)
#define RFLAGS_AC UINT64_C(0x40000)

enum pf_error {
    PF_PRESENT = 1,
    PF_WRITE = 2,
    PF_USER = 4,
    PF_RESERVED = 8,
    PF_FETCH = 16,
};

/* The shape of the tables. */
struct walk_mode {
    unsigned levels;
    unsigned index_bits;
    unsigned entry_size;
    unsigned large_max; /* the highest level whose entries may map a page */
    bool pae_top;       /* top-level entries have neither permissions nor accessed bits */
};

/* One walk in progress. */
struct walk {
    struct guest_mem *mem;
    const struct insn_cpu *cpu;
    uint64_t address;
    enum insn_access access;
    struct walk_mode mode;
    uint64_t rights; /* PTE_WRITE and PTE_USER of every level so far, and any PTE_NX */
    struct insn_fault *fault;
};

static struct walk_mode walk_mode(const struct insn_cpu *cpu)
{
    if (cpu->efer & EFER_LMA)
        return (struct walk_mode){ .levels = cpu->cr4 & CR4_LA57 ? 5 : 4,
                                   .index_bits = 9,
                                   .entry_size = 8,
                                   .large_max = 3 };
    if (cpu->cr4 & CR4_PAE)
        return (struct walk_mode){
            .levels = 3, .index_bits = 9, .entry_size = 8, .large_max = 2, .pae_top = true
        };
    return (struct walk_mode){ .levels = 2,
                               .index_bits = 10,
                               .entry_size = 4,
                               .large_max = cpu->cr4 & CR4_PSE ? 2 : 1 };
}

static int walk_fault(const struct walk *walk, unsigned code)
{
    const struct insn_cpu *cpu = walk->cpu;
    bool nx = (cpu->cr4 & CR4_PAE) && (cpu->efer & EFER_NXE);

    if (walk->access == INSN_WRITE)
        code |= PF_WRITE;
    if (cpu->cpl == 3 && walk->access != INSN_READ_SYSTEM)
        code |= PF_USER;
    if (walk->access == INSN_FETCH && (nx || (cpu->cr4 & CR4_SMEP)))
        code |= PF_FETCH;
    *walk->fault = (struct insn_fault){ .vector = VECTOR_PF,
                                        .error_code = code,
                                        .address = walk->address };
    return -EFAULT;
}

/* What the collected rights allow; SDM volume 3, 4.6.1. */
static bool walk_permits(const struct walk *walk)
{
    const struct insn_cpu *cpu = walk->cpu;
    bool user_page = walk->rights & PTE_USER;
    bool user = cpu->cpl == 3 && walk->access != INSN_READ_SYSTEM;

    if (user && !user_page)
        return false;
    if (walk->access == INSN_FETCH)
        return !(walk->rights & PTE_NX) && (user || !user_page || !(cpu->cr4 & CR4_SMEP));
    if (!user && user_page && (cpu->cr4 & CR4_SMAP) &&
        (!(cpu->rflags & RFLAGS_AC) || walk->access == INSN_READ_SYSTEM))
        return false;
    if (walk->access == INSN_WRITE && !(walk->rights & PTE_WRITE))
        return !user && !(cpu->cr0 & CR0_WP);
    return true;
}

static uint64_t entry_load(const struct walk *walk, void *entry)
{
    if (walk->mode.entry_size == 4)
        return __atomic_load_n((uint32_t *)entry, __ATOMIC_ACQUIRE);
    return __atomic_load_n((uint64_t *)entry, __ATOMIC_ACQUIRE);
}

/* Set @bits unless the guest changed the entry meanwhile (pairs with its locked updates);
 * false: it did. */
static bool entry_mark(const struct walk *walk, void *entry, gpa at, uint64_t value,
                       uint64_t bits)
{
    uint32_t small = (uint32_t)value;
    bool done;

    if ((value & bits) == bits)
        return true;
    if (walk->mode.entry_size == 4)
        done =
            __atomic_compare_exchange_n((uint32_t *)entry, &small, small | (uint32_t)bits,
                                        false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    else
        done = __atomic_compare_exchange_n((uint64_t *)entry, &value, value | bits, false,
                                           __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    if (done)
        guest_mem_mark_dirty(walk->mem, at, walk->mode.entry_size);
    return done;
}

static bool entry_reserved(const struct walk *walk, uint64_t entry, unsigned level)
{
    if (walk->mode.entry_size == 4)
        return false;
    if ((entry & PTE_NX) && (!(walk->cpu->efer & EFER_NXE) ||
                             (walk->mode.pae_top && level == walk->mode.levels)))
        return true;
    return level > walk->mode.large_max && (entry & PTE_LARGE) &&
           !(walk->mode.pae_top && level == walk->mode.levels);
}

/* The physical address that a leaf at @level maps. */
static gpa leaf_address(const struct walk *walk, uint64_t entry, unsigned level)
{
    unsigned shift = PAGE_SHIFT + walk->mode.index_bits * (level - 1);
    uint64_t mask = (UINT64_C(1) << shift) - 1;
    uint64_t base = entry & PTE_ADDRESS & ~mask;

    if (walk->mode.entry_size == 4 && level == 2) /* PSE-36: bits 39 to 32 */
        base |= (entry >> 13 & 0xff) << 32;
    return base | (walk->address & mask);
}

/* One pass from the top; -EAGAIN when an entry changed under it. */
static int walk_once(struct walk *walk, gpa *physical)
{
    const struct walk_mode *mode = &walk->mode;
    gpa table = walk->cpu->cr3 & (mode->pae_top ? UINT64_C(0xffffffe0) : PTE_ADDRESS);

    walk->rights = PTE_WRITE | PTE_USER;
    for (unsigned level = mode->levels;; level--) {
        unsigned shift = PAGE_SHIFT + mode->index_bits * (level - 1);
        uint64_t index = walk->address >> shift & ((UINT64_C(1) << mode->index_bits) - 1);
        bool top = mode->pae_top && level == mode->levels;
        gpa at = table + (top ? index & 3 : index) * mode->entry_size;
        void *pointer = guest_mem_ptr(walk->mem, at, mode->entry_size);
        uint64_t entry;
        bool leaf;

        if (!pointer)
            return -ENXIO;
        entry = entry_load(walk, pointer);
        if (!(entry & PTE_PRESENT))
            return walk_fault(walk, 0);
        if (entry_reserved(walk, entry, level))
            return walk_fault(walk, PF_PRESENT | PF_RESERVED);
        if (!top)
            walk->rights = (walk->rights & (entry | PTE_NX)) | (entry & PTE_NX);
        leaf = level == 1 || (!top && level <= mode->large_max && (entry & PTE_LARGE));
        if (leaf && !walk_permits(walk))
            return walk_fault(walk, PF_PRESENT);
        if (!top &&
            !entry_mark(walk, pointer, at, entry,
                        leaf && walk->access == INSN_WRITE ? PTE_ACCESSED | PTE_DIRTY
                                                           : PTE_ACCESSED))
            return -EAGAIN;
        if (leaf) {
            *physical = leaf_address(walk, entry, level);
            return 0;
        }
        table = entry & PTE_ADDRESS;
    }
}

int walk_translate(struct guest_mem *mem, const struct insn_cpu *cpu, uint64_t address,
                   enum insn_access access, gpa *physical, struct insn_fault *fault)
{
    struct walk walk = {
        .mem = mem, .cpu = cpu, .address = address, .access = access, .fault = fault
    };
    int result;

    if (!(cpu->cr0 & CR0_PG)) {
        *physical = address;
        return 0;
    }
    walk.mode = walk_mode(cpu);
    do
        result = walk_once(&walk, physical);
    while (result == -EAGAIN);
    return result;
}

void walk_look(struct guest_mem *mem, const struct insn_cpu *cpu, uint64_t address,
               struct walk_path *path)
{
    struct walk walk = { .mem = mem, .cpu = cpu, .address = address };
    const struct walk_mode mode = walk_mode(cpu);
    gpa table = cpu->cr3 & (mode.pae_top ? UINT64_C(0xffffffe0) : PTE_ADDRESS);

    *path = (struct walk_path){ .writable = true, .user = true, .executable = true };
    if (!(cpu->cr0 & CR0_PG)) {
        path->mapped = true;
        path->physical = address;
        path->page_size = PAGE_SIZE;
        return;
    }
    walk.mode = mode;
    path->levels = mode.levels;
    for (unsigned level = mode.levels; level > 0; level--) {
        unsigned shift = PAGE_SHIFT + mode.index_bits * (level - 1);
        uint64_t index = address >> shift & ((UINT64_C(1) << mode.index_bits) - 1);
        bool top = mode.pae_top && level == mode.levels;
        gpa at = table + (top ? index & 3 : index) * mode.entry_size;
        void *pointer = guest_mem_ptr(mem, at, mode.entry_size);
        uint64_t entry;

        if (!pointer) {
            path->outside = true;
            return;
        }
        entry = entry_load(&walk, pointer);
        path->step[path->count].at = at;
        path->step[path->count].entry = entry;
        path->step[path->count++].index = (unsigned)(top ? index & 3 : index);
        if (!(entry & PTE_PRESENT) || entry_reserved(&walk, entry, level))
            return;
        if (!top) {
            path->writable &= (entry & PTE_WRITE) != 0;
            path->user &= (entry & PTE_USER) != 0;
            path->executable &= mode.entry_size == 4 || !(entry & PTE_NX);
        }
        if (level == 1 || (!top && level <= mode.large_max && (entry & PTE_LARGE))) {
            path->mapped = true;
            path->physical = leaf_address(&walk, entry, level);
            path->page_size = UINT64_C(1) << shift;
            return;
        }
        table = entry & PTE_ADDRESS;
    }
}

/* A linear range as physical pieces. */
struct pieces {
    unsigned count;
    struct {
        gpa at;
        size_t size;
    } piece[WALK_MAX_PAGES];
};

static int walk_pieces(struct guest_mem *mem, const struct insn_cpu *cpu,
                       uint64_t address, size_t size, enum insn_access access,
                       struct pieces *pieces, struct insn_fault *fault)
{
    pieces->count = 0;
    while (size) {
        size_t part = PAGE_SIZE - address % PAGE_SIZE;
        gpa at;
        int result;

        if (pieces->count == WALK_MAX_PAGES)
            return -E2BIG;
        if (part > size)
            part = size;
        result = walk_translate(mem, cpu, address, access, &at, fault);
        if (result)
            return result;
        if (access == INSN_WRITE ? !guest_mem_ptr(mem, at, part)
                                 : !guest_mem_const_ptr(mem, at, part))
            return -ENXIO;
        pieces->piece[pieces->count].at = at;
        pieces->piece[pieces->count++].size = part;
        address += part;
        size -= part;
    }
    return 0;
}

int walk_read(struct guest_mem *mem, const struct insn_cpu *cpu, uint64_t address,
              void *buffer, size_t size, enum insn_access access,
              struct insn_fault *fault)
{
    struct pieces pieces;
    uint8_t *to = buffer;
    int result = walk_pieces(mem, cpu, address, size, access, &pieces, fault);

    for (unsigned i = 0; !result && i < pieces.count; i++) {
        result = guest_mem_read(mem, pieces.piece[i].at, to, pieces.piece[i].size);
        to += pieces.piece[i].size;
    }
    return result ? (result == -EFAULT && !fault->vector ? -ENXIO : result) : 0;
}

int walk_write(struct guest_mem *mem, const struct insn_cpu *cpu, uint64_t address,
               const void *buffer, size_t size, struct insn_fault *fault)
{
    struct pieces pieces;
    const uint8_t *from = buffer;
    int result = walk_pieces(mem, cpu, address, size, INSN_WRITE, &pieces, fault);

    for (unsigned i = 0; !result && i < pieces.count; i++) {
        result = guest_mem_write(mem, pieces.piece[i].at, from, pieces.piece[i].size);
        from += pieces.piece[i].size;
    }
    return result ? (result == -EFAULT && !fault->vector ? -ENXIO : result) : 0;
}

int walk_exchange16(struct guest_mem *mem, const struct insn_cpu *cpu, uint64_t address,
                    uint64_t expected[2], const uint64_t desired[2], bool *swapped,
                    struct insn_fault *fault)
{
    gpa at;
    void *pointer;
    bool equal;
    int result = walk_translate(mem, cpu, address, INSN_WRITE, &at, fault);

    if (result)
        return result;
    pointer = guest_mem_ptr(mem, at, 16);
    if (!pointer || at % 16)
        return -ENXIO;
    /* Pairs with the guest's own locked accesses to the same 16 bytes. */
    __asm__ volatile("lock cmpxchg16b %1"
                     : "=@ccz"(equal), "+m"(*(uint64_t(*)[2])pointer), "+a"(expected[0]),
                       "+d"(expected[1])
                     : "b"(desired[0]), "c"(desired[1])
                     : "memory");
    guest_mem_mark_dirty(mem, at, 16);
    *swapped = equal;
    return 0;
}
