/* SPDX-License-Identifier: MIT */
/* Planned faults: which opportunities are hit, and the record of what happened. */
#include "devices/faults.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

enum { FAULT_EVENTS_KEPT = 4096, FAULT_DELAY_DEFAULT_NS = 1000000 };

struct fault_rule {
    struct umbra_fault fault; /* device: the copy below */
    char device[32];
    enum fault_point point;
    uint32_t id;
    uint64_t key;  /* the seed, told apart by device and kind */
    uint64_t seen; /* opportunities */
    uint64_t hit;
};

struct faults_state {
    struct faults_options options;
    uint64_t created_ns;
    pthread_mutex_t lock; /* a leaf: nothing is called with it */
    struct fault_rule rules[FAULT_RULES_MAX];
    unsigned count;
    uint32_t next_id;
    uint64_t fired; /* all that happened; the last ones are kept */
    struct umbra_fault_event *events;
};

static const char *const fault_names[FAULT_KIND_COUNT] = {
    [UMBRA_FAULT_IO_ERROR] = "io-error",
    [UMBRA_FAULT_SHORT] = "short",
    [UMBRA_FAULT_DELAY] = "delay",
    [UMBRA_FAULT_DROP] = "drop",
    [UMBRA_FAULT_DUPLICATE] = "duplicate",
    [UMBRA_FAULT_CORRUPT] = "corrupt",
    [UMBRA_FAULT_LINK_FLAP] = "link-flap",
    [UMBRA_FAULT_IRQ_LOST] = "irq-lost",
    [UMBRA_FAULT_IRQ_SPURIOUS] = "irq-spurious",
    [UMBRA_FAULT_MEMORY_GONE] = "memory-gone",
    [UMBRA_FAULT_CLOCK_JUMP] = "clock-jump",
};

const char *umbra_fault_name(enum umbra_fault_kind kind)
{
    return (unsigned)kind < FAULT_KIND_COUNT ? fault_names[kind] : "?";
}

const char *faults_names(unsigned mask, char *text, size_t size)
{
    size_t used = 0;

    text[0] = '\0';
    for (unsigned i = 0; i < FAULT_KIND_COUNT; i++) {
        if ((mask & FAULT_BIT(i)) != 0 && used < size) {
            used += (size_t)snprintf(text + used, size - used, "%s%s",
                                     used > 0 ? ", " : "", fault_names[i]);
        }
    }
    return text;
}

int faults_create(const struct faults_options *options, struct faults **out)
{
    struct faults *faults = calloc(1, sizeof(*faults));

    if (faults == NULL) {
        return -ENOMEM;
    }
    faults->state = calloc(1, sizeof(*faults->state));
    if (faults->state == NULL) {
        free(faults);
        return -ENOMEM;
    }
    faults->state->options = *options;
    faults->state->created_ns = clock_ns();
    pthread_mutex_init(&faults->state->lock, NULL);
    *out = faults;
    return 0;
}

void faults_destroy(struct faults *faults)
{
    if (faults != NULL) {
        pthread_mutex_destroy(&faults->state->lock);
        free(faults->state->events);
        free(faults->state);
        free(faults);
    }
}

/* ---- Chance --------------------------------------------------------------------------- */

