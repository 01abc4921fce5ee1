/* SPDX-License-Identifier: MIT */
/* Fault plans: which opportunities are hit, the record, and the seams of lines and buses. */
#include "unit/fake_env.h"

#include <jansson.h>
#include <pthread.h>
#include <stdio.h>

#include "devices/faults.h"

enum { HITS_MAX = 4096 };

struct noted {
    unsigned fired, acted;
    struct umbra_fault_event last;
    struct fault_action action;
};

static void note_act(void *context, const struct fault_action *action)
{
    struct noted *noted = context;

    noted->acted++;
    noted->action = *action;
}

static void note_fired(void *context, const struct umbra_fault_event *event)
{
    struct noted *noted = context;

    noted->fired++;
    noted->last = *event;
}

static struct faults *plan(struct noted *noted)
{
    const struct faults_options options = { .act = note_act,
                                            .fired = note_fired,
                                            .context = noted };
    struct faults *faults;

    memset(noted, 0, sizeof(*noted));
    assert_int_equal(faults_create(&options, &faults), 0);
    return faults;
}

static uint32_t add(struct faults *faults, struct umbra_fault fault,
                    enum fault_point point)
{
    uint32_t id;

    fault.size = sizeof(fault);
    assert_int_equal(faults_add(faults, &fault, point, &id), 0);
    return id;
}

/* Which of @count requests of disk0 are hit, as a string of 0 and 1. */
static void pattern(struct faults *faults, char *text, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct fault_hits hits;

        text[i] = faults_draw(faults, "disk0", FAULT_REQUEST, UMBRA_FAULT_IN, 4096, &hits)
                      ? '1'
                      : '0';
    }
    text[count] = '\0';
}

static unsigned ones(const char *text)
{
    unsigned count = 0;

    for (; *text != '\0'; text++) {
        count += *text == '1';
    }
    return count;
}

static void test_nothing_planned(void **state)
{
    struct noted noted;
    struct faults *faults = plan(&noted);
    struct umbra_fault_event event;
    struct fault_hits hits;

    assert_false(faults_draw(NULL, "disk0", FAULT_REQUEST, UMBRA_FAULT_IN, 1, &hits));
    assert_false(faults_draw(faults, "disk0", FAULT_REQUEST, UMBRA_FAULT_IN, 1, &hits));
    assert_int_equal(hits.kinds, 0);
    assert_int_equal(faults_event_at(faults, 0, &event), -ENOENT);
    assert_int_equal(faults_remove(faults, 1), -ENOENT);
    faults_destroy(faults);
    faults_destroy(NULL);
}

static void test_seed_decides(void **state)
{
    const struct umbra_fault fault = {
        .kind = UMBRA_FAULT_IO_ERROR, .device = "disk0", .seed = 7, .one_in = 10
    };
    struct umbra_fault other = fault;
    char first[1001], again[1001], third[1001];
    struct noted noted;

    for (unsigned run = 0; run < 3; run++) {
        struct faults *faults = plan(&noted);

        other.seed = run < 2 ? 7 : 8;
        add(faults, other, FAULT_REQUEST);
        pattern(faults, run == 0 ? first : run == 1 ? again : third, 1000);
        faults_destroy(faults);
    }
    assert_string_equal(first, again);
    assert_string_not_equal(first, third);
    assert_in_range(ones(first), 60, 140); /* by this seed, for ever */
    assert_in_range(ones(third), 60, 140);
}

static void test_skip_and_count(void **state)
{
    struct noted noted;
    struct faults *faults = plan(&noted);
    char text[21];

    add(faults,
        (struct umbra_fault){
            .kind = UMBRA_FAULT_IO_ERROR, .device = "disk0", .skip = 4, .count = 3 },
        FAULT_REQUEST);
    pattern(faults, text, 20);
    assert_string_equal(text, "00001110000000000000");
    faults_restart(faults);
    pattern(faults, text, 20);
    assert_string_equal(text, "00001110000000000000");
    faults_destroy(faults);
}

