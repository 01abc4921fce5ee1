/* SPDX-License-Identifier: MIT */
/* The parameters of the models, and the file that sets them. */
#include "shadowpt-sim/sim/cost.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"

/*
 * A Skylake server core. Where the numbers come from (docs/shadow-paging.md names the papers):
 * - TLBs, and 9 cycles for the second: Intel 64 and IA-32 Optimization Reference Manual,
 *   "Skylake Server Microarchitecture".
 * - Data caches: the same; 55 cycles in L3 and 90 ns (240 cycles at 2.7 GHz) of memory as
 *   AnandTech measured on Xeon Platinum 8176 (2017). The lines are an eighth of each cache,
 *   since tables share them with data.
 * - Paging-structure caches: what they hold is in SDM 4.10.3 and 29.4, their sizes are not
 *   published; these are in the range that measurements report. The nested TLB has the 16
 *   entries of AMD's first one (Bhargava et al., ASPLOS 2008).
 * - VM exit and entry: between 1344 cycles (VMRUN and back, measured on LKML, December 2020)
 *   and what recent Intel cores are said to need. With KVM's part it is 2000 to 2500 (the same
 *   thread; Landau et al., "SplitX", WIOV 2011): so the shortest handlers cost about as much
 *   again, those that walk tables twice that, and decoding an instruction the most.
 * The handlers and the guest's kernel are estimates. umbra mmu costs --measure replaces what
 * can be measured without a kernel module.
 */
const struct cost_model cost_default = {
    .geometry = { .l1_4k = { 64, 4 },
                  .l1_2m = { 32, 4 },
                  .l1_1g = { 4, 4 },
                  .l2 = { 1536, 12 },
                  .l2_1g = { 16, 4 },
                  .pwc = { { 32, 4 }, { 4, 4 }, { 2, 2 }, { 1, 1 } },
                  .nested = { 16, 4 },
                  .npwc = { { 32, 4 }, { 4, 4 }, { 2, 2 }, { 1, 1 } },
                  .line = { { 64, 8 }, { 2048, 16 }, { 4096, 16 } } },
    .access = 1,
    .tlb_l2 = 9,
    .line = { 5, 14, 55 },
    .memory = 240,
    .vm_exit = 1200,
    .guest_fault = 1000,
    .guest_cr3 = 200,
    .guest_invlpg = 150,
    .table_store = 20,
    .reflect = 600,
    .fill = 1200,
    .dirty = 600,
    .unsync = 1500,
    .emulate = 2500,
    .cr3 = 600,
    .invlpg = 600,
    .sync_page = 800,
    .sync_entry = 100,
    .page_new = 600,
    .page_zap = 600,
    .flush = 500,
    .agile_writes = 2,
    .agile_interval = 65536,
};

/* ---- Names ------------------------------------------------------------------------- */

#define SHAPE(name, member, help)                                                        \
    {                                                                                    \
        name, offsetof(struct cost_model, geometry.member), true, 0, 1u << 20, help      \
    }
#define NUMBER(name, member, least, most, help)                                          \
    {                                                                                    \
        name, offsetof(struct cost_model, member), false, least, most, help              \
    }
#define CYCLES(name, member, help) NUMBER(name, member, 0, 1000000000u, help)

