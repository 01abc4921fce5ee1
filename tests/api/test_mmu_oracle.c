/* SPDX-License-Identifier: MIT */
/*
 * This host's KVM as an oracle for the MMU laboratory: a guest touches pages in every
 * combination of flags and registers, and KVM walks random tables; the laboratory's walker and
 * its shadow MMU, given the same tables, must come to the same end.
 */
#include "api_test.h"

#include <cpuid.h>
#include <errno.h>
#include <inttypes.h>

#include "guests/paging.h"
#include "shadowpt-sim/image.h"
#include "shadowpt-sim/shadow/shadow.h"

enum { RAM_BYTES = 64 << 20, SHOWN = 12 };

/* ---- The guest's accesses ------------------------------------------------------------------- */

static struct paging_results results;

/* A simulated guest with the same tables. */
struct model {
    struct sim_ram ram;
    struct mmu_slots slots;
    struct mmu_mode mode;
    struct shadow_mmu *mmu; /* NULL: the walker alone */
    struct shadow_vcpu *vcpu;
    uint64_t (*tables)[512];
};

static void model_make(struct model *model, const struct mmu_cpu *cpu, int policy)
{
    static const struct mmu_slot slot = { 0, RAM_BYTES, GIB, false, 21 };
    struct shadow_config config = { .pool_pages = 4096, .pool_hpa = (uint64_t)1 << 45 };

    memset(model, 0, sizeof(*model));
    sim_ram_init(&model->ram);
    mmu_slots_init(&model->slots);
    assert_int_equal(sim_ram_add(&model->ram, 0, RAM_BYTES, false), 0);
    assert_int_equal(mmu_slots_add(&model->slots, &slot), 0);
    model->tables = (void *)sim_ram_host(&model->ram, PAGING_TABLES, 4096 * TABLE_COUNT);
    model->mode.cpu = *cpu;
    if (policy >= 0) {
        config.policy = (enum shadow_policy)policy;
        config.memory = &model->ram.memory;
        config.slots = &model->slots;
        assert_int_equal(shadow_create(&config, &model->mmu), 0);
        assert_int_equal(shadow_vcpu_create(model->mmu, cpu, &model->vcpu), 0);
    }
}

static void model_free(struct model *model)
{
    shadow_vcpu_destroy(model->vcpu);
    shadow_destroy(model->mmu);
    mmu_slots_destroy(&model->slots);
    sim_ram_destroy(&model->ram);
}

/* Fresh tables and the group's registers. */
static void model_group(struct model *model, const struct paging_group *group)
{
    paging_fill(model->tables, results.gbpages);
    model->mode.cr0 = CR0_PE | CR0_PG | (group->wp ? CR0_WP : 0);
    model->mode.cr3 = PAGING_TABLES;
    model->mode.cr4 =
        CR4_PAE | (group->smep ? CR4_SMEP : 0) | (group->smap ? CR4_SMAP : 0);
    model->mode.efer = EFER_LME | EFER_LMA | (group->nxe ? EFER_NXE : 0);
    mmu_mode_update(&model->mode);
    if (model->mmu != NULL) {
        shadow_memory_changed(model->mmu, PAGING_TABLES, 4096 * TABLE_COUNT);
        assert_int_equal(shadow_set_mode(model->vcpu, &model->mode), 0);
    }
}

static uint32_t model_walk(struct model *model, uint64_t address, uint32_t access)
{
    struct mmu_walk walk;

    switch (mmu_walk(&model->mode, &model->ram.memory, address, access, &walk)) {
    case MMU_OK:
        assert_int_equal(align_down(walk.gpa, MMU_PAGE_SIZE), PAGING_PAGE);
        return SEEN_VALUE;
    case MMU_FAULT:
        return SEEN_FAULT | SEEN_ADDRESS | walk.error_code;
    default:
        fail_msg("outcome %u", walk.outcome);
        return 0;
    }
}

