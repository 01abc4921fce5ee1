/* SPDX-License-Identifier: MIT */
/* The oracle: a second page walker, written from the manuals, slow and plain. It shares no
 * code and no constants with src/shadowpt-sim, keeps nothing between calls, and writes nothing:
 * it says which entries' accessed and dirty bits the walk would set. */
#ifndef TESTS_UNIT_MMU_ORACLE_H
#define TESTS_UNIT_MMU_ORACLE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct oracle_cpu {
    bool pg, pae, lme, la57, pse, pge, wp, smep, smap, pke, nxe;
    bool amd, gbpages, pse36;
    unsigned maxphyaddr;
    uint64_t cr3, pdpte[4];
    uint32_t pkru;
    /* Host bytes of guest memory, NULL where there is none. */
    const uint8_t *(*memory)(void *context, uint64_t gpa);
    void *context;
};

enum oracle_kind {
    ORACLE_READ,
    ORACLE_WRITE,
    ORACLE_FETCH,
};

struct oracle_access {
    enum oracle_kind kind;
    bool user;     /* CPL 3 */
    bool ac;       /* RFLAGS.AC */
    bool implicit; /* a system access of the processor */
};

enum oracle_end {
    ORACLE_OK,
    ORACLE_PF,
    ORACLE_GP,
    ORACLE_NO_MEMORY, /* a table lies where no memory is */
};

struct oracle_result {
    enum oracle_end end;
    uint32_t error;
    uint64_t gpa;
    /* The translation, whatever the access: valid when `mapped`. */
    bool mapped;
    bool writable, user, executable, global, dirty;
    unsigned key, shift, cache; /* cache: PAT, PCD, PWT as bits 2 to 0 */
    /* Entries on the path, top first. */
    unsigned count;
    uint64_t where[5], was[5], becomes[5];
};

static inline bool oracle_bit(uint64_t value, unsigned bit)
{
    return (value >> bit) & 1;
}

static inline bool oracle_any(uint64_t value, int high, int low)
{
    for (int bit = low; bit <= high; bit++) {
        if (oracle_bit(value, (unsigned)bit)) {
            return true;
        }
    }
    return false;
}

static inline bool oracle_read(const struct oracle_cpu *cpu, uint64_t gpa, unsigned size,
                               uint64_t *value)
{
    const uint8_t *p = cpu->memory(cpu->context, gpa);

    if (p == NULL) {
        return false;
    }
    *value = 0;
    memcpy(value, p, size); /* the host is little-endian, as x86 is */
    return true;
}

/* SDM 4.7: what #PF pushes. */
static inline void oracle_fault(const struct oracle_cpu *cpu,
                                const struct oracle_access *access, bool present,
                                bool reserved, bool key, struct oracle_result *result)
{
    bool supervisor = !access->user || access->implicit;

    result->end = ORACLE_PF;
    result->error = 0;
    if (present) {
        result->error |= 1u << 0;
    }
    if (access->kind == ORACLE_WRITE) {
        result->error |= 1u << 1;
    }
    if (!supervisor) {
        result->error |= 1u << 2;
    }
    if (reserved) {
        result->error |= 1u << 3;
    }
    if (access->kind == ORACLE_FETCH && (cpu->smep || (cpu->pae && cpu->nxe))) {
        result->error |= 1u << 4;
    }
    if (key) {
        result->error |= 1u << 5;
    }
}

/* SDM 4.6.2: protection keys, of user-mode addresses in IA-32e mode, for data. */
static inline bool oracle_key_forbids(const struct oracle_cpu *cpu,
                                      const struct oracle_access *access,
                                      const struct oracle_result *result)
{
    bool supervisor = !access->user || access->implicit;
    bool access_disable = oracle_bit(cpu->pkru, 2 * result->key);
    bool write_disable = oracle_bit(cpu->pkru, 2 * result->key + 1);

    if (!cpu->lme || !cpu->pke || !result->user || access->kind == ORACLE_FETCH) {
        return false;
    }
    if (access_disable) {
        return true;
    }
    return write_disable && access->kind == ORACLE_WRITE && (!supervisor || cpu->wp);
}

/* SDM 4.6.1, case by case. */
static inline bool oracle_rights(const struct oracle_cpu *cpu,
                                 const struct oracle_access *access,
                                 const struct oracle_result *result)
{
    bool supervisor = !access->user || access->implicit;

    if (!supervisor) {
        switch (access->kind) {
        case ORACLE_READ:
            return result->user;
        case ORACLE_WRITE:
            return result->user && result->writable;
        case ORACLE_FETCH:
            return result->user && result->executable;
        }
    }
    if (access->kind == ORACLE_FETCH) {
        if (result->user && cpu->smep) {
            return false;
        }
        return result->executable;
    }
    if (result->user && cpu->smap) {
        if (access->implicit || !access->ac) {
            return false;
        }
    }
    if (access->kind == ORACLE_WRITE && cpu->wp) {
        return result->writable;
    }
    return true;
}

