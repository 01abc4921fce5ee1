/* SPDX-License-Identifier: MIT */
/* The simulated processor: TLB miss, CR3 load, INVLPG and store, natively, with nested
 * tables, or with shadow tables. */
#include "shadowpt-sim/sim_internal.h"

#include <errno.h>

#define MACHINE_RAM_HPA  ((uint64_t)1 << 40)
#define MACHINE_POOL_HPA ((uint64_t)1 << 45)
#define WALK_TRIES       64

static void walk_charge(struct sim_machine *machine, uint64_t gva,
                        const struct mmu_trace *trace)
{
    const struct cost_model *model = &machine->config.cost;
    struct sim_counters *count = &machine->count;
    struct tlb_walk_cost cost;

    tlb_walk(&machine->tlb, gva, machine->pcid, trace, &cost);
    count->walks++;
    count->references += cost.references;
    count->skipped += cost.skipped;
    count->histogram[cost.references < SIM_REFERENCES ? cost.references
                                                      : SIM_REFERENCES]++;
    count->cycles_walk += (uint64_t)cost.hits[0] * model->line[0] +
                          (uint64_t)cost.hits[1] * model->line[1] +
                          (uint64_t)cost.hits[2] * model->line[2] +
                          (uint64_t)cost.memory * model->memory;
}

static enum access_end walk_native(struct sim_machine *machine, uint64_t gva,
                                   uint32_t access)
{
    struct mmu_trace trace = { .count = 0 };
    struct mmu_walk walk;
    enum mmu_outcome outcome =
        mmu_walk(&machine->mode, &machine->ram.memory, gva, access, &walk);

    mmu_walk_trace(&walk, &trace);
    walk_charge(machine, gva, &trace);
    if (outcome == MMU_OK) {
        tlb_insert(&machine->tlb, gva, machine->pcid, &walk.to);
        return ACCESS_DONE;
    }
    return outcome == MMU_FAULT || outcome == MMU_NONCANONICAL ? ACCESS_FAULT
                                                               : ACCESS_BAD;
}

static enum access_end walk_nested(struct sim_machine *machine, uint64_t gva,
                                   uint32_t access)
{
    for (unsigned i = 0; i < WALK_TRIES; i++) {
        struct mmu_trace trace = { .count = 0 };
        struct nested_walk walk = { .trace = &trace };
        enum mmu_outcome outcome =
            nested_translate(&machine->nested, &machine->mode, gva, access, &walk);

        walk_charge(machine, gva, &trace);
        if (outcome == MMU_OK) {
            tlb_insert(&machine->tlb, gva, machine->pcid, &walk.to);
            return ACCESS_DONE;
        }
        if (outcome == MMU_FAULT || outcome == MMU_NONCANONICAL) {
            return ACCESS_FAULT;
        }
        if (outcome != MMU_NESTED_FAULT ||
            nested_fill(&machine->nested, walk.fault.gpa, NESTED_WRITE) != 0) {
            return ACCESS_BAD;
        }
        machine->count.nested_violations++;
    }
    return ACCESS_BAD;
}

static enum access_end walk_shadow(struct sim_machine *machine, uint64_t gva,
                                   uint32_t access, uint64_t *gpa)
{
    for (unsigned i = 0; i < WALK_TRIES; i++) {
        struct mmu_trace trace = { .count = 0 };
        struct mmu_translation to;
        struct shadow_result result;
        bool present = shadow_translate(machine->vcpu, gva, access, &to);

        shadow_trace(machine->vcpu, gva, &trace);
        walk_charge(machine, gva, &trace);
        if (present) {
            tlb_insert(&machine->tlb, gva, machine->pcid, &to);
            return ACCESS_DONE;
        }
        switch (shadow_fault(machine->vcpu, gva, access, &result)) {
        case SHADOW_OK:
            break;
        case SHADOW_FAULT:
        case SHADOW_NONCANONICAL:
            return ACCESS_FAULT;
        case SHADOW_TABLE_WRITE:
        case SHADOW_EMULATE:
            *gpa = result.gpa;
            return ACCESS_STORE;
        default:
            return ACCESS_BAD;
        }
    }
    return ACCESS_BAD;
}

