/* SPDX-License-Identifier: MIT */
/* The simulated processor: TLB miss, CR3 load, INVLPG and store, natively, with nested
 * tables, or with shadow tables. */
#include "shadowpt-sim/sim/internal.h"

#include <errno.h>
#include <sys/mman.h>

#define MACHINE_RAM_HPA  ((uint64_t)1 << 40)
#define MACHINE_POOL_HPA ((uint64_t)1 << 45)

int sim_cpu_store(struct sim_machine *machine, uint64_t gpa, uint64_t value)
{
    uint64_t gva = machine->os.direct_map + gpa, at = gpa;

    machine->count.table_stores++;
    machine->count.cycles_guest += machine->config.cost.table_store;
    if (machine->os.process[machine->os.current].root == 0) {
        return mmu_store(&machine->ram.memory, gpa, 8, value); /* paging is still off */
    }
    switch (sim_cpu_access(machine, gva, MMU_WRITE, &at)) {
    case ACCESS_DONE:
        return mmu_store(&machine->ram.memory, gpa, 8, value);
    case ACCESS_STORE:
        return at == gpa ? shadow_write(machine->shadow, gpa, 8, value) : -EPROTO;
    default:
        return -EPROTO;
    }
}

/* What the processor's registers say of the tables: the shadow MMU may change its roots. */
static void roots_load(struct sim_machine *machine)
{
    uint64_t nested = shadow_nested_root(machine->shadow);

    machine->from_cr3 = shadow_vcpu_nested(machine->vcpu);
    machine->root = machine->from_cr3 ? machine->mode.cr3 & PTE_ADDRESS_MASK
                                      : shadow_vcpu_root(machine->vcpu);
    if (nested != 0) {
        machine->nested.root = pool_index(&machine->shadow_pool, nested);
    }
}

int sim_cpu_load_cr3(struct sim_machine *machine, uint64_t root, uint16_t pcid,
                     bool flush)
{
    uint64_t operand = root | pcid;
    int err = 0;

    machine->count.cr3_loads++;
    machine->count.cycles_guest += machine->config.cost.guest_cr3;
    if (machine->shadow != NULL) {
        err = shadow_load_cr3(machine->vcpu, operand | (flush ? 0 : CR3_NOFLUSH));
    }
    machine->mode.cr3 = operand;
    machine->pcid = pcid;
    machine->root = root;
    if (machine->shadow != NULL) {
        roots_load(machine);
    }
    if (flush) {
        tlb_flush_pcid(&machine->tlb, pcid);
    }
    return err;
}

void sim_cpu_invlpg(struct sim_machine *machine, uint64_t gva)
{
    machine->count.invlpgs++;
    machine->count.cycles_guest += machine->config.cost.guest_invlpg;
    if (machine->shadow != NULL && shadow_traps_invlpg(machine->shadow)) {
        shadow_invlpg(machine->vcpu, gva);
    }
    tlb_invlpg(&machine->tlb, gva, machine->pcid);
}

int sim_cpu_start(struct sim_machine *machine, uint64_t root)
{
    struct mmu_mode *mode = &machine->mode;

    *mode = (struct mmu_mode){ .cpu = MMU_CPU_DEFAULT };
    mode->cr0 = CR0_PE | CR0_WP | CR0_PG;
    mode->cr4 = CR4_PAE | CR4_PGE | CR4_SMEP | (machine->config.pcid ? CR4_PCIDE : 0) |
                (machine->config.levels == 5 ? CR4_LA57 : 0);
    mode->efer = EFER_LME | EFER_LMA | EFER_NXE;
    mode->cr3 = root;
    mmu_mode_update(mode);
    machine->check = mode;
    machine->root = root;
    if (machine->shadow != NULL) {
        int err = shadow_set_mode(machine->vcpu, mode);

        machine->check = shadow_vcpu_hardware(machine->vcpu);
        roots_load(machine);
        return err;
    }
    return 0;
}

static void sim_cpu_flush(void *context)
{
    struct sim_machine *machine = context;

    tlb_flush_all(&machine->tlb);
    if (machine->vcpu != NULL) {
        roots_load(machine);
    }
}

/* The host walks these too, at each simulated walk: with large pages it rarely needs to.
 * What is in them is dense, so that memory stays proportional to what is in use. */
