/* SPDX-License-Identifier: MIT */
/*
 * Planned faults. A device asks at each opportunity (a request, a register access, an
 * interrupt) whether something is to go wrong; the answer follows from the rules' seeds and
 * the number of the opportunity, never from time or threads. Devices find the plan in their
 * env; without rules the question costs one load.
 *
 * Threads: anything from any thread; device locks may be held.
 */
#ifndef DEVICES_FAULTS_H
#define DEVICES_FAULTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <umbra/umbra.h>

enum { FAULT_KIND_COUNT = UMBRA_FAULT_CLOCK_JUMP + 1, FAULT_RULES_MAX = 64 };

#define FAULT_BIT(kind) (1u << (kind))
/* Faults of the machine, for which any device can be the trigger. */
#define FAULTS_OF_MACHINE                                                                \
    (FAULT_BIT(UMBRA_FAULT_MEMORY_GONE) | FAULT_BIT(UMBRA_FAULT_CLOCK_JUMP))
#define FAULTS_OF_IRQ                                                                    \
    (FAULT_BIT(UMBRA_FAULT_IRQ_LOST) | FAULT_BIT(UMBRA_FAULT_IRQ_SPURIOUS))

enum fault_point {
    FAULT_ACCESS,    /* of a register */
    FAULT_REQUEST,   /* of a virtio device */
    FAULT_INTERRUPT, /* a line rises, a message would be sent */
    FAULT_CALM,      /* a line has fallen: the place for a spurious interrupt */
    FAULT_POINTS,
};

/* What goes wrong at one opportunity: several rules may agree on it. */
struct fault_hits {
    unsigned kinds; /* FAULT_BITs */
    uint64_t delay_ns;
    uint64_t flap_ns;
    uint64_t bytes; /* SHORT: how many move, less than the size given */
    uint64_t bit;   /* CORRUPT: which one of the size given */
};

/* What the faults of the machine do to it. */
struct fault_action {
    enum umbra_fault_kind kind;
    uint64_t address, bytes;
    uint32_t clocks;
    int64_t jump_ns;
};

struct faults_options {
    /* Carry a fault of the machine out, soon; device locks may be held. */
    void (*act)(void *context, const struct fault_action *action);
    /* A fault happens. */
    void (*fired)(void *context, const struct umbra_fault_event *event);
    void *context;
};

struct faults {
    atomic_uint planned[FAULT_POINTS]; /* how many rules look at it */
    struct faults_state *state;
};

int faults_create(const struct faults_options *options, struct faults **faults);
void faults_destroy(struct faults *faults);

/* Add @fault (device's name copied), for opportunities at @point. 0 or -errno. */
int faults_add(struct faults *faults, const struct umbra_fault *fault,
               enum fault_point point, uint32_t *id);
int faults_remove(struct faults *faults, uint32_t id);
/* Every rule starts over; what happened is forgotten. */
void faults_restart(struct faults *faults);

/* How many happened. */
uint64_t faults_count(struct faults *faults);
/* The @index'th that happened; -ENOENT. */
int faults_event_at(struct faults *faults, uint64_t index,
                    struct umbra_fault_event *event);
/* Add "faults" to a JSON object (jansson json_t) if there are rules. */
void faults_stats(struct faults *faults, void *json);

/* The slow part of faults_draw(). */
bool faults_decide(struct faults *faults, const char *device, enum fault_point point,
                   enum umbra_fault_direction direction, uint64_t size,
                   struct fault_hits *hits);

/*
 * One opportunity of @device, moving @size bytes (0: none) in @direction. True when
 * something goes wrong: @hits says what the device has to do; faults of the machine are
 * carried out by themselves.
 */
static inline bool faults_draw(struct faults *faults, const char *device,
                               enum fault_point point,
                               enum umbra_fault_direction direction, uint64_t size,
                               struct fault_hits *hits)
{
    hits->kinds = 0;
    return faults != NULL &&
           atomic_load_explicit(&faults->planned[point], memory_order_relaxed) != 0 &&
           faults_decide(faults, device, point, direction, size, hits);
}

static inline bool fault_hit(const struct fault_hits *hits, enum umbra_fault_kind kind)
{
    return (hits->kinds & FAULT_BIT(kind)) != 0;
}

/* The kinds in @mask by name, for messages. */
const char *faults_names(unsigned mask, char *text, size_t size);

#endif
