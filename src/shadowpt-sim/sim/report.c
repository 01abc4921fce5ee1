/* SPDX-License-Identifier: MIT */
/* Results side by side. */
#include "shadowpt-sim/sim/report.h"

#include <inttypes.h>

static double ratio(uint64_t part, uint64_t whole)
{
    return whole != 0 ? (double)part / (double)whole : 0;
}

/* ---- What there is to say ---------------------------------------------------------------- */

#define VALUES_MAX 64

struct value {
    const char *name;  /* in JSON and CSV */
    const char *label; /* in the table */
    double value;
    unsigned digits; /* behind the point */
};

struct values {
    struct value value[VALUES_MAX];
    unsigned count;
};

static void add(struct values *values, const char *name, const char *label, double value,
                unsigned digits)
{
    if (values->count < VALUES_MAX) {
        values->value[values->count++] = (struct value){ name, label, value, digits };
    }
}

static void add_count(struct values *values, const char *name, const char *label,
                      uint64_t count)
{
    add(values, name, label, (double)count, 0);
}

static void collect_caches(const struct sim_result *result, struct values *values)
{
    const struct sim_counters *count = &result->count;
    const struct tlb_stats *tlb = &result->tlb;

    add_count(values, "accesses", "accesses", count->accesses);
    add(values, "tlb_l1_hit_rate", "TLB L1 hits, %",
        100 * ratio(tlb->l1_hits, count->accesses), 2);
    add(values, "tlb_l2_hit_rate", "TLB L2 hits of L1 misses, %",
        100 * ratio(tlb->l2_hits, tlb->l2_hits + tlb->misses), 2);
    add_count(values, "tlb_misses", "TLB misses", tlb->misses);
    add_count(values, "tlb_flushes", "TLB flushes", tlb->flushes);
    add(values, "pwc_hit_rate", "walks that the PWC shortens, %",
        100 * ratio(tlb->pwc_hits, tlb->pwc_hits + tlb->pwc_misses), 2);
    add(values, "nested_tlb_hit_rate", "nested TLB hits, %",
        100 * ratio(tlb->nested_hits, tlb->nested_hits + tlb->nested_misses), 2);
    add_count(values, "walks", "walks", count->walks);
    add(values, "references_full", "references a walk, no caches",
        ratio(count->references + count->skipped, count->walks), 2);
    add(values, "references", "references a walk, made",
        ratio(count->references, count->walks), 2);
}

static void collect_guest(const struct sim_result *result, struct values *values)
{
    const struct sim_counters *count = &result->count;

    add_count(values, "guest_faults", "page faults of the guest", count->guest_faults);
    add_count(values, "segfaults", "... that it refused", count->segfaults);
    add_count(values, "table_stores", "stores to its tables", count->table_stores);
    add_count(values, "cr3_loads", "its CR3 loads", count->cr3_loads);
    add_count(values, "invlpgs", "its INVLPGs", count->invlpgs);
    add_count(values, "refused", "events without effect", count->refused);
}

static void collect_exits(const struct sim_result *result, struct values *values)
{
    static const struct {
        enum shadow_event event;
        const char *name, *label;
    } events[] = {
        { SHADOW_EXIT_TRUE_FAULT, "exit_true_fault", "  true fault" },
        { SHADOW_EXIT_HIDDEN_FILL, "exit_hidden_fill", "  hidden fault" },
        { SHADOW_EXIT_DIRTY, "exit_dirty", "  A/D emulation" },
        { SHADOW_EXIT_UNSYNC, "exit_unsync", "  table goes out of sync" },
        { SHADOW_EXIT_TABLE_WRITE, "exit_table_write", "  table write" },
        { SHADOW_EXIT_EMULATE, "exit_emulate", "  other emulation" },
        { SHADOW_EXIT_CR3, "exit_cr3", "  CR3" },
        { SHADOW_EXIT_INVLPG, "exit_invlpg", "  INVLPG" },
        { SHADOW_REMOTE_FLUSH, "remote_flushes", "flushes by the hypervisor" },
        { SHADOW_PAGE_NEW, "shadow_pages_made", "shadow pages made" },
        { SHADOW_PAGE_ZAP, "shadow_pages_dropped", "shadow pages dropped" },
        { SHADOW_PAGE_SYNC, "tables_synchronised", "tables synchronised" },
        { SHADOW_TABLE_NESTED, "tables_nested", "tables made nested" },
        { SHADOW_TABLE_BACK, "tables_back", "... and shadowed again" },
    };

    add_count(values, "vm_exits", "VM exits", result->exits);
    add_count(values, "exit_nested", "  nested violation",
              result->count.nested_violations + result->shadow.count[SHADOW_EXIT_NESTED]);
    for (unsigned i = 0; i < ARRAY_SIZE(events); i++) {
        add_count(values, events[i].name, events[i].label,
                  result->shadow.count[events[i].event]);
    }
}