/* The path is complete: check rights, and say what A and D become. */
static inline void oracle_finish(const struct oracle_cpu *cpu,
                                 const struct oracle_access *access,
                                 struct oracle_result *result)
{
    bool key;

    result->mapped = true;
    key = oracle_key_forbids(cpu, access, result);
    if (key || !oracle_rights(cpu, access, result)) {
        oracle_fault(cpu, access, true, false, key, result);
        return;
    }
    result->end = ORACLE_OK;
    for (unsigned i = 0; i < result->count; i++) {
        result->becomes[i] = result->was[i] | 0x20;
    }
    if (access->kind == ORACLE_WRITE && result->count > 0) {
        result->becomes[result->count - 1] |= 0x40;
    }
    /* A table may stand on the path twice: then one entry takes both marks. */
    for (unsigned i = 0; i < result->count; i++) {
        for (unsigned j = 0; j < result->count; j++) {
            if (result->where[i] == result->where[j]) {
                result->becomes[i] |= result->becomes[j];
            }
        }
    }
}

/* Read one entry of the path; false when the walk ends here, with the end in @result. */
static inline bool oracle_step(const struct oracle_cpu *cpu,
                               const struct oracle_access *access, uint64_t where,
                               unsigned size, struct oracle_result *result,
                               uint64_t *entry)
{
    if (!oracle_read(cpu, where, size, entry)) {
        result->end = ORACLE_NO_MEMORY;
        return false;
    }
    result->where[result->count] = where;
    result->was[result->count] = *entry;
    result->becomes[result->count] = *entry;
    result->count++;
    if (!oracle_bit(*entry, 0)) {
        oracle_fault(cpu, access, false, false, false, result);
        return false;
    }
    return true;
}

/* Combine R/W, U/S and XD of one 8-byte or 4-byte entry into the path's. */
static inline void oracle_combine(const struct oracle_cpu *cpu, uint64_t entry,
                                  struct oracle_result *result)
{
    result->writable = result->writable && oracle_bit(entry, 1);
    result->user = result->user && oracle_bit(entry, 2);
    if (cpu->pae && cpu->nxe && oracle_bit(entry, 63)) {
        result->executable = false;
    }
}

static inline void oracle_page(const struct oracle_cpu *cpu, uint64_t entry,
                               uint64_t page, unsigned shift, uint64_t va,
                               struct oracle_result *result)
{
    result->shift = shift;
    result->gpa = page + (va % ((uint64_t)1 << shift));
    result->global = cpu->pge && oracle_bit(entry, 8);
    result->dirty = oracle_bit(entry, 6);
    result->cache = oracle_bit(entry, 3) + 2 * oracle_bit(entry, 4) +
                    4 * oracle_bit(entry, shift == 12 ? 7 : 12);
}

/* SDM 4.5, tables 4-14 to 4-20: reserved bits of 4-level and 5-level entries. */
static inline bool oracle_bad64(const struct oracle_cpu *cpu, unsigned level,
                                uint64_t entry)
{
    bool ps = oracle_bit(entry, 7);

    if (oracle_any(entry, 51, (int)cpu->maxphyaddr)) {
        return true;
    }
    if (!cpu->nxe && oracle_bit(entry, 63)) {
        return true;
    }
    switch (level) {
    case 5:
    case 4:
        return ps || (cpu->amd && oracle_bit(entry, 8));
    case 3:
        return ps && (!cpu->gbpages || oracle_any(entry, 29, 13));
    case 2:
        return ps && oracle_any(entry, 20, 13);
    default:
        return false;
    }
}

static inline void oracle_walk64(const struct oracle_cpu *cpu,
                                 const struct oracle_access *access, uint64_t va,
                                 struct oracle_result *result)
{
    unsigned levels = cpu->la57 ? 5 : 4, top = cpu->la57 ? 56 : 47;
    uint64_t table = (cpu->cr3 >> 12 << 12) & 0xfffffffffffffull;
    bool sign = oracle_bit(va, top);

    for (unsigned bit = top; bit < 64; bit++) {
        if (oracle_bit(va, bit) != sign) {
            result->end = ORACLE_GP;
            return;
        }
    }
    for (unsigned level = levels; level >= 1; level--) {
        unsigned shift = 3 + 9 * level;
        uint64_t entry;

        if (!oracle_step(cpu, access, table + (va >> shift) % 512 * 8, 8, result,
                         &entry)) {
            return;
        }
        if (oracle_bad64(cpu, level, entry)) {
            oracle_fault(cpu, access, true, true, false, result);
            return;
        }
        oracle_combine(cpu, entry, result);
        table = entry & 0xffffffffff000ull;
        if (level == 1 || (level <= 3 && oracle_bit(entry, 7))) {
            result->key = cpu->pke ? (entry >> 59) % 16 : 0;
            oracle_page(cpu, entry, table >> shift << shift, shift, va, result);
            oracle_finish(cpu, access, result);
            return;
        }
    }
}

