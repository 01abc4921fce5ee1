/* SPDX-License-Identifier: MIT */
/* The statistics of a VM as JSON. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "vmm/vm.h"

static uint64_t stats_load(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* Nanoseconds a tick of exit_clock(), from the time since the VM was made. */
static double stats_tick_ns(const struct umbra_vm *vm)
{
    uint64_t ns = clock_ns() - vm->machine.created_ns;
    uint64_t ticks = exit_clock() - vm->machine.created_ticks;

    return ticks == 0 ? 1.0 : (double)ns / (double)ticks;
}

static json_t *stats_counter(const struct exit_counter *counter, double tick_ns)
{
    json_t *json = json_object(), *histogram = json_array();
    unsigned last = 0;

    for (unsigned i = 0; i < EXIT_HISTOGRAM_BUCKETS; i++) {
        if (__atomic_load_n(&counter->histogram[i], __ATOMIC_RELAXED) != 0) {
            last = i + 1;
        }
    }
    json_object_set_new(json, "count",
                        json_integer((json_int_t)stats_load(&counter->count)));
    json_object_set_new(
        json, "ns",
        json_integer((json_int_t)((double)stats_load(&counter->ticks) * tick_ns)));
    for (unsigned i = 0; i < last; i++) {
        uint32_t n = __atomic_load_n(&counter->histogram[i], __ATOMIC_RELAXED);

        if (n != 0) {
            json_t *bucket = json_object();

            json_object_set_new(
                bucket, "below_ns",
                json_integer((json_int_t)((double)(UINT64_C(2) << i) * tick_ns)));
            json_object_set_new(bucket, "count", json_integer(n));
            json_array_append_new(histogram, bucket);
        }
    }
    json_object_set_new(json, "histogram", histogram);
    return json;
}

static json_t *stats_keys(const struct exit_stats *stats, double tick_ns)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < EXIT_KEY_SLOTS; i++) {
        uint64_t tag = stats_load(&stats->keys[i].tag);
        char key[32];
        json_t *json;

        if (tag == 0) {
            continue;
        }
        snprintf(key, sizeof(key), "0x%" PRIx64, tag & ((UINT64_C(1) << 56) - 1));
        json = stats_counter(&stats->keys[i].counter, tick_ns);
        json_object_set_new(json, "kind", json_string(exit_key_kind_name(tag >> 56)));
        json_object_set_new(json, "key", json_string(key));
        json_array_append_new(list, json);
    }
    return list;
}

static json_t *stats_vcpu(struct vcpu *vcpu, double tick_ns)
{
    json_t *json = json_object(), *reasons = json_object();
    uint64_t total = 0;

    for (unsigned i = 0; i < EXIT_REASON_COUNT; i++) {
        const struct exit_counter *counter = &vcpu->stats->reasons[i];

        if (stats_load(&counter->count) != 0) {
            total += stats_load(&counter->count);
            json_object_set_new(reasons, vcpu_exit_name(i),
                                stats_counter(counter, tick_ns));
        }
    }
    json_object_set_new(json, "vcpu", json_integer(vcpu->index));
    json_object_set_new(json, "exits", json_integer((json_int_t)total));
    json_object_set_new(json, "unanswered_io",
                        json_integer((json_int_t)stats_load(&vcpu->stats->unhandled_io)));
    json_object_set_new(json, "by_reason", reasons);
    json_object_set_new(json, "by_key", stats_keys(vcpu->stats, tick_ns));
    vcpu_arch_stats(vcpu, json);
    return json;
}

static json_t *stats_devices(struct machine *machine)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < machine->device_count; i++) {
        struct device *device = machine->devices[i];
        json_t *json;

        if (device->ops->stats == NULL) {
            continue;
        }
        json = json_object();
        json_object_set_new(json, "id", json_string(device->id));
        json_object_set_new(json, "type", json_string(device->ops->type));
        pthread_mutex_lock(&device->lock);
        device->ops->stats(device, json);
        pthread_mutex_unlock(&device->lock);
        json_array_append_new(list, json);
    }
    return list;
}

char *umbra_vm_stats_json(struct umbra_vm *vm)
{
    double tick_ns = stats_tick_ns(vm);
    json_t *json, *vcpus;
    char *text;

    if (callback_inside(vm)) {
        return NULL; /* a device is locked */
    }
    json = json_object();
    vcpus = json_array();
    json_object_set_new(json, "name",
                        json_string(vm->config->name != NULL ? vm->config->name : ""));
    json_object_set_new(json, "memory", json_integer((json_int_t)vm->config->memory));
    for (unsigned i = 0; i < vm->machine.vcpus->options.count; i++) {
        json_array_append_new(vcpus, stats_vcpu(&vm->machine.vcpus->vcpus[i], tick_ns));
    }
    json_object_set_new(json, "vcpus", vcpus);
    json_object_set_new(json, "devices", stats_devices(&vm->machine));
    faults_stats(vm->machine.faults, json);
    text = json_dumps(json, JSON_INDENT(2));
    json_decref(json);
    return text;
}