/* An event of a run is had again alone, by skip and count. */
static void test_replay_of_one(void **state)
{
    struct umbra_fault fault = {
        .kind = UMBRA_FAULT_SHORT, .device = "disk0", .seed = 99, .one_in = 16
    };
    struct noted noted;
    struct faults *faults = plan(&noted);
    struct umbra_fault_event third, only;
    char text[201];

    add(faults, fault, FAULT_REQUEST);
    pattern(faults, text, 200);
    assert_int_equal(faults_event_at(faults, 2, &third), 0);
    assert_string_equal(third.device, "disk0");
    faults_destroy(faults);
    faults = plan(&noted);
    fault.skip = third.opportunity - 1;
    fault.count = 1;
    add(faults, fault, FAULT_REQUEST);
    pattern(faults, text, 200);
    assert_int_equal(ones(text), 1);
    assert_int_equal(faults_event_at(faults, 0, &only), 0);
    assert_int_equal(faults_event_at(faults, 1, &only), -ENOENT);
    assert_int_equal(only.opportunity, third.opportunity);
    assert_int_equal(only.value, third.value); /* as short as then */
    faults_destroy(faults);
}

static void test_who_is_asked(void **state)
{
    struct noted noted;
    struct faults *faults = plan(&noted);
    struct fault_hits hits;
    uint32_t id = add(faults,
                      (struct umbra_fault){ .kind = UMBRA_FAULT_IO_ERROR,
                                            .device = "disk0",
                                            .direction = UMBRA_FAULT_OUT },
                      FAULT_REQUEST);

    assert_false(faults_draw(faults, "disk1", FAULT_REQUEST, UMBRA_FAULT_OUT, 1, &hits));
    assert_false(faults_draw(faults, "disk0", FAULT_ACCESS, UMBRA_FAULT_OUT, 1, &hits));
    assert_false(faults_draw(faults, "disk0", FAULT_REQUEST, UMBRA_FAULT_IN, 1, &hits));
    assert_true(faults_draw(faults, "disk0", FAULT_REQUEST, UMBRA_FAULT_OUT, 1, &hits));
    assert_int_equal(noted.fired, 1);
    assert_int_equal(noted.last.opportunity, 1); /* the others were none */
    assert_int_equal(faults_remove(faults, id), 0);
    assert_false(faults_draw(faults, "disk0", FAULT_REQUEST, UMBRA_FAULT_OUT, 1, &hits));
    faults_destroy(faults);
}

static void test_what_is_hit(void **state)
{
    struct noted noted;
    struct faults *faults = plan(&noted);
    struct fault_hits hits;

    for (unsigned i = 0; i < 200; i++) {
        struct faults *one = plan(&noted);

        add(one,
            (struct umbra_fault){
                .kind = UMBRA_FAULT_CORRUPT, .device = "net0", .seed = i },
            FAULT_REQUEST);
        add(one,
            (struct umbra_fault){
                .kind = UMBRA_FAULT_SHORT, .device = "net0", .seed = i },
            FAULT_REQUEST);
        assert_true(faults_draw(one, "net0", FAULT_REQUEST, UMBRA_FAULT_IN, 60, &hits));
        assert_in_range(hits.bit, 0, 60 * 8 - 1);
        assert_in_range(hits.bytes, 0, 59);
        faults_destroy(one);
    }
    add(faults,
        (struct umbra_fault){ .kind = UMBRA_FAULT_CLOCK_JUMP,
                              .device = "net0",
                              .clocks = UMBRA_CLOCK_TSC,
                              .jump_ns = -5,
                              .count = 1 },
        FAULT_REQUEST);
    add(faults,
        (struct umbra_fault){
            .kind = UMBRA_FAULT_DELAY, .device = "net0", .delay_ns = 9 },
        FAULT_REQUEST);
    noted = (struct noted){ 0 };
    assert_true(faults_draw(faults, "net0", FAULT_REQUEST, UMBRA_FAULT_IN, 0, &hits));
    assert_int_equal(hits.delay_ns, 9);
    assert_int_equal(noted.acted, 1);
    assert_int_equal(noted.fired, 2);
    assert_int_equal(noted.action.jump_ns, -5);
    assert_int_equal(noted.action.clocks, UMBRA_CLOCK_TSC);
    faults_destroy(faults);
}

