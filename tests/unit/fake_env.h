/* SPDX-License-Identifier: MIT */
/* A world for one device under test: an irqchip that records, events that are noted. */
#ifndef TESTS_UNIT_FAKE_ENV_H
#define TESTS_UNIT_FAKE_ENV_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/state.h"
#include "base/util.h"
#include "devices/bus.h"
#include "devices/device.h"
#include "devices/irq.h"
#include "loop/loop.h"

enum { FAKE_MSI_COUNT = 64, FAKE_ROUTE_COUNT = 64 };

struct fake_msi {
    uint64_t address;
    uint32_t data;
};

struct fake_route {
    bool bound;
    int fd;
    struct fake_msi msi;
};

struct fake_env {
    struct device_env env;
    struct irq_chip chip;
    atomic_bool level[IRQ_GSI_COUNT];
    atomic_uint edges[IRQ_GSI_COUNT]; /* rises */
    struct fake_msi msi[FAKE_MSI_COUNT];
    unsigned msi_count;
    struct fake_route routes[FAKE_ROUTE_COUNT];
    unsigned events[4]; /* by enum device_event_kind */
    uint32_t event_value;
    struct log log;
};

static inline struct fake_env *fake_of(struct irq_chip *chip)
{
    return container_of(chip, struct fake_env, chip);
}

static inline int fake_set_level(struct irq_chip *chip, unsigned gsi, bool level)
{
    struct fake_env *fake = fake_of(chip);

    fake->edges[gsi] += level && !fake->level[gsi];
    fake->level[gsi] = level;
    return 0;
}

static inline int fake_send_msi(struct irq_chip *chip, uint64_t address, uint32_t data)
{
    struct fake_env *fake = fake_of(chip);

    fake->msi[fake->msi_count++ % FAKE_MSI_COUNT] = (struct fake_msi){ address, data };
    return 0;
}

static inline int fake_msi_bind(struct irq_chip *chip, int *route, uint64_t address,
                                uint32_t data, int fd)
{
    struct fake_env *fake = fake_of(chip);

    for (int i = 0; *route < 0 && i < FAKE_ROUTE_COUNT; i++) {
        if (!fake->routes[i].bound) {
            *route = i;
        }
    }
    if (*route < 0) {
        return -ENOSPC;
    }
    fake->routes[*route] = (struct fake_route){ true, fd, { address, data } };
    return 0;
}

static inline void fake_msi_unbind(struct irq_chip *chip, int *route, int fd)
{
    struct fake_env *fake = fake_of(chip);

    fake->routes[*route].bound = false;
    *route = -1;
}

static inline void fake_event(void *context, enum device_event_kind kind, uint32_t value)
{
    struct fake_env *fake = context;

    fake->events[kind]++;
    fake->event_value = value;
}

static const struct irq_chip_ops fake_chip_ops = {
    .set_level = fake_set_level,
    .send_msi = fake_send_msi,
    .msi_bind = fake_msi_bind,
    .msi_unbind = fake_msi_unbind,
};

/* @with_loop: a loop is there, not started. */
static inline void fake_env_init(struct fake_env *fake, bool with_loop)
{
    memset(fake, 0, sizeof(*fake));
    irq_chip_init(&fake->chip, &fake_chip_ops);
    fake->env = (struct device_env){
        .irqs = &fake->chip,
        .log = &fake->log,
        .event = fake_event,
        .event_context = fake,
    };
    if (with_loop) {
        struct umbra_error error;

        if (loop_create(&fake->log, &fake->env.loop, &error) < 0) {
            print_message("no event loop here: %s\n", error.message);
            exit(77);
        }
    }
}

static inline void fake_env_fini(struct fake_env *fake)
{
    loop_destroy(fake->env.loop);
    irq_chip_fini(&fake->chip);
}

/* Accesses as the bus makes them. */
static inline uint64_t dev_read(struct device *device, unsigned region, uint64_t offset,
                                unsigned size)
{
    uint64_t value;

    pthread_mutex_lock(&device->lock);
    value = device->ops->read(device, region, offset, size);
    pthread_mutex_unlock(&device->lock);
    return size == 8 ? value : value & ((UINT64_C(1) << (8 * size)) - 1);
}

static inline void dev_write(struct device *device, unsigned region, uint64_t offset,
                             unsigned size, uint64_t value)
{
    pthread_mutex_lock(&device->lock);
    device->ops->write(device, region, offset, size, value);
    pthread_mutex_unlock(&device->lock);
}

/* Save @from and load it into @to (another device of the same kind and id). */
static inline void dev_copy_state(struct device *from, struct device *to)
{
    struct state_writer *writer;
    struct state_reader *reader;
    struct umbra_error error;
    const void *bytes;
    size_t size;

    assert_int_equal(state_writer_create(&writer), 0);
    assert_int_equal(device_save(from, writer, &error), 0);
    assert_int_equal(state_writer_finish(writer, &bytes, &size), 0);
    assert_int_equal(state_reader_create(bytes, size, &reader, &error), 0);
    assert_int_equal(device_load(to, reader, &error), 0);
    state_reader_destroy(reader);
    state_writer_destroy(writer);
}

/* Wait for something that another thread brings about; gives up after a minute, which only
 * a broken build needs. */
#define WAIT_UNTIL(condition)                                                            \
    do {                                                                                 \
        unsigned tries_ = 0;                                                             \
                                                                                         \
        while (!(condition)) {                                                           \
            nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);                   \
            assert_true(++tries_ < 60000);                                               \
        }                                                                                \
    } while (0)

#endif
