/* SPDX-License-Identifier: MIT */
/* Address spaces for people and for programs. */
#include <inttypes.h>

#include "vmm/cli/mmu/space.h"

static const char *const origins[] = {
    [MMU_SPACE_LOADED] = "loaded",
    [MMU_SPACE_SEEN] = "seen",
    [MMU_SPACE_NAMED] = "named",
    [MMU_SPACE_FOUND] = "found",
};

static const char *const shifts[31] = {
    [12] = "4K", [21] = "2M", [22] = "4M", [30] = "1G"
};

static void rights(const struct mmu_range *range, char text[8])
{
    text[0] = range->perms & MMU_PERM_U ? 'u' : 'k';
    text[1] = ' ';
    text[2] = 'r';
    text[3] = range->perms & MMU_PERM_W ? 'w' : '-';
    text[4] = range->perms & MMU_PERM_X ? 'x' : '-';
    text[5] = range->global ? 'g' : '-';
    text[6] = '\0';
}

static void print_range(FILE *out, const struct mmu_range *range)
{
    char size[32], letters[8];

    rights(range, letters);
    fprintf(out,
            "  %016" PRIx64 "-%016" PRIx64 " %8s %3s %s %8" PRIu64 " %8" PRIu64
            " %8" PRIu64 "  ",
            range->gva, range->gva + range->length - 1,
            size_format(range->length, size, sizeof(size)), shifts[range->shift], letters,
            range->pages, range->accessed, range->dirty);
    fprintf(out, range->linear ? "%" PRIx64 : "scattered", range->gpa);
    if ((range->perms & (MMU_PERM_W | MMU_PERM_X)) == (MMU_PERM_W | MMU_PERM_X)) {
        fputs("  W+X", out);
    }
    fputc('\n', out);
}

static const char *origin_text(const struct mmu_space *space)
{
    static const char *const texts[] = {
        [MMU_SPACE_LOADED] = "loaded on vCPU",
        [MMU_SPACE_SEEN] = "seen earlier on vCPU",
        [MMU_SPACE_NAMED] = "as asked for, with the registers of vCPU",
        [MMU_SPACE_FOUND] =
            "found in memory (maybe of an ended process); registers of vCPU",
    };

    return texts[space->origin];
}

static void print_check(FILE *out, const struct mmu_space *space)
{
    if (space->checked == 0 && space->holes_checked == 0) {
        return;
    }
    fprintf(out,
            "  KVM_TRANSLATE: %" PRIu64 " pages and %" PRIu64 " holes asked for, %" PRIu64
            " not as the walker says\n",
            space->checked, space->holes_checked, space->differ);
    for (unsigned i = 0; i < ARRAY_SIZE(space->difference) && i < space->differ; i++) {
        const struct mmu_difference *d = &space->difference[i];

        fprintf(out, "    %016" PRIx64 ": walker %" PRIx64 ", KVM %" PRIx64 "\n", d->gva,
                d->walker, d->kvm);
    }
}

void mmu_census_print(FILE *out, const struct shadow_census *census)
{
    uint32_t pages = 0;
    char bytes[32];

    for (unsigned level = 1; level <= 5; level++) {
        pages += census->pages[level];
    }
    fprintf(out, "%u pages, %s (", pages,
            size_format(census->bytes, bytes, sizeof(bytes)));
    for (unsigned level = 5, first = 1; level > 0; level--) {
        if (census->pages[level] > 0) {
            fprintf(out, "%slevel %u: %u", first ? "" : ", ", level,
                    census->pages[level]);
            first = 0;
        }
    }
    fprintf(out,
            "); leaves 4K %" PRIu64 ", 2M %" PRIu64 ", 1G %" PRIu64 " (%" PRIu64
            " parts of larger pages, %" PRIu64 " writable); %" PRIu64 " hidden faults\n",
            census->leaves[1], census->leaves[2], census->leaves[3], census->splintered,
            census->writable, census->faults);
}

void mmu_space_print(FILE *out, const struct mmu_space *space, bool ranges)
{
    const struct space_stats *stats = &space->stats;
    uint64_t tables = 0;
    char bytes[32];

    for (unsigned level = 1; level <= 5; level++) {
        tables += stats->tables[level];
    }
    fprintf(out, "\nCR3 0x%" PRIx64 ", %s %u\n", space->mode.cr3, origin_text(space),
            space->vcpu);
    if (space->mode.format == MMU_FORMAT_NONE) {
        fputs("  paging is off\n", out);
        return;
    }
    if (ranges && space->ranges > 0) {
        fprintf(out, "  %-33s %8s %3s %-6s %8s %8s %8s  %s\n", "addresses", "size", "of",
                "rights", "pages", "accessed", "dirty", "GPA");
        for (size_t i = 0; i < space->ranges; i++) {
            print_range(out, &space->range[i]);
        }
    }
    fprintf(out,
            "  %" PRIu64 " pages (4K %" PRIu64 ", 2M %" PRIu64 ", 4M %" PRIu64
            ", 1G %" PRIu64 "), %s in %zu ranges: %" PRIu64 " user, %" PRIu64
            " kernel, %" PRIu64 " W+X, %" PRIu64 " accessed, %" PRIu64 " dirty\n",
            stats->pages, stats->by_shift[12], stats->by_shift[21], stats->by_shift[22],
            stats->by_shift[30], size_format(stats->bytes, bytes, sizeof(bytes)),
            space->ranges, space->user, space->kernel, space->write_execute,
            space->accessed, space->dirty);
    fprintf(out, "  tables: %" PRIu64 ", %s (", tables,
            size_format(tables * MMU_PAGE_SIZE, bytes, sizeof(bytes)));
    for (unsigned level = 5, first = 1; level > 0; level--) {
        if (stats->tables[level] > 0) {
            fprintf(out, "%slevel %u: %" PRIu64, first ? "" : ", ", level,
                    stats->tables[level]);
            first = 0;
        }
    }
    fputs(")\n", out);
    if (stats->reserved + stats->unbacked > 0) {
        fprintf(out,
                "  broken: %" PRIu64 " entries with reserved bits, %" PRIu64
                " pointers to where no memory is\n",
                stats->reserved, stats->unbacked);
    }
    if (stats->truncated) {
        fprintf(out, "  not complete: --limit %" PRIu64 " entries were read\n",
                stats->entries);
    }
    print_check(out, space);
    if (space->costed) {
        fputs("  shadow: ", out);
        mmu_census_print(out, &space->census);
    }
}