static void test_record_is_bounded(void **state)
{
    struct noted noted;
    struct faults *faults = plan(&noted);
    struct umbra_fault_event event;
    struct fault_hits hits;
    json_t *json = json_object();

    add(faults, (struct umbra_fault){ .kind = UMBRA_FAULT_DROP, .device = "net0" },
        FAULT_REQUEST);
    for (unsigned i = 0; i < HITS_MAX + 10; i++) {
        faults_draw(faults, "net0", FAULT_REQUEST, UMBRA_FAULT_IN, 0, &hits);
    }
    assert_int_equal(faults_event_at(faults, 9, &event), -ENOENT);
    assert_int_equal(faults_event_at(faults, 10, &event), 0);
    assert_int_equal(event.opportunity, 11);
    assert_int_equal(faults_event_at(faults, HITS_MAX + 9, &event), 0);
    assert_int_equal(faults_event_at(faults, HITS_MAX + 10, &event), -ENOENT);
    faults_stats(faults, json);
    assert_int_equal(
        json_array_size(json_object_get(json_object_get(json, "faults"), "events")),
        HITS_MAX);
    json_decref(json);
    for (unsigned i = 1; i < FAULT_RULES_MAX; i++) {
        add(faults, (struct umbra_fault){ .kind = UMBRA_FAULT_DROP, .device = "net1" },
            FAULT_REQUEST);
    }
    assert_int_equal(
        faults_add(faults,
                   &(struct umbra_fault){ .kind = UMBRA_FAULT_DROP, .device = "net1" },
                   FAULT_REQUEST, NULL),
        -ENOSPC);
    faults_destroy(faults);
}

static void *draw_all(void *context)
{
    struct fault_hits hits;

    for (unsigned i = 0; i < 5000; i++) {
        faults_draw(context, "disk0", FAULT_REQUEST, UMBRA_FAULT_IN, 512, &hits);
    }
    return NULL;
}

/* Whatever the threads do, the same numbers are hit. */
static void test_threads(void **state)
{
    uint64_t sums[2] = { 0, 0 };

    for (unsigned run = 0; run < 2; run++) {
        const struct faults_options nobody = { 0 };
        struct umbra_fault_event event;
        struct faults *faults;
        pthread_t threads[4];

        assert_int_equal(faults_create(&nobody, &faults), 0);
        add(faults,
            (struct umbra_fault){ .kind = UMBRA_FAULT_IO_ERROR,
                                  .device = "disk0",
                                  .seed = 3,
                                  .one_in = 100 },
            FAULT_REQUEST);
        for (unsigned i = 0; i < 4; i++) {
            assert_int_equal(pthread_create(&threads[i], NULL, draw_all, faults), 0);
        }
        for (unsigned i = 0; i < 4; i++) {
            pthread_join(threads[i], NULL);
        }
        for (uint64_t i = 0; faults_event_at(faults, i, &event) == 0; i++) {
            sums[run] += event.opportunity;
        }
        faults_destroy(faults);
    }
    assert_true(sums[0] != 0);
    assert_int_equal(sums[0], sums[1]);
}

/* ---- Seams ----------------------------------------------------------------------------- */

struct toy {
    struct device device;
    struct irq_line irq;
    unsigned reads, writes;
};

static uint64_t toy_read(struct device *device, unsigned region, uint64_t offset,
                         unsigned size)
{
    container_of(device, struct toy, device)->reads++;
    return 0x42;
}