static uint32_t model_shadow(struct model *model, uint64_t address, uint32_t access)
{
    struct shadow_result result = { .outcome = SHADOW_OK };

    switch (shadow_access(model->vcpu, address, access, &result)) {
    case SHADOW_OK:
        assert_int_equal(align_down(result.hpa, MMU_PAGE_SIZE), GIB + PAGING_PAGE);
        return SEEN_VALUE;
    case SHADOW_EMULATE: /* CR0.WP = 0 with SMAP: done, but not by an entry */
        return SEEN_VALUE;
    case SHADOW_FAULT:
        return SEEN_FAULT | SEEN_ADDRESS | result.error_code;
    default:
        fail_msg("outcome %u", result.outcome);
        return 0;
    }
}

static uint32_t access_of(const struct paging_group *group, unsigned slot)
{
    static const uint32_t kinds[] = { 0, MMU_WRITE, MMU_FETCH };

    return kinds[slot / PAGING_LEAVES] | (group->user ? MMU_USER : 0) |
           (group->ac ? MMU_AC : 0);
}

/* What the model says about every case of a group, in the guest's order. */
static void model_run(struct model *model, unsigned index, uint32_t *seen,
                      uint8_t upper[PAGING_TREES][PAGING_UPPERS])
{
    const struct paging_group group = paging_group(index);

    model_group(model, &group);
    for (unsigned at = 0; at < PAGING_CASES; at++) {
        unsigned tree = at / PAGING_SLOTS / PAGING_UPPERS, slot = at % PAGING_SLOTS;
        uint64_t address = paging_address(tree, at / PAGING_SLOTS % PAGING_UPPERS, slot);
        uint32_t access = access_of(&group, slot);

        seen[at] = model->mmu != NULL ? model_shadow(model, address, access)
                                      : model_walk(model, address, access);
    }
    for (unsigned at = 0; at < PAGING_CASES; at++) {
        unsigned tree = at / PAGING_SLOTS / PAGING_UPPERS;
        unsigned row = at / PAGING_SLOTS % PAGING_UPPERS;
        uint64_t leaf = *paging_leaf(model->tables, tree, row, at % PAGING_SLOTS);

        seen[at] |= (leaf & PAGING_A ? SEEN_A : 0) | (leaf & PAGING_D ? SEEN_D : 0);
        upper[tree][row] =
            (model->tables[paging_upper_table(tree)][paging_upper_slot(tree, row)] &
             PAGING_A) != 0;
    }
}

static void show(const char *who, unsigned index, unsigned at, uint32_t model,
                 uint32_t guest)
{
    const struct paging_group group = paging_group(index);
    unsigned slot = at % PAGING_SLOTS;

    print_message(
        "%s: CPL%d NXE=%u WP=%u SMEP=%u SMAP=%u AC=%u, leaf of level %u %#" PRIx64
        " below %#" PRIx64 ", access %u: %s %#x, KVM %#x\n",
        who, group.user ? 3 : 0, group.nxe, group.wp, group.smep, group.smap, group.ac,
        at / PAGING_SLOTS / PAGING_UPPERS + 1, paging_leaf_flags(slot % PAGING_LEAVES),
        paging_upper_flags(at / PAGING_SLOTS % PAGING_UPPERS), slot / PAGING_LEAVES, who,
        model, guest);
}

/* Under QEMU's TCG the "hardware" below KVM is QEMU's own page walker, and it has its ways:
 * - an entry with reserved bits faults without P in the error code (SDM 4.7 has it set);
 * - a walk that faults has set A in the entries above, and in a leaf of 1 GiB (SDM 4.8 leaves
 *   open whether it may). */
static bool on_tcg(void)
{
    unsigned eax, regs[3];

    __cpuid(0x40000000, eax, regs[0], regs[1], regs[2]);
    return memcmp(regs, "TCGTCGTCGTCG", sizeof(regs)) == 0;
}

static struct {
    unsigned reserved, above;
} quirks;

/* The guest's account of case @at as a processor would have given it. */
static uint32_t without_quirks(uint32_t guest, unsigned at)
{
    bool had = paging_leaf_flags(at % PAGING_SLOTS % PAGING_LEAVES) & PAGING_A;

    if ((guest & SEEN_FAULT) && (guest & SEEN_A) && !had && on_tcg() &&
        at / PAGING_SLOTS / PAGING_UPPERS == 2) {
        quirks.above++;
        guest &= ~SEEN_A;
    }
    if ((guest & (SEEN_FAULT | PF_RSVD | PF_P)) == (SEEN_FAULT | PF_RSVD) && on_tcg()) {
        quirks.reserved++;
        guest |= PF_P;
    }
    return guest;
}