/* SDM 4.4: the PDPTEs are registers; bits 62:MAXPHYADDR of PDEs and PTEs are reserved. */
static inline void oracle_walk_pae(const struct oracle_cpu *cpu,
                                   const struct oracle_access *access, uint64_t va,
                                   struct oracle_result *result)
{
    uint64_t pdpte = cpu->pdpte[va >> 30 & 3], table;

    if (!oracle_bit(pdpte, 0)) {
        oracle_fault(cpu, access, false, false, false, result);
        return;
    }
    table = pdpte & 0xffffffffff000ull;
    for (unsigned level = 2; level >= 1; level--) {
        unsigned shift = 3 + 9 * level;
        bool large;
        uint64_t entry;

        if (!oracle_step(cpu, access, table + (va >> shift) % 512 * 8, 8, result,
                         &entry)) {
            return;
        }
        large = level == 2 && oracle_bit(entry, 7);
        if (oracle_any(entry, 62, (int)cpu->maxphyaddr) ||
            (!cpu->nxe && oracle_bit(entry, 63)) ||
            (large && oracle_any(entry, 20, 13))) {
            oracle_fault(cpu, access, true, true, false, result);
            return;
        }
        oracle_combine(cpu, entry, result);
        table = entry & 0xffffffffff000ull;
        if (level == 1 || large) {
            oracle_page(cpu, entry, table >> shift << shift, shift, va, result);
            oracle_finish(cpu, access, result);
            return;
        }
    }
}

/* SDM 4.3: 4 KiB pages, and 4 MiB pages with CR4.PSE, with PSE-36 if the processor has it. */
static inline void oracle_walk32(const struct oracle_cpu *cpu,
                                 const struct oracle_access *access, uint64_t va,
                                 struct oracle_result *result)
{
    uint64_t table = cpu->cr3 & 0xfffff000u, entry, page;

    if (!oracle_step(cpu, access, table + (va >> 22) * 4, 4, result, &entry)) {
        return;
    }
    oracle_combine(cpu, entry, result);
    if (cpu->pse && oracle_bit(entry, 7)) {
        int m = cpu->pse36 ? (int)cpu->maxphyaddr : 32;

        if (m > 40) {
            m = 40;
        }
        if (oracle_any(entry, 21, m - 19)) {
            oracle_fault(cpu, access, true, true, false, result);
            return;
        }
        page = entry >> 22 << 22;
        if (cpu->pse36) {
            page += (entry >> 13 & 0xff) << 32;
        }
        oracle_page(cpu, entry, page, 22, va, result);
        oracle_finish(cpu, access, result);
        return;
    }
    table = entry & 0xfffff000u;
    if (!oracle_step(cpu, access, table + (va >> 12) % 1024 * 4, 4, result, &entry)) {
        return;
    }
    oracle_combine(cpu, entry, result);
    oracle_page(cpu, entry, entry & 0xfffff000u, 12, va, result);
    oracle_finish(cpu, access, result);
}

static inline struct oracle_result
oracle_walk(const struct oracle_cpu *cpu, const struct oracle_access *access, uint64_t va)
{
    struct oracle_result result = { .writable = true, .user = true, .executable = true };

    if (!cpu->pg) {
        result.end = ORACLE_OK;
        result.mapped = true;
        result.gpa = (uint32_t)va;
        result.shift = 12;
        result.dirty = true;
    } else if (cpu->lme) {
        oracle_walk64(cpu, access, va, &result);
    } else if (cpu->pae) {
        oracle_walk_pae(cpu, access, (uint32_t)va, &result);
    } else {
        oracle_walk32(cpu, access, (uint32_t)va, &result);
    }
    return result;
}

/* MOV to CR3 with PAE paging (SDM 4.4.1): false for #GP. */
static inline bool oracle_load_pdptes(struct oracle_cpu *cpu)
{
    uint64_t pdpte[4];

    for (unsigned i = 0; i < 4; i++) {
        if (!oracle_read(cpu, (cpu->cr3 & 0xffffffe0u) + 8 * i, 8, &pdpte[i])) {
            return false;
        }
        if (oracle_bit(pdpte[i], 0) &&
            (oracle_any(pdpte[i], 2, 1) || oracle_any(pdpte[i], 8, 5) ||
             oracle_any(pdpte[i], 63, (int)cpu->maxphyaddr))) {
            return false;
        }
    }
    memcpy(cpu->pdpte, pdpte, sizeof(pdpte));
    return true;
}

#endif