static const struct parameter {
    const char *name;
    size_t offset;
    bool shape;
    uint32_t least, most;
    const char *help;
} parameters[] = {
    SHAPE("tlb.l1.4k", l1_4k, "first TLB, 4 KiB pages: entries/ways"),
    SHAPE("tlb.l1.2m", l1_2m, "first TLB, 2 MiB pages"),
    SHAPE("tlb.l1.1g", l1_1g, "first TLB, 1 GiB pages"),
    SHAPE("tlb.l2", l2, "second TLB, 4 KiB and 2 MiB pages"),
    SHAPE("tlb.l2.1g", l2_1g, "second TLB, 1 GiB pages"),
    SHAPE("pwc.2", pwc[0], "paging-structure cache: entries of level 2 (PDE)"),
    SHAPE("pwc.3", pwc[1], "... level 3 (PDPTE)"),
    SHAPE("pwc.4", pwc[2], "... level 4 (PML4E)"),
    SHAPE("pwc.5", pwc[3], "... level 5 (PML5E)"),
    SHAPE("tlb.nested", nested, "GPA to HPA"),
    SHAPE("npwc.2", npwc[0], "paging-structure cache of the nested tables: level 2"),
    SHAPE("npwc.3", npwc[1], "... level 3"),
    SHAPE("npwc.4", npwc[2], "... level 4"),
    SHAPE("npwc.5", npwc[3], "... level 5"),
    SHAPE("lines.l1", line[0], "64-byte lines of tables in the L1 cache"),
    SHAPE("lines.l2", line[1], "... in L2"),
    SHAPE("lines.l3", line[2], "... in L3"),
    CYCLES("cycles.access", access, "an access that hits the first TLB"),
    CYCLES("cycles.tlb.l2", tlb_l2, "more, if it hits the second"),
    CYCLES("cycles.line.l1", line[0], "a table entry in the L1 cache"),
    CYCLES("cycles.line.l2", line[1], "... in L2"),
    CYCLES("cycles.line.l3", line[2], "... in L3"),
    CYCLES("cycles.memory", memory, "... in memory"),
    CYCLES("cycles.exit", vm_exit, "VM exit and entry, without the handler"),
    CYCLES("cycles.guest.fault", guest_fault, "#PF, the guest's handler, IRET"),
    CYCLES("cycles.guest.cr3", guest_cr3, "MOV to CR3 without an exit"),
    CYCLES("cycles.guest.invlpg", guest_invlpg, "INVLPG without an exit"),
    CYCLES("cycles.guest.store", table_store, "a store to a table without an exit"),
    CYCLES("cycles.reflect", reflect, "handler: inject a fault"),
    CYCLES("cycles.fill", fill, "handler: make a shadow or nested entry"),
    CYCLES("cycles.dirty", dirty, "handler: emulate D"),
    CYCLES("cycles.unsync", unsync, "handler: let a table go out of sync"),
    CYCLES("cycles.emulate", emulate, "handler: decode and emulate a store"),
    CYCLES("cycles.cr3", cr3, "handler: load CR3"),
    CYCLES("cycles.invlpg", invlpg, "handler: INVLPG"),
    CYCLES("cycles.sync.page", sync_page, "compare an out-of-sync table"),
    CYCLES("cycles.sync.entry", sync_entry, "... per entry that changed"),
    CYCLES("cycles.page.new", page_new, "make a shadow page"),
    CYCLES("cycles.page.zap", page_zap, "drop a shadow page"),
    CYCLES("cycles.flush", flush, "the hypervisor flushes all TLBs"),
    NUMBER("agile.writes", agile_writes, 1, 255,
           "agile paging: writes in an interval that make a table nested"),
    NUMBER("agile.interval", agile_interval, 1, 1000000000u, "... events in an interval"),
};

/* ---- Values -------------------------------------------------------------------------- */

static bool number_parse(const char **text, uint32_t limit, uint32_t *value)
{
    unsigned long long parsed;
    char *end;

    if (!isdigit((unsigned char)**text)) {
        return false;
    }
    errno = 0;
    parsed = strtoull(*text, &end, 10);
    if (errno != 0 || parsed > limit) {
        return false;
    }
    *value = (uint32_t)parsed;
    *text = end;
    return true;
}

int cost_set(struct cost_model *cost, const char *name, const char *value)
{
    for (size_t i = 0; i < ARRAY_SIZE(parameters); i++) {
        const struct parameter *parameter = &parameters[i];
        void *at = (char *)cost + parameter->offset;
        struct tlb_shape shape = { 0, 1 };
        uint32_t sets;

        if (strcmp(parameter->name, name) != 0) {
            continue;
        }
        if (!number_parse(&value, parameter->most, &shape.entries) ||
            shape.entries < parameter->least) {
            return -EINVAL;
        }
        if (!parameter->shape) {
            memcpy(at, &shape.entries, sizeof(shape.entries));
            return *value == '\0' ? 0 : -EINVAL;
        }
        if (*value == '/') {
            value++;
            if (!number_parse(&value, 1u << 20, &shape.ways) || shape.ways == 0) {
                return -EINVAL;
            }
        }
        sets = shape.entries / shape.ways;
        if (*value != '\0' || shape.entries % shape.ways != 0 ||
            (sets & (sets - 1)) != 0) {
            return -EINVAL;
        }
        memcpy(at, &shape, sizeof(shape));
        return 0;
    }
    return -ENOENT;
}

