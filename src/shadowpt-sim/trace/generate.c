/* SPDX-License-Identifier: MIT */
/* Synthetic workloads, the same for the same seed. */
#include "shadowpt-sim/trace/generate.h"

#include <errno.h>
#include <stdlib.h>

#define REGION     0x100000000000ull
#define READ_WRITE (SIM_READABLE | SIM_WRITABLE)
#define ROUND_MAX  4096 /* events that one round makes at most */

struct generator {
    struct sim_source source;
    enum generate_kind kind;
    struct generate_config config;
    uint64_t random, pages, round, populated, due;
    bool marked;
    uint16_t child;
    uint64_t accesses; /* since the mark */
    unsigned count, given;
    struct sim_event event[ROUND_MAX];
};

static uint64_t random_next(struct generator *generator)
{
    uint64_t z = (generator->random += 0x9e3779b97f4a7c15ull);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static uint64_t random_page(struct generator *generator, uint64_t pages)
{
    return (uint64_t)(((unsigned __int128)random_next(generator) * pages) >> 64);
}

static void put(struct generator *generator, struct sim_event event)
{
    if (generator->count < ROUND_MAX) {
        generator->event[generator->count++] = event;
    }
    generator->accesses += event.kind == SIM_ACCESS;
}

static void put_access(struct generator *generator, uint64_t page, uint8_t flags)
{
    put(generator,
        (struct sim_event){ .kind = SIM_ACCESS,
                            .address = REGION + (page << 12) + 8 * (page & 511),
                            .flags = flags });
}

static void put_range(struct generator *generator, enum sim_event_kind kind,
                      uint64_t page, uint64_t pages, uint8_t flags)
{
    put(generator, (struct sim_event){ .kind = (uint8_t)kind,
                                       .address = REGION + (page << 12),
                                       .pages = (uint32_t)pages,
                                       .flags = flags });
}

static void put_process(struct generator *generator, enum sim_event_kind kind,
                        uint16_t process)
{
    put(generator, (struct sim_event){ .kind = (uint8_t)kind, .process = process });
}

/* ---- Rounds ------------------------------------------------------------------------------ */

static void round_random(struct generator *generator)
{
    for (unsigned i = 0; i < ROUND_MAX; i++) {
        uint64_t random = random_page(generator, generator->pages * 4);

        put_access(generator, random >> 2, (random & 3) == 0 ? MMU_WRITE : 0);
    }
}

/* The child writes a sixteenth of the parent's pages, the parent another. */
static void round_fork(struct generator *generator)
{
    uint16_t child = (uint16_t)(1 + generator->round % 64);
    uint64_t touches = generator->pages / 16 < 1024 ? generator->pages / 16 : 1024;

    put_process(generator, SIM_FORK, child);
    put_process(generator, SIM_SWITCH, child);
    for (uint64_t i = 0; i < touches; i++) {
        put_access(generator, random_page(generator, generator->pages), MMU_WRITE);
        put_access(generator, random_page(generator, generator->pages), 0);
    }
    put_process(generator, SIM_EXIT, child);
    for (uint64_t i = 0; i < touches; i++) {
        put_access(generator, random_page(generator, generator->pages), MMU_WRITE);
    }
}

/* Regions of 16 pages come and go behind a stable one. */
static void round_churn(struct generator *generator)
{
    uint64_t at = generator->pages + 16 * random_page(generator, 256);

    put_range(generator, SIM_MAP, at, 16, READ_WRITE);
    for (unsigned pass = 0; pass < 8; pass++) {
        for (unsigned i = 0; i < 16; i++) {
            put_access(generator, at + i, MMU_WRITE);
            put_access(generator, random_page(generator, generator->pages), 0);
        }
    }
    put_range(generator, SIM_UNMAP, at, 16, 0);
}

static void round_pingpong(struct generator *generator)
{
    put_process(generator, SIM_SWITCH, (uint16_t)(generator->round & 1));
    for (unsigned i = 0; i < 256; i++) {
        put_access(generator, random_page(generator, generator->pages),
                   (i & 3) == 0 ? MMU_WRITE : 0);
    }
}

/* An update takes write access from a page or gives it back: one store to a table and one
 * INVLPG. */
static void round_updates(struct generator *generator)
{
    const double scale = 1 << 20;

    for (unsigned i = 0; i < ROUND_MAX / 4; i++) {
        put_access(generator, random_page(generator, generator->pages), 0);
        generator->due += (uint64_t)(generator->config.updates * scale);
        while (generator->due >= (uint64_t)scale && generator->count + 3 < ROUND_MAX) {
            uint64_t page = random_page(generator, generator->pages);
            bool write = random_next(generator) & 1;

            generator->due -= (uint64_t)scale;
            put_range(generator, SIM_PROTECT, page, 1, write ? READ_WRITE : SIM_READABLE);
        }
    }
}

/* ---- Preparation ------------------------------------------------------------------------- */

static void prepare(struct generator *generator)
{
    uint8_t flags = READ_WRITE | (generator->config.large ? SIM_LARGE : 0);
    uint64_t step = 512;

    if (generator->populated == 0) {
        put_process(generator, SIM_SWITCH, 0);
        put_range(generator, SIM_MAP, 0, generator->pages, flags);
    }
    /* Touch each page once, a part at a time. */
    for (unsigned i = 0; i < 7 && generator->populated < generator->pages; i++) {
        for (uint64_t n = 0; n < step && generator->populated < generator->pages; n++) {
            put_access(generator, generator->populated++, MMU_WRITE);
        }
    }
    if (generator->populated < generator->pages) {
        return;
    }
    if (generator->kind == GENERATE_PINGPONG && generator->child == 0) {
        generator->child = 1;
        generator->populated = 1;
        put_process(generator, SIM_SWITCH, 1);
        put_range(generator, SIM_MAP, 0, generator->pages, flags);
        put_access(generator, 0, MMU_WRITE);
        if (generator->populated < generator->pages) {
            return;
        }
    }
    put_process(generator, SIM_MARK, 0);
    generator->marked = true;
    generator->accesses = 0;
}

static void round_make(struct generator *generator)
{
    static void (*const make[])(struct generator *) = {
        [GENERATE_RANDOM] = round_random,   [GENERATE_FORK] = round_fork,
        [GENERATE_CHURN] = round_churn,     [GENERATE_PINGPONG] = round_pingpong,
        [GENERATE_UPDATES] = round_updates,
    };

    generator->count = 0;
    generator->given = 0;
    if (!generator->marked) {
        prepare(generator);
    } else if (generator->accesses < generator->config.accesses) {
        make[generator->kind](generator);
        generator->round++;
    }
}

static int generator_next(struct sim_source *source, struct sim_event *events,
                          unsigned max, struct umbra_error *error)
{
    struct generator *generator = container_of(source, struct generator, source);
    unsigned count;

    if (generator->given == generator->count) {
        round_make(generator);
    }
    count = generator->count - generator->given;
    if (count > max) {
        count = max;
    }
    memcpy(events, generator->event + generator->given, count * sizeof(*events));
    generator->given += count;
    return (int)count;
}

static void generator_destroy(struct sim_source *source)
{
    free(container_of(source, struct generator, source));
}

/* ---- Kinds ------------------------------------------------------------------------------- */

static const struct {
    const char *name, *summary;
    uint64_t bytes, accesses;
} kinds[GENERATE_KINDS] = {
    [GENERATE_RANDOM] = { "random", "random accesses to a region", GIB, 4000000 },
    [GENERATE_FORK] = { "fork", "fork storm: children and parent write shared pages",
                        16 * MIB, 300000 },
    [GENERATE_CHURN] = { "churn", "mmap, touch and munmap of 16 pages, again and again",
                         16 * MIB, 1000000 },
    [GENERATE_PINGPONG] = { "pingpong", "two processes take turns of 256 accesses", MIB,
                            1000000 },
    [GENERATE_UPDATES] = { "updates", "random accesses with mprotect of single pages",
                           256 * MIB, 400000 },
};

const char *generate_name(enum generate_kind kind)
{
    return kinds[kind].name;
}

const char *generate_summary(enum generate_kind kind)
{
    return kinds[kind].summary;
}

int generate_parse(const char *name, enum generate_kind *kind)
{
    for (unsigned i = 0; i < GENERATE_KINDS; i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            *kind = (enum generate_kind)i;
            return 0;
        }
    }
    return -EINVAL;
}

void generate_defaults(enum generate_kind kind, struct generate_config *config)
{
    *config = (struct generate_config){
        .bytes = kinds[kind].bytes,
        .accesses = kinds[kind].accesses,
        .seed = 1,
        .updates = 0.01,
    };
}

int generate_open(enum generate_kind kind, const struct generate_config *config,
                  struct sim_source **source)
{
    struct generator *generator;

    *source = NULL;
    if (config->bytes < 64 * KIB || config->bytes > 256 * GIB || config->accesses == 0 ||
        !(config->updates >= 0 && config->updates <= 1000)) {
        return -EINVAL;
    }
    generator = calloc(1, sizeof(*generator));
    if (generator == NULL) {
        return -ENOMEM;
    }
    generator->source.next = generator_next;
    generator->source.destroy = generator_destroy;
    generator->source.expected = config->accesses + config->bytes / MMU_PAGE_SIZE;
    generator->kind = kind;
    generator->config = *config;
    generator->random = config->seed;
    generator->pages = config->bytes >> MMU_PAGE_SHIFT;
    *source = &generator->source;
    return 0;
}