static bool same_above(uint8_t model, uint8_t guest)
{
    if (guest && !model && on_tcg()) {
        quirks.above++;
        return true;
    }
    return guest == model;
}

static unsigned compare(const char *who, struct model *model, unsigned index)
{
    static uint32_t seen[PAGING_CASES];
    uint8_t upper[PAGING_TREES][PAGING_UPPERS];
    unsigned differ = 0;

    model_run(model, index, seen, upper);
    for (unsigned at = 0; at < PAGING_CASES; at++) {
        uint32_t guest = without_quirks(results.seen[index][at], at);

        if (guest == seen[at] ||
            (at / PAGING_SLOTS / PAGING_UPPERS == 2 && !results.gbpages)) {
            continue;
        }
        if (differ++ < SHOWN) {
            show(who, index, at, seen[at], guest);
        }
    }
    for (unsigned i = 0; i < PAGING_TREES * PAGING_UPPERS; i++) {
        unsigned tree = i / PAGING_UPPERS, row = i % PAGING_UPPERS;

        if ((tree < 2 || results.gbpages) &&
            !same_above(upper[tree][row], results.upper[index][tree][row])) {
            print_message("%s: group %u tree %u upper %u: A is %u, KVM's %u\n", who,
                          index, tree, row, upper[tree][row],
                          results.upper[index][tree][row]);
            differ++;
        }
    }
    return differ;
}

static struct umbra_vm *run_guest(struct mmu_cpu *cpu)
{
    struct umbra_paging paging = { .size = sizeof(paging) };
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_vm *vm = api_create(api_config("paging", ""));
    struct umbra_error error;

    assert_ok(umbra_vm_start(vm, &error));
    assert_ok(umbra_vm_wait(vm, 120000, &outcome, &error));
    assert_int_equal(outcome.kind, UMBRA_OUTCOME_EXIT);
    assert_int_equal(outcome.exit_value, 0);
    assert_ok(umbra_memory_read(vm, PAGING_RESULTS, &results, sizeof(results), &error));
    assert_int_equal(results.magic, PAGING_DONE);
    assert_ok(umbra_paging_get(vm, 0, &paging, &error));
    *cpu = (struct mmu_cpu){ .maxphyaddr = paging.physical_bits,
                             .gbpages = paging.gbpages,
                             .pse36 = true,
                             .amd = paging.amd };
    return vm;
}

/* ---- What KVM counted ------------------------------------------------------------------------- */

static const char *const stat_names[] = {
    "pf_guest",    "pf_fixed",          "mmu_pte_write",    "mmu_cache_miss",
    "mmu_flooded", "mmu_shadow_zapped", "remote_tlb_flush", "tlb_flush",
};

enum { STAT_PF_GUEST = 0, STAT_CACHE_MISS = 3, STATS = 8 };

static void note_stat(void *context, const struct umbra_kvm_stat *stat)
{
    uint64_t *values = context;

    for (unsigned i = 0; i < STATS; i++) {
        if (strcmp(stat->name, stat_names[i]) == 0 && stat->count > 0) {
            values[i] = stat->values[0];
        }
    }
}

static void own_stats(const struct shadow_stats *ours, uint64_t own[STATS])
{
    own[0] = ours->count[SHADOW_EXIT_TRUE_FAULT];
    own[1] = ours->count[SHADOW_EXIT_HIDDEN_FILL] + ours->count[SHADOW_EXIT_DIRTY] +
             ours->count[SHADOW_EXIT_WP_CLEAR];
    own[3] = ours->count[SHADOW_PAGE_NEW];
    own[4] = ours->count[SHADOW_PAGE_FLOOD];
    own[5] = ours->count[SHADOW_PAGE_ZAP];
    own[6] = ours->count[SHADOW_REMOTE_FLUSH];
}

/* Beside the shadow MMU's own of the same accesses, in both rings and in ring 3 alone (where
 * KVM interprets ring 0, that makes no shadow entries). The guest's setup is in KVM's too. */