static void prefer_large_pages(void *host, uint64_t size)
{
    (void)madvise(host, size, MADV_HUGEPAGE);
}

static struct sim_tables pool_tables(const struct table_pool *pool)
{
    uint64_t size = (uint64_t)pool->pages << MMU_PAGE_SHIFT;

    prefer_large_pages(pool->base, size);
    return (struct sim_tables){ (const uint8_t *)pool->base, pool->hpa, size };
}

static int shadow_init(struct sim_machine *machine)
{
    static const enum shadow_policy policy[] = {
        [SIM_SHADOW_WP] = SHADOW_WP,
        [SIM_SHADOW_UNSYNC] = SHADOW_UNSYNC,
        [SIM_SHADOW_VTLB] = SHADOW_VTLB,
        [SIM_SHADOW_AGILE] = SHADOW_AGILE,
    };
    struct shadow_config config = {
        .memory = &machine->ram.memory,
        .slots = &machine->slots,
        .policy = policy[machine->kind],
        .hooks = { machine, sim_cpu_flush },
        .pool_pages = machine->config.shadow_pages,
        .pool_hpa = MACHINE_POOL_HPA,
        .agile_writes = (uint8_t)machine->config.cost.agile_writes,
        .nested_levels = machine->config.levels,
    };
    struct mmu_cpu cpu = MMU_CPU_DEFAULT;
    int err = pool_init(&machine->shadow_pool, config.pool_pages, NULL, config.pool_hpa);

    config.pool = machine->shadow_pool.base;
    err = err != 0 ? err : shadow_create(&config, &machine->shadow);
    machine->tables = pool_tables(&machine->shadow_pool);
    if (machine->kind == SIM_SHADOW_AGILE) {
        machine->nested_tables = machine->tables;
        machine->guest_tables =
            (struct sim_tables){ machine->ram.region[0].host, MACHINE_RAM_HPA,
                                 machine->config.ram };
        machine->nested.config.kind = NESTED_NPT;
        machine->nested.config.levels = config.nested_levels;
        machine->nested.pool = machine->shadow_pool;
    }
    return err != 0 ? err : shadow_vcpu_create(machine->shadow, &cpu, &machine->vcpu);
}

static int nested_start(struct sim_machine *machine)
{
    const struct sim_config *config = &machine->config;
    struct nested_config nested = {
        .kind = NESTED_EPT,
        .levels = config->levels,
        .max_level = 3,
        .maxphyaddr = 46,
        .ad = true,
        .pool_pages = 1u << 20,
        .pool_hpa = MACHINE_POOL_HPA,
    };

    int err =
        nested_init(&machine->nested, &nested, &machine->slots, &machine->ram.memory);

    machine->tables.base = MACHINE_RAM_HPA; /* found through the nested tables */
    machine->nested_tables = pool_tables(&machine->nested.pool);
    return err;
}

int sim_cpu_init(struct sim_machine *machine)
{
    const struct sim_config *config = &machine->config;
    struct mmu_slot slot = { 0, config->ram, MACHINE_RAM_HPA, false, config->host_shift };
    int err = tlb_init(&machine->tlb, &config->cost.geometry);

    sim_ram_init(&machine->ram);
    mmu_slots_init(&machine->slots);
    if (err == 0) {
        err = sim_ram_add(&machine->ram, 0, config->ram, false);
    }
    if (err == 0) {
        machine->tables =
            (struct sim_tables){ machine->ram.region[0].host, 0, config->ram };
        /* Of the guest's memory only tables are ever touched. */
        prefer_large_pages(machine->ram.region[0].host, config->ram);
        err = mmu_slots_add(&machine->slots, &slot);
    }
    if (err == 0 && machine->kind == SIM_NESTED) {
        err = nested_start(machine);
    } else if (err == 0 && machine->kind > SIM_NESTED) {
        err = shadow_init(machine);
    }
    return err;
}

void sim_cpu_destroy(struct sim_machine *machine)
{
    shadow_vcpu_destroy(machine->vcpu);
    shadow_destroy(machine->shadow);
    pool_destroy(&machine->shadow_pool);
    if (machine->kind == SIM_NESTED) {
        nested_destroy(&machine->nested);
    }
    tlb_destroy(&machine->tlb);
    mmu_slots_destroy(&machine->slots);
    sim_ram_destroy(&machine->ram);
}
