/* SPDX-License-Identifier: MIT */
/*
 * Hostile traces: lackey's output, and behind a line "%%" strace's. Every event that comes out
 * is one the simulation accepts, all kinds of paging agree on the guest that they make, and the
 * shadow tables pass their audit.
 */
#include <errno.h>
#include <stdlib.h>

#include "fuzz.h"
#include "shadowpt-sim/trace/trace.h"

enum { BATCH = 512, MOST_EVENTS = 2000, MOST_PAGES = 2048 };

static const enum sim_kind kinds[] = { SIM_NATIVE, SIM_NESTED, SIM_SHADOW_UNSYNC };

/* What a source may hand out; ranges too large to be simulated here are left out. */
static bool event_sound(struct sim_event *event)
{
    FUZZ_EXPECT(event->kind <= SIM_MARK && event->process < SIM_PROCESSES);
    FUZZ_EXPECT(event->address < (uint64_t)1 << 47);
    if (event->kind == SIM_MAP || event->kind == SIM_UNMAP ||
        event->kind == SIM_PROTECT) {
        FUZZ_EXPECT(event->pages != 0 && event->address % MMU_PAGE_SIZE == 0);
        FUZZ_EXPECT(event->address + ((uint64_t)event->pages << MMU_PAGE_SHIFT) <=
                    (uint64_t)1 << 47);
    }
    return event->pages <= MOST_PAGES;
}

static void play(struct sim_source *source, struct sim_machine **machine)
{
    struct sim_event *events = calloc(BATCH, sizeof(*events));
    struct umbra_error error;
    unsigned played = 0;
    int count;

    FUZZ_EXPECT(events != NULL);
    while (played < MOST_EVENTS &&
           (count = source->next(source, events, BATCH, &error)) > 0) {
        for (int i = 0; i < count; i++) {
            if (!event_sound(&events[i])) {
                events[i] = (struct sim_event){ .kind = SIM_MARK };
            }
        }
        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
            int err = sim_run(machine[i], events, (unsigned)count, &error);

            FUZZ_EXPECT(err == 0 || err == -ENOSPC);
            if (err != 0) {
                played = MOST_EVENTS; /* the guest's memory is used up */
            }
        }
        played += (unsigned)count;
    }
    for (size_t i = 0; i < ARRAY_SIZE(kinds) && played < 2 * MOST_EVENTS; i++) {
        FUZZ_EXPECT(sim_audit(machine[i], &error) == 0);
        FUZZ_EXPECT(sim_digest(machine[i]) == sim_digest(machine[0]));
    }
    free(events);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sim_config config = {
        .cost = cost_default, .ram = GIB, .auto_map = true, .shadow_pages = 512
    };
    struct sim_machine *machine[ARRAY_SIZE(kinds)];
    const uint8_t *mark = size > 0 ? memmem(data, size, "%%\n", 3) : NULL;
    size_t first = mark != NULL ? (size_t)(mark - data) : size;
    FILE *in, *calls = NULL;
    struct sim_source *source;
    struct umbra_error error;

    if (first == 0) {
        return 0;
    }
    in = fmemopen((void *)(uintptr_t)data, first, "r");
    if (mark != NULL && size - first > 3) {
        calls = fmemopen((void *)(uintptr_t)(mark + 3), size - first - 3, "r");
    }
    FUZZ_EXPECT(in != NULL);
    if (trace_open_streams(in, calls, &source, &error) != 0) {
        abort();
    }
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        FUZZ_EXPECT(sim_create(&config, kinds[i], &machine[i], &error) == 0);
    }
    play(source, machine);
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        sim_destroy(machine[i]);
    }
    source->destroy(source);
    if (calls != NULL) {
        fclose(calls);
    }
    return 0;
}