static void compare_stats(struct umbra_vm *vm, const struct shadow_stats *ours,
                          const struct shadow_stats *ours_user)
{
    uint64_t kvm[STATS] = { 0 }, own[STATS] = { 0 }, user[STATS] = { 0 };
    struct umbra_error error;

    if (umbra_vm_kvm_stats(vm, 0, note_stat, kvm, &error) != 0 ||
        umbra_vm_kvm_stats(vm, -1, note_stat, kvm, &error) != 0) {
        print_message("no statistics: %s\n", error.message);
        return;
    }
    own_stats(ours, own);
    own_stats(ours_user, user);
    print_message("%-18s %8s %8s %8s\n", "", "KVM", "ours", "ring 3");
    for (unsigned i = 0; i < STATS; i++) {
        print_message("%-18s %8" PRIu64 " %8" PRIu64 " %8" PRIu64 "\n", stat_names[i],
                      kvm[i], own[i], user[i]);
    }
    /* A KVM that shadows sees every fault, in ring 0 by its emulator's walker. With nested
     * paging it sees none. */
    if (kvm[STAT_CACHE_MISS] > 0 && kvm[STAT_PF_GUEST] > 0) {
        assert_int_equal(kvm[STAT_PF_GUEST], own[STAT_PF_GUEST]);
    }
}

static void test_accesses(void **state)
{
    static const char *const names[] = { "walker", "shadow wp", "shadow unsync",
                                         "shadow vtlb" };
    unsigned differ = 0, groups = 0;
    struct mmu_cpu cpu;
    struct umbra_vm *vm = run_guest(&cpu);

    for (int policy = -1; policy < SHADOW_POLICIES && policy < 3; policy++) {
        struct shadow_stats user = { { 0 } };
        struct model model;

        model_make(&model, &cpu, policy);
        for (unsigned index = 0; index < PAGING_GROUPS; index++) {
            if (index == PAGING_USER_GROUPS && model.mmu != NULL) {
                user = *shadow_stats(model.mmu);
            }
            if (results.ran[index]) {
                differ += compare(names[policy + 1], &model, index);
                groups += policy < 0;
            }
        }
        if (policy == SHADOW_UNSYNC) { /* KVM's own policy */
            compare_stats(vm, shadow_stats(model.mmu), &user);
        }
        model_free(&model);
    }
    print_message("%u groups of registers, %u accesses each, %s 1 GiB pages: %u differ\n",
                  groups, PAGING_CASES, results.gbpages ? "with" : "without", differ);
    if (quirks.reserved + quirks.above > 0) {
        print_message(
            "QEMU TCG: %u times no P for reserved bits, %u times A above a fault\n",
            quirks.reserved, quirks.above);
    }
    assert_true(groups >= 4);
    assert_int_equal(differ, 0);
    umbra_vm_destroy(vm);
}

/* ---- KVM's walker on random tables ------------------------------------------------------------ */

enum { TABLE_PAGES = 24, ROUNDS = 60, PROBES = 512 };

#define RANDOM_TABLES ((uint64_t)4 << 20)
#define SCRATCH       ((uint64_t)16 << 20)

static uint64_t rng = 20240607;