/* A good hash of 64 bits (the finaliser of MurmurHash3). */
static uint64_t fault_mix(uint64_t z)
{
    z = (z ^ z >> 33) * UINT64_C(0xff51afd7ed558ccd);
    z = (z ^ z >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    return z ^ z >> 33;
}

/* Two rules of one seed do not go in step. */
static uint64_t fault_key(const struct umbra_fault *fault)
{
    uint64_t key = fault_mix(fault->seed + UINT64_C(0x9e3779b97f4a7c15)) ^ fault->kind;

    for (const char *c = fault->device; *c != '\0'; c++) {
        key = fault_mix(key + (uint8_t)*c);
    }
    return key;
}

/* The @which'th number of the @n'th opportunity. */
static uint64_t fault_random(const struct fault_rule *rule, uint64_t n, unsigned which)
{
    return fault_mix(fault_mix(rule->key + n * UINT64_C(0x9e3779b97f4a7c15)) + which);
}

/* ---- Rules ---------------------------------------------------------------------------- */

int faults_add(struct faults *faults, const struct umbra_fault *fault,
               enum fault_point point, uint32_t *id)
{
    struct faults_state *state = faults->state;
    struct fault_rule *rule;
    int ret = 0;

    pthread_mutex_lock(&state->lock);
    if (state->events == NULL) {
        state->events = calloc(FAULT_EVENTS_KEPT, sizeof(*state->events));
    }
    if (state->count == FAULT_RULES_MAX || state->events == NULL) {
        ret = state->events == NULL ? -ENOMEM : -ENOSPC;
    } else {
        rule = &state->rules[state->count++];
        *rule = (struct fault_rule){ .fault = *fault, .point = point };
        snprintf(rule->device, sizeof(rule->device), "%s", fault->device);
        rule->key = fault_key(fault);
        rule->fault.device = NULL; /* rules move */
        rule->id = ++state->next_id;
        if (rule->fault.delay_ns == 0) {
            rule->fault.delay_ns = FAULT_DELAY_DEFAULT_NS;
        }
        if (id != NULL) {
            *id = rule->id;
        }
        atomic_fetch_add(&faults->planned[point], 1);
    }
    pthread_mutex_unlock(&state->lock);
    return ret;
}

int faults_remove(struct faults *faults, uint32_t id)
{
    struct faults_state *state = faults->state;
    unsigned at = 0;

    pthread_mutex_lock(&state->lock);
    while (at < state->count && state->rules[at].id != id) {
        at++;
    }
    if (at < state->count) {
        atomic_fetch_sub(&faults->planned[state->rules[at].point], 1);
        state->count--;
        memmove(&state->rules[at], &state->rules[at + 1],
                (state->count - at) * sizeof(state->rules[0]));
        at = UINT32_MAX;
    }
    pthread_mutex_unlock(&state->lock);
    return at == UINT32_MAX ? 0 : -ENOENT;
}

void faults_restart(struct faults *faults)
{
    struct faults_state *state = faults->state;

    pthread_mutex_lock(&state->lock);
    for (unsigned i = 0; i < state->count; i++) {
        state->rules[i].seen = 0;
        state->rules[i].hit = 0;
    }
    state->fired = 0;
    pthread_mutex_unlock(&state->lock);
}

/* ---- Decisions ------------------------------------------------------------------------ */

static bool rule_looks(const struct fault_rule *rule, const char *device,
                       enum fault_point point, enum umbra_fault_direction direction)
{
    return rule->point == point &&
           (rule->fault.direction == UMBRA_FAULT_ANY || direction == UMBRA_FAULT_ANY ||
            rule->fault.direction == direction) &&
           strcmp(rule->device, device) == 0;
}

static bool rule_decides(struct fault_rule *rule)
{
    const struct umbra_fault *fault = &rule->fault;
    uint64_t n = ++rule->seen;

    if (n <= fault->skip || (fault->count != 0 && rule->hit == fault->count) ||
        (fault->one_in > 1 && fault_random(rule, n, 0) % fault->one_in != 0)) {
        return false;
    }
    rule->hit++;
    return true;
}

/* What the hit means; returns the number that the record shows. */
static uint64_t rule_apply(const struct fault_rule *rule, uint64_t size,
                           struct fault_hits *hits)
{
    const struct umbra_fault *fault = &rule->fault;
    uint64_t drawn = fault_random(rule, rule->seen, 1);

    hits->kinds |= FAULT_BIT(fault->kind);
    switch (fault->kind) {
    case UMBRA_FAULT_SHORT:
        hits->bytes = fault->bytes != 0 ? fault->bytes : size == 0 ? 0 : drawn % size;
        return hits->bytes;
    case UMBRA_FAULT_CORRUPT:
        hits->bit = size == 0 ? 0 : drawn % (size * 8);
        return hits->bit;
    case UMBRA_FAULT_DELAY:
        hits->delay_ns = fault->delay_ns;
        return fault->delay_ns;
    case UMBRA_FAULT_LINK_FLAP:
        hits->flap_ns = fault->delay_ns;
        return fault->delay_ns;
    case UMBRA_FAULT_MEMORY_GONE:
        return fault->address;
    case UMBRA_FAULT_CLOCK_JUMP:
        return (uint64_t)fault->jump_ns;
    default:
        return 0;
    }
}

static void state_record(struct faults_state *state, const struct fault_rule *rule,
                         uint64_t value, struct umbra_fault_event *event)
{
    *event = (struct umbra_fault_event){ .size = sizeof(*event),
                                         .id = rule->id,
                                         .kind = rule->fault.kind,
                                         .opportunity = rule->seen,
                                         .value = value,
                                         .time_ns = clock_ns() - state->created_ns };
    memcpy(event->device, rule->device, sizeof(event->device));
    state->events[state->fired++ % FAULT_EVENTS_KEPT] = *event;
}

bool faults_decide(struct faults *faults, const char *device, enum fault_point point,
                   enum umbra_fault_direction direction, uint64_t size,
                   struct fault_hits *hits)
{
    struct faults_state *state = faults->state;
    const struct faults_options *options = &state->options;
    struct umbra_fault_event events[FAULT_RULES_MAX];
    struct fault_action actions[FAULT_RULES_MAX];
    unsigned fired = 0, acting = 0;

    pthread_mutex_lock(&state->lock);
    for (unsigned i = 0; i < state->count; i++) {
        struct fault_rule *rule = &state->rules[i];
        const struct umbra_fault *fault = &rule->fault;

        if (!rule_looks(rule, device, point, direction) || !rule_decides(rule)) {
            continue;
        }
        state_record(state, rule, rule_apply(rule, size, hits), &events[fired++]);
        if ((FAULT_BIT(fault->kind) & FAULTS_OF_MACHINE) != 0) {
            actions[acting++] = (struct fault_action){ .kind = fault->kind,
                                                       .address = fault->address,
                                                       .bytes = fault->bytes,
                                                       .clocks = fault->clocks,
                                                       .jump_ns = fault->jump_ns };
        }
    }
    pthread_mutex_unlock(&state->lock);
    for (unsigned i = 0; i < fired && options->fired != NULL; i++) {
        options->fired(options->context, &events[i]);
    }
    for (unsigned i = 0; i < acting && options->act != NULL; i++) {
        options->act(options->context, &actions[i]);
    }
    return (hits->kinds & ~FAULTS_OF_MACHINE) != 0;
}

/* ---- The record ----------------------------------------------------------------------- */

uint64_t faults_count(struct faults *faults)
{
    uint64_t count;

    pthread_mutex_lock(&faults->state->lock);
    count = faults->state->fired;
    pthread_mutex_unlock(&faults->state->lock);
    return count;
}

int faults_event_at(struct faults *faults, uint64_t index,
                    struct umbra_fault_event *event)
{
    struct faults_state *state = faults->state;
    int ret = -ENOENT;

    pthread_mutex_lock(&state->lock);
    if (index < state->fired && state->fired - index <= FAULT_EVENTS_KEPT) {
        *event = state->events[index % FAULT_EVENTS_KEPT];
        ret = 0;
    }
    pthread_mutex_unlock(&state->lock);
    return ret;
}

void faults_stats(struct faults *faults, void *json)
{
    struct faults_state *state = faults->state;
    json_t *rules = json_array(), *fired = json_array();
    uint64_t first;

    pthread_mutex_lock(&state->lock);
    for (unsigned i = 0; i < state->count; i++) {
        const struct fault_rule *rule = &state->rules[i];

        json_array_append_new(
            rules, json_pack("{s:I, s:s, s:s, s:I, s:I}", "id", (json_int_t)rule->id,
                             "fault", umbra_fault_name(rule->fault.kind), "device",
                             rule->device, "opportunities", (json_int_t)rule->seen,
                             "happened", (json_int_t)rule->hit));
    }
    first = state->fired > FAULT_EVENTS_KEPT ? state->fired - FAULT_EVENTS_KEPT : 0;
    for (uint64_t i = first; i < state->fired; i++) {
        const struct umbra_fault_event *event = &state->events[i % FAULT_EVENTS_KEPT];

        json_array_append_new(
            fired,
            json_pack("{s:I, s:s, s:s, s:I, s:I, s:I}", "id", (json_int_t)event->id,
                      "fault", umbra_fault_name(event->kind), "device", event->device,
                      "opportunity", (json_int_t)event->opportunity, "value",
                      (json_int_t)event->value, "time_ns", (json_int_t)event->time_ns));
    }
    if (state->count > 0 || state->fired > 0) {
        json_object_set_new(json, "faults",
                            json_pack("{s:o, s:I, s:o}", "rules", rules, "happened",
                                      (json_int_t)state->fired, "events", fired));
    } else {
        json_decref(rules);
        json_decref(fired);
    }
    pthread_mutex_unlock(&state->lock);
}