static char *trim(char *text)
{
    size_t length;

    while (isspace((unsigned char)*text)) {
        text++;
    }
    length = strlen(text);
    while (length > 0 && isspace((unsigned char)text[length - 1])) {
        text[--length] = '\0';
    }
    return text;
}

static int line_apply(struct cost_model *cost, const char *path, unsigned number,
                      char *line, struct umbra_error *error)
{
    char *comment = strchr(line, '#'), *equals, *name, *value;
    int err;

    if (comment != NULL) {
        *comment = '\0';
    }
    name = trim(line);
    if (*name == '\0') {
        return 0;
    }
    equals = strchr(name, '=');
    if (equals == NULL) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "%s:%u: expected NAME = VALUE", path, number);
    }
    *equals = '\0';
    value = trim(equals + 1);
    name = trim(name);
    err = cost_set(cost, name, value);
    if (err == -ENOENT) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "%s:%u: there is no parameter '%s'; umbra mmu costs lists all",
                         path, number, name);
    }
    if (err != 0) {
        return error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                         "%s:%u: '%s' is no value for %s: expected a number, or "
                         "ENTRIES/WAYS with a power of two of sets",
                         path, number, value, name);
    }
    return 0;
}

int cost_load(struct cost_model *cost, const char *path, struct umbra_error *error)
{
    FILE *in = fopen(path, "re");
    char line[512];
    unsigned number = 0;
    int err = 0;

    if (in == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno, "opening %s", path);
    }
    while (err == 0 && fgets(line, sizeof(line), in) != NULL) {
        number++;
        if (strchr(line, '\n') == NULL && !feof(in)) {
            err = error_set(error, UMBRA_ERROR_CONFIG, EINVAL, "%s:%u: line too long",
                            path, number);
        } else {
            err = line_apply(cost, path, number, line, error);
        }
    }
    fclose(in);
    return err;
}

/* Only latencies, and the sizes of TLBs and data caches, are found in print. */
static bool is_published(const char *name)
{
    static const char *const prefixes[] = { "tlb.l",         "lines.",
                                            "cycles.access", "cycles.tlb.",
                                            "cycles.line.",  "cycles.memory",
                                            "cycles.exit",   "agile.writes" };

    for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++) {
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0) {
            return true;
        }
    }
    return false;
}

static const char *origin(const struct cost_model *cost,
                          const struct parameter *parameter, const char *const *measured)
{
    const char *at = (const char *)cost + parameter->offset;
    size_t size = parameter->shape ? sizeof(struct tlb_shape) : sizeof(uint32_t);

    for (; measured != NULL && *measured != NULL; measured++) {
        if (strcmp(*measured, parameter->name) == 0) {
            return "measured";
        }
    }
    if (memcmp(at, (const char *)&cost_default + parameter->offset, size) != 0) {
        return "set";
    }
    return is_published(parameter->name) ? "published" : "estimate";
}

void cost_print(const struct cost_model *cost, const char *const *measured, FILE *out)
{
    for (size_t i = 0; i < ARRAY_SIZE(parameters); i++) {
        const struct parameter *parameter = &parameters[i];
        const void *at = (const char *)cost + parameter->offset;
        struct tlb_shape shape;
        char text[32];

        memcpy(&shape, at, parameter->shape ? sizeof(shape) : sizeof(uint32_t));
        if (parameter->shape) {
            snprintf(text, sizeof(text), "%u/%u", shape.entries, shape.ways);
        } else {
            snprintf(text, sizeof(text), "%u", shape.entries);
        }
        fprintf(out, "%-20s = %-8s # %-9s  %s\n", parameter->name, text,
                origin(cost, parameter, measured), parameter->help);
    }
}