static uint64_t rng_next(void) /* splitmix64 */
{
    uint64_t z = (rng += 0x9e3779b97f4a7c15ull);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static bool percent(unsigned chance)
{
    return rng_next() % 100 < chance;
}

/* Registers of one format of tables. */
struct format {
    const char *name;
    uint64_t cr4, efer;
    unsigned entry_size;
};

static const struct format formats[] = {
    { "4 levels", CR4_PAE | CR4_PGE, EFER_LME | EFER_LMA | EFER_NXE, 8 },
    { "4 levels, no NXE", CR4_PAE, EFER_LME | EFER_LMA, 8 },
    { "5 levels", CR4_PAE | CR4_LA57, EFER_LME | EFER_LMA | EFER_NXE, 8 },
    { "PAE", CR4_PAE, EFER_NXE, 8 },
    { "2 levels", CR4_PSE, 0, 4 },
    { "2 levels, no PSE", 0, 0, 4 },
};

static uint64_t random_entry(const struct format *format)
{
    uint64_t entry = rng_next() & 0x1ff, target;

    target = percent(75)   ? RANDOM_TABLES + rng_next() % TABLE_PAGES * MMU_PAGE_SIZE
             : percent(80) ? SCRATCH + (rng_next() % 4096) * MMU_PAGE_SIZE
                           : rng_next() % (1ull << 31) & ~(MMU_PAGE_SIZE - 1);
    entry |= PTE_P;
    if (percent(70)) {
        entry &= ~PTE_PS;
    } else if (percent(80)) {
        target &= format->entry_size == 8 ? ~(uint64_t)0x1fffff : ~(uint64_t)0x3fffff;
    }
    if (format->entry_size == 8) {
        entry |= percent(20) ? PTE_NX : 0;
        entry |= percent(1) ? (uint64_t)1 << (12 + rng_next() % 40) : 0;
    } else {
        /* KVM's PSE-36 has 36-bit addresses, four bits; processors have eight. */
        target &= ~(uint64_t)0x1e0000 | (entry & PTE_PS ? 0 : UINT64_MAX);
    }
    entry = percent(8) ? entry & ~PTE_P : entry;
    return entry | target;
}

static void random_tables(uint8_t *tables, const struct format *format)
{
    memset(tables, 0, TABLE_PAGES * MMU_PAGE_SIZE);
    for (size_t at = 0; at < TABLE_PAGES * MMU_PAGE_SIZE; at += format->entry_size) {
        uint64_t entry = percent(85) ? random_entry(format) : 0;

        if (format->entry_size == 8) {
            store_le64(tables + at, entry);
        } else {
            store_le32(tables + at, (uint32_t)entry);
        }
    }
    for (unsigned i = 0; strcmp(format->name, "PAE") == 0 && i < 4; i++) {
        store_le64(tables + 8 * i,
                   RANDOM_TABLES + (i + 1) * MMU_PAGE_SIZE + (percent(80) ? PTE_P : 0));
    }
}

/* False: this host does not take such registers. */
static bool set_format(struct umbra_vm *vm, const struct format *format,
                       struct mmu_mode *mode)
{
    struct umbra_registers registers = { .size = sizeof(registers) };
    struct umbra_paging paging = { .size = sizeof(paging) };
    struct umbra_error error;

    assert_ok(umbra_registers_get(vm, 0, &registers, &error));
    registers.cr0 = CR0_PE | CR0_PG | CR0_WP | 0x10;
    registers.cr3 = RANDOM_TABLES;
    registers.cr4 = format->cr4;
    registers.efer = format->efer;
    if (umbra_registers_set(vm, 0, &registers, &error) != 0) {
        return false;
    }
    assert_ok(umbra_paging_get(vm, 0, &paging, &error));
    *mode = (struct mmu_mode){ .cr0 = paging.cr0,
                               .cr3 = paging.cr3,
                               .cr4 = paging.cr4,
                               .efer = paging.efer,
                               .cpu = { .maxphyaddr = paging.physical_bits,
                                        .gbpages = paging.gbpages,
                                        .pse36 = true,
                                        .amd = paging.amd } };
    mmu_mode_update(mode);
    /* Some KVMs take the call and leave paging off. */
    return paging.cr0 == registers.cr0 && paging.cr4 == format->cr4;
}

static uint64_t random_address(const struct mmu_mode *mode)
{
    uint64_t address = rng_next();
    unsigned shift = mode->levels == 5 ? 64 - 57 : 64 - 48;

    return mode->format == MMU_FORMAT_LONG
               ? (uint64_t)((int64_t)(address << shift) >> shift)
               : (uint32_t)address;
}

/* One set of tables: where KVM says addresses are, and what it did to the tables. */
static unsigned compare_tables(struct umbra_vm *vm, const struct format *format,
                               struct mmu_mode *mode, unsigned *mapped)
{
    static uint8_t tables[TABLE_PAGES * MMU_PAGE_SIZE], after[sizeof(tables)];
    uint64_t gva[PROBES], gpa[PROBES];
    struct umbra_error error;
    struct sim_ram ram;
    unsigned differ = 0;
    uint8_t *copy;

    sim_ram_init(&ram);
    assert_int_equal(sim_ram_add(&ram, 0, RAM_BYTES, false), 0);
    copy = sim_ram_host(&ram, RANDOM_TABLES, sizeof(tables));
    random_tables(tables, format);
    memcpy(copy, tables, sizeof(tables));
    assert_ok(umbra_memory_write(vm, RANDOM_TABLES, tables, sizeof(tables), &error));
    if (mode->format == MMU_FORMAT_PAE) {
        assert_int_equal(mmu_load_pdptes(mode, &ram.memory, mode->cr3), 0);
        assert_true(set_format(vm, &formats[0], &(struct mmu_mode){ 0 }));
        assert_true(set_format(vm, format, &(struct mmu_mode){ 0 })); /* loads PDPTEs */
    }
    for (unsigned i = 0; i < PROBES; i++) {
        gva[i] = random_address(mode);
    }
    assert_ok(umbra_translate_list(vm, 0, UMBRA_CR3_CURRENT, gva, gpa, PROBES, &error));
    for (unsigned i = 0; i < PROBES; i++) {
        struct mmu_walk walk;
        uint64_t expected = mmu_walk(mode, &ram.memory, gva[i], 0, &walk) == MMU_OK
                                ? walk.gpa
                                : UINT64_MAX;

        *mapped += expected != UINT64_MAX;
        if (gpa[i] != expected && differ++ < SHOWN) {
            print_message("%s: %#" PRIx64 ": walker %#" PRIx64
                          " (level %u entry %#" PRIx64
                          " outcome %u error %#x), KVM %#" PRIx64 "\n",
                          format->name, gva[i], expected, walk.level,
                          walk.entry[walk.level], walk.outcome, walk.error_code, gpa[i]);
        }
    }
    assert_ok(umbra_memory_read(vm, RANDOM_TABLES, after, sizeof(after), &error));
    if (memcmp(after, copy, sizeof(after)) != 0) {
        print_message("%s: accessed flags differ\n", format->name);
        differ++;
    }
    sim_ram_destroy(&ram);
    return differ;
}

static void test_translate(void **state)
{
    struct umbra_config *config = api_config("echo", "");
    struct umbra_vm *vm = api_create(config);
    unsigned differ = 0, ran = 0;

    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        unsigned mapped = 0;
        struct mmu_mode mode;

        if (!set_format(vm, &formats[i], &mode)) {
            print_message("%s: not on this host\n", formats[i].name);
            continue;
        }
        ran++;
        for (unsigned round = 0; round < ROUNDS; round++) {
            differ += compare_tables(vm, &formats[i], &mode, &mapped);
        }
        print_message("%s: %u addresses, %u of them mapped\n", formats[i].name,
                      ROUNDS * PROBES, mapped);
        assert_true(mapped > 100);
    }
    assert_true(ran >= 2);
    assert_int_equal(differ, 0);
    umbra_vm_destroy(vm);
}