static void collect(const struct sim_result *result, struct values *values)
{
    const struct sim_counters *count = &result->count;

    values->count = 0;
    collect_caches(result, values);
    collect_guest(result, values);
    collect_exits(result, values);
    add_count(values, "guest_table_bytes", "guest tables, KiB at most",
              result->guest_tables);
    add_count(values, "host_table_bytes", "shadow or nested tables, KiB",
              result->host_tables);
    add_count(values, "cycles", "modelled cycles", result->cycles);
    add(values, "cycles_per_access", "... an access",
        ratio(result->cycles, count->accesses), 2);
    add(values, "cycles_walks_percent", "... in walks, %",
        100 * ratio(count->cycles_walk, result->cycles), 1);
    add(values, "cycles_exits_percent", "... in VM exits, %",
        100 * ratio(count->cycles_exit, result->cycles), 1);
    add(values, "cycles_guest_percent", "... in the guest's kernel, %",
        100 * ratio(count->cycles_guest, result->cycles), 1);
}

/* ---- For people ---------------------------------------------------------------------------- */

static void print_row(FILE *out, const struct values *values, unsigned count,
                      unsigned row)
{
    const struct value *first = &values[0].value[row];
    bool kib = strstr(first->name, "_bytes") != NULL;

    fprintf(out, "%-32s", first->label);
    for (unsigned i = 0; i < count; i++) {
        double value = values[i].value[row].value / (kib ? 1024 : 1);

        if (value == 0) {
            fprintf(out, " %14s", "-");
        } else {
            fprintf(out, " %14.*f", (int)first->digits, value);
        }
    }
    fputc('\n', out);
}

static void print_histogram(FILE *out, const struct sim_result *results, unsigned count)
{
    fprintf(out, "\nwalks by references made, %%\n");
    for (unsigned n = 0; n <= SIM_REFERENCES; n++) {
        bool any = false;

        for (unsigned i = 0; i < count; i++) {
            any |= results[i].count.histogram[n] != 0;
        }
        if (!any) {
            continue;
        }
        fprintf(out, "%30u  ", n);
        for (unsigned i = 0; i < count; i++) {
            if (results[i].count.histogram[n] != 0) {
                fprintf(out, " %14.2f",
                        100 *
                            ratio(results[i].count.histogram[n], results[i].count.walks));
            } else {
                fprintf(out, " %14s", "-");
            }
        }
        fputc('\n', out);
    }
}

void report_table(FILE *out, const struct sim_result *results, unsigned count)
{
    struct values values[SIM_KINDS];

    fprintf(out, "%-32s", "");
    for (unsigned i = 0; i < count; i++) {
        collect(&results[i], &values[i]);
        fprintf(out, " %14s", sim_kind_name(results[i].kind));
    }
    fputc('\n', out);
    for (unsigned row = 0; row < values[0].count; row++) {
        print_row(out, values, count, row);
    }
    print_histogram(out, results, count);
}

/* ---- For programs -------------------------------------------------------------------------- */

void report_json_begin(FILE *out, const struct sim_result *results, unsigned count)
{
    struct values values;

    fputs("{\"configurations\": [", out);
    for (unsigned i = 0; i < count; i++) {
        collect(&results[i], &values);
        fprintf(out, "%s\n  {\"name\": \"%s\"", i > 0 ? "," : "",
                sim_kind_name(results[i].kind));
        for (unsigned row = 0; row < values.count; row++) {
            fprintf(out, ",\n   \"%s\": %.*f", values.value[row].name,
                    values.value[row].digits > 0 ? 4 : 0, values.value[row].value);
        }
        fputs(",\n   \"walks_by_references\": {", out);
        for (unsigned n = 0, first = 1; n <= SIM_REFERENCES; n++) {
            if (results[i].count.histogram[n] != 0) {
                fprintf(out, "%s\"%u\": %" PRIu64, first ? "" : ", ", n,
                        results[i].count.histogram[n]);
                first = 0;
            }
        }
        fputs("}}", out);
    }
    fputs("\n]", out);
}

void report_json(FILE *out, const struct sim_result *results, unsigned count)
{
    report_json_begin(out, results, count);
    fputs("}\n", out);
}

void report_csv(FILE *out, const struct sim_result *results, unsigned count)
{
    struct values values;

    for (unsigned i = 0; i < count; i++) {
        collect(&results[i], &values);
        if (i == 0) {
            fputs("configuration", out);
            for (unsigned row = 0; row < values.count; row++) {
                fprintf(out, ",%s", values.value[row].name);
            }
            fputc('\n', out);
        }
        fputs(sim_kind_name(results[i].kind), out);
        for (unsigned row = 0; row < values.count; row++) {
            fprintf(out, ",%.*f", values.value[row].digits > 0 ? 4 : 0,
                    values.value[row].value);
        }
        fputc('\n', out);
    }
}