/* ---- JSON ----------------------------------------------------------------------------------- */

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *hex(uint64_t value)
{
    return json_sprintf("0x%" PRIx64, value);
}

json_t *mmu_census_json(const struct shadow_census *census)
{
    json_t *levels = json_object();
    char name[2] = "0";

    for (unsigned level = 1; level <= 5; level++) {
        name[0] = (char)('0' + level);
        json_object_set_new(levels, name, number(census->pages[level]));
    }
    return json_pack("{s:o, s:o, s:{s:o, s:o, s:o}, s:o, s:o, s:o, s:o, s:o}", "pages",
                     levels, "bytes", number(census->bytes), "leaves", "4K",
                     number(census->leaves[1]), "2M", number(census->leaves[2]), "1G",
                     number(census->leaves[3]), "splintered", number(census->splintered),
                     "writable", number(census->writable), "hidden_faults",
                     number(census->faults), "emulated", number(census->emulated),
                     "refused", number(census->refused));
}

static json_t *range_json(const struct mmu_range *range)
{
    return json_pack(
        "{s:o, s:o, s:s, s:b, s:b, s:b, s:b, s:i, s:o, s:o, s:o, s:o}", "address",
        hex(range->gva), "length", number(range->length), "page_size",
        shifts[range->shift], "user", (range->perms & MMU_PERM_U) != 0, "write",
        (range->perms & MMU_PERM_W) != 0, "execute", (range->perms & MMU_PERM_X) != 0,
        "global", range->global, "cache", range->cache, "pages", number(range->pages),
        "accessed", number(range->accessed), "dirty", number(range->dirty), "gpa",
        range->linear ? hex(range->gpa) : json_null());
}

static json_t *check_json(const struct mmu_space *space)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < ARRAY_SIZE(space->difference) && i < space->differ; i++) {
        const struct mmu_difference *d = &space->difference[i];

        json_array_append_new(list,
                              json_pack("{s:o, s:o, s:o}", "address", hex(d->gva),
                                        "walker", hex(d->walker), "kvm", hex(d->kvm)));
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "pages", number(space->checked), "holes",
                     number(space->holes_checked), "different", number(space->differ),
                     "differences", list);
}

json_t *mmu_space_json(const struct mmu_space *space, bool ranges)
{
    const struct space_stats *stats = &space->stats;
    json_t *json = json_object(), *list = json_array(), *tables = json_object();
    char name[2] = "0";

    for (unsigned level = 1; level <= 5; level++) {
        name[0] = (char)('0' + level);
        json_object_set_new(tables, name, number(stats->tables[level]));
    }
    for (size_t i = 0; ranges && i < space->ranges; i++) {
        json_array_append_new(list, range_json(&space->range[i]));
    }
    json_object_set_new(json, "cr3", hex(space->mode.cr3));
    json_object_set_new(json, "origin", json_string(origins[space->origin]));
    json_object_set_new(json, "vcpu", json_integer(space->vcpu));
    json_object_set_new(json, "levels", json_integer(space->mode.levels));
    json_object_set_new(
        json, "pages",
        json_pack("{s:o, s:o, s:o, s:o, s:o}", "all", number(stats->pages), "4K",
                  number(stats->by_shift[12]), "2M", number(stats->by_shift[21]), "4M",
                  number(stats->by_shift[22]), "1G", number(stats->by_shift[30])));
    json_object_set_new(json, "bytes", number(stats->bytes));
    json_object_set_new(json, "user", number(space->user));
    json_object_set_new(json, "kernel", number(space->kernel));
    json_object_set_new(json, "write_execute", number(space->write_execute));
    json_object_set_new(json, "accessed", number(space->accessed));
    json_object_set_new(json, "dirty", number(space->dirty));
    json_object_set_new(json, "tables", tables);
    json_object_set_new(json, "reserved", number(stats->reserved));
    json_object_set_new(json, "unbacked", number(stats->unbacked));
    json_object_set_new(json, "complete", json_boolean(!stats->truncated));
    json_object_set_new(json, "kvm_translate", check_json(space));
    json_object_set_new(json, "shadow",
                        space->costed ? mmu_census_json(&space->census) : json_null());
    json_object_set_new(json, "ranges", list);
    return json;
}