/* SMAP keeps the guest's kernel from its users' pages, but not who looks from outside. */
static void test_smap(void **state)
{
    const struct format format = { "SMAP", CR4_PAE | CR4_SMAP,
                                   EFER_LME | EFER_LMA | EFER_NXE, 8 };
    const uint64_t user = PTE_P | PTE_W | PTE_U, gva = 0x1234;
    uint64_t entry[4][512] = { { 0 } }, gpa = 0, word = 0x1122334455667788, read = 0;
    struct umbra_vm *vm = api_create(api_config("echo", ""));
    struct umbra_error error;
    struct mmu_mode mode;

    for (unsigned i = 0; i < 3; i++) {
        entry[i][0] = (RANDOM_TABLES + (i + 1) * MMU_PAGE_SIZE) | user;
    }
    entry[3][1] = SCRATCH | user;
    assert_ok(umbra_memory_write(vm, RANDOM_TABLES, entry, sizeof(entry), &error));
    assert_ok(umbra_memory_write(vm, SCRATCH + 0x234, &word, sizeof(word), &error));
    if (!set_format(vm, &format, &mode)) {
        print_message("SMAP: not on this host\n");
        umbra_vm_destroy(vm);
        skip();
    }
    assert_ok(umbra_translate(vm, 0, gva, &gpa, &error));
    assert_int_equal(gpa, SCRATCH + 0x234);
    assert_ok(umbra_memory_read_virtual(vm, 0, gva, &read, sizeof(read), &error));
    assert_int_equal(read, word);
    assert_int_equal(umbra_translate(vm, 0, gva + MMU_PAGE_SIZE, &gpa, &error), -EFAULT);
    umbra_vm_destroy(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accesses),
        cmocka_unit_test(test_translate),
        cmocka_unit_test(test_smap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