static void toy_write(struct device *device, unsigned region, uint64_t offset,
                      unsigned size, uint64_t value)
{
    container_of(device, struct toy, device)->writes++;
}

static const struct device_ops toy_ops = { .type = "toy",
                                           .read = toy_read,
                                           .write = toy_write };

static void test_accesses(void **state)
{
    struct fake_env fake;
    struct noted noted;
    struct toy toy = { 0 };
    struct bus *bus;
    uint64_t value;

    fake_env_init(&fake, false);
    fake.env.faults = plan(&noted);
    device_init(&toy.device, &toy_ops, &fake.env, "toy");
    assert_int_equal(bus_create("pio", &bus), 0);
    assert_int_equal(bus_add(bus, 0x100, 8, &toy.device, 0), 0);
    assert_true((toy.device.faults & FAULT_BIT(UMBRA_FAULT_IO_ERROR)) != 0);
    assert_false((toy.device.faults & FAULT_BIT(UMBRA_FAULT_IRQ_LOST)) != 0);
    add(fake.env.faults,
        (struct umbra_fault){
            .kind = UMBRA_FAULT_IO_ERROR, .device = "toy", .skip = 1, .count = 2 },
        FAULT_ACCESS);
    assert_true(bus_read(bus, 0x100, 2, &value));
    assert_int_equal(value, 0x42);
    assert_true(bus_read(bus, 0x100, 2, &value));
    assert_int_equal(value, 0xffff);
    assert_true(bus_write(bus, 0x100, 2, 1));
    assert_int_equal(toy.writes, 0);
    assert_true(bus_write(bus, 0x100, 2, 1));
    assert_int_equal(toy.reads, 1);
    assert_int_equal(toy.writes, 1);
    bus_destroy(bus);
    device_fini(&toy.device);
    faults_destroy(fake.env.faults);
    fake_env_fini(&fake);
}

static void test_lines(void **state)
{
    struct fake_env fake;
    struct noted noted;
    struct toy toy = { 0 };

    fake_env_init(&fake, false);
    fake.env.faults = plan(&noted);
    device_init(&toy.device, &toy_ops, &fake.env, "toy");
    device_irq_init(&toy.device, &toy.irq, 5);
    assert_true((toy.device.faults & FAULT_BIT(UMBRA_FAULT_IRQ_LOST)) != 0);
    add(fake.env.faults,
        (struct umbra_fault){
            .kind = UMBRA_FAULT_IRQ_LOST, .device = "toy", .skip = 1, .count = 1 },
        FAULT_INTERRUPT);
    for (unsigned i = 1; i <= 3; i++) {
        irq_line_set(&toy.irq, true);
        assert_int_equal(fake.level[5], i != 2);
        irq_line_set(&toy.irq, false);
        assert_int_equal(fake.level[5], false);
    }
    assert_int_equal(fake.edges[5], 2);
    add(fake.env.faults,
        (struct umbra_fault){
            .kind = UMBRA_FAULT_IRQ_SPURIOUS, .device = "toy", .count = 1 },
        FAULT_CALM);
    irq_line_set(&toy.irq, true);
    irq_line_set(&toy.irq, false);
    assert_int_equal(fake.edges[5], 4); /* one of them for nothing */
    irq_line_pulse(&toy.irq);
    assert_int_equal(fake.edges[5], 5);
    assert_int_equal(fake.chip.asserted[5], 0);
    device_fini(&toy.device);
    faults_destroy(fake.env.faults);
    fake_env_fini(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_planned),   cmocka_unit_test(test_seed_decides),
        cmocka_unit_test(test_skip_and_count),    cmocka_unit_test(test_replay_of_one),
        cmocka_unit_test(test_who_is_asked),      cmocka_unit_test(test_what_is_hit),
        cmocka_unit_test(test_record_is_bounded), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_accesses),          cmocka_unit_test(test_lines),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