enum access_end sim_cpu_walk(struct sim_machine *machine, uint64_t gva, uint32_t access,
                             uint64_t *gpa)
{
    /* What is cached does not serve; a processor forgets it as it walks again. */
    tlb_drop(&machine->tlb, gva, machine->pcid);
    switch (machine->kind) {
    case SIM_NATIVE:
        return walk_native(machine, gva, access);
    case SIM_NESTED:
        return walk_nested(machine, gva, access);
    default:
        return walk_shadow(machine, gva, access, gpa);
    }
}

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
    if (flush) {
        tlb_flush_pcid(&machine->tlb, pcid);
    }
    return err;
}

void sim_cpu_invlpg(struct sim_machine *machine, uint64_t gva)
{
    machine->count.invlpgs++;
    machine->count.cycles_guest += machine->config.cost.guest_invlpg;
    if (machine->shadow != NULL) {
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
    if (machine->shadow != NULL) {
        int err = shadow_set_mode(machine->vcpu, mode);

        machine->check = shadow_vcpu_hardware(machine->vcpu);
        return err;
    }
    return 0;
}

static void sim_cpu_flush(void *context)
{
    struct sim_machine *machine = context;

    tlb_flush_all(&machine->tlb);
}

static int shadow_init(struct sim_machine *machine)
{
    static const enum shadow_policy policy[] = {
        [SIM_SHADOW_WP] = SHADOW_WP,
        [SIM_SHADOW_UNSYNC] = SHADOW_UNSYNC,
        [SIM_SHADOW_VTLB] = SHADOW_VTLB,
    };
    struct shadow_config config = {
        .memory = &machine->ram.memory,
        .slots = &machine->slots,
        .policy = policy[machine->kind],
        .hooks = { machine, sim_cpu_flush },
        .pool_pages = machine->config.shadow_pages,
        .pool_hpa = MACHINE_POOL_HPA,
    };
    struct mmu_cpu cpu = MMU_CPU_DEFAULT;
    int err = shadow_create(&config, &machine->shadow);

    return err != 0 ? err : shadow_vcpu_create(machine->shadow, &cpu, &machine->vcpu);
}

int sim_cpu_init(struct sim_machine *machine)
{
    const struct sim_config *config = &machine->config;
    struct mmu_slot slot = { 0, config->ram, MACHINE_RAM_HPA, false, config->host_shift };
    struct nested_config nested = {
        .kind = NESTED_EPT,
        .levels = config->levels,
        .max_level = 3,
        .maxphyaddr = 46,
        .ad = true,
        .pool_pages = 1u << 20,
        .pool_hpa = MACHINE_POOL_HPA,
    };
    int err = tlb_init(&machine->tlb, &config->cost.geometry);

    sim_ram_init(&machine->ram);
    mmu_slots_init(&machine->slots);
    if (err == 0) {
        err = sim_ram_add(&machine->ram, 0, config->ram, false);
    }
    if (err == 0) {
        err = mmu_slots_add(&machine->slots, &slot);
    }
    if (err == 0 && machine->kind == SIM_NESTED) {
        err =
            nested_init(&machine->nested, &nested, &machine->slots, &machine->ram.memory);
    } else if (err == 0 && machine->kind > SIM_NESTED) {
        err = shadow_init(machine);
    }
    return err;
}

void sim_cpu_destroy(struct sim_machine *machine)
{
    shadow_vcpu_destroy(machine->vcpu);
    shadow_destroy(machine->shadow);
    if (machine->kind == SIM_NESTED) {
        nested_destroy(&machine->nested);
    }
    tlb_destroy(&machine->tlb);
    mmu_slots_destroy(&machine->slots);
    sim_ram_destroy(&machine->ram);
}
