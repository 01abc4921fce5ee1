/* SPDX-License-Identifier: MIT */
/* The statistics of a VM as JSON. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "vcpu/kvm_stats.h"
#include "vmm/vm/vm.h"

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

static void stats_kvm_one(void *context, const struct umbra_kvm_stat *stat)
{
    json_t *json = context, *values = NULL;

    if (stat->count == 1) {
        json_object_set_new(json, stat->name, json_integer((json_int_t)stat->values[0]));
        return;
    }
    /* Histograms: up to the last bucket that has something. */
    values = json_array();
    for (unsigned n = stat->count; n > 0 && json_array_size(values) == 0; n--) {
        for (unsigned i = 0; stat->values[n - 1] != 0 && i < n; i++) {
            json_array_append_new(values, json_integer((json_int_t)stat->values[i]));
        }
    }
    json_object_set_new(json, stat->name, values);
}

/* KVM's own numbers; an empty object where it has none. */
static json_t *stats_kvm(int stats_fd)
{
    json_t *json = json_object();

    if (stats_fd >= 0) {
        kvm_stats_read(stats_fd, stats_kvm_one, json);
    }
    return json;
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
    json_object_set_new(json, "kvm", stats_kvm(vcpu->stats_fd));
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

    if (callback_refuse(vm, "umbra_vm_stats_json", NULL) != 0) {
        return NULL; /* a device is locked */
    }
    json = json_object();
    vcpus = json_array();
    json_object_set_new(json, "name",
                        json_string(vm->config->name != NULL ? vm->config->name : ""));
    json_object_set_new(json, "memory", json_integer((json_int_t)vm->config->memory));
    json_object_set_new(
        json, "memory_resident",
        json_integer((json_int_t)guest_mem_resident_lately(vm->machine.mem)));
    for (unsigned i = 0; i < vm->machine.vcpus->options.count; i++) {
        json_array_append_new(vcpus, stats_vcpu(&vm->machine.vcpus->vcpus[i], tick_ns));
    }
    json_object_set_new(json, "vcpus", vcpus);
    json_object_set_new(json, "kvm", stats_kvm(vm->machine.kvm.stats_fd));
    json_object_set_new(json, "devices", stats_devices(&vm->machine));
    faults_stats(vm->machine.faults, json);
    text = json_dumps(json, JSON_INDENT(2));
    json_decref(json);
    return text;
}

int umbra_memory_resident(struct umbra_vm *vm, uint64_t *bytes, struct umbra_error *error)
{
    int ret = callback_foreign(vm, "umbra_memory_resident", error);

    if (ret == 0) {
        *bytes = guest_mem_resident_lately(vm->machine.mem);
    }
    return ret;
}

/* ---- As structs ------------------------------------------------------------------------- */

static void exits_give(const struct exit_counter *counter,
                       struct umbra_exit_counter *public, double tick_ns,
                       umbra_exit_fn fn, void *context)
{
    public->size = sizeof(*public);
    public->count = stats_load(&counter->count);
    public->ns = (uint64_t)((double)stats_load(&counter->ticks) * tick_ns);
    public->buckets = EXIT_HISTOGRAM_BUCKETS;
    for (unsigned i = 0; i < EXIT_HISTOGRAM_BUCKETS; i++) {
        public->below_ns[i] = i + 1 == EXIT_HISTOGRAM_BUCKETS
                                  ? UINT64_MAX
                                  : (uint64_t)((double)(UINT64_C(2) << i) * tick_ns);
        public->bucket_count[i] =
            __atomic_load_n(&counter->histogram[i], __ATOMIC_RELAXED);
    }
    if (public->count > 0) {
        fn(context, public);
    }
}

static void exits_vcpu(const struct vcpu *vcpu, double tick_ns, umbra_exit_fn fn,
                       void *context)
{
    static const enum umbra_access_kind kinds[] = {
        [EXIT_KEY_PORT_IN] = UMBRA_PORT_READ,   [EXIT_KEY_PORT_OUT] = UMBRA_PORT_WRITE,
        [EXIT_KEY_MMIO_READ] = UMBRA_MMIO_READ, [EXIT_KEY_MMIO_WRITE] = UMBRA_MMIO_WRITE,
        [EXIT_KEY_MSR_READ] = UMBRA_MSR_READ,   [EXIT_KEY_MSR_WRITE] = UMBRA_MSR_WRITE,
    };

    for (unsigned i = 0; i < EXIT_REASON_COUNT; i++) {
        struct umbra_exit_counter public = { .vcpu = vcpu->index };

        snprintf(public.reason, sizeof(public.reason), "%s", vcpu_exit_name(i));
        exits_give(&vcpu->stats->reasons[i], &public, tick_ns, fn, context);
    }
    for (unsigned i = 0; i < EXIT_KEY_SLOTS; i++) {
        uint64_t tag = stats_load(&vcpu->stats->keys[i].tag);
        struct umbra_exit_counter public = { .vcpu = vcpu->index };

        if (tag != 0 && tag >> 56 < ARRAY_SIZE(kinds)) {
            public.access = kinds[tag >> 56];
            public.key = tag & ((UINT64_C(1) << 56) - 1);
            exits_give(&vcpu->stats->keys[i].counter, &public, tick_ns, fn, context);
        }
    }
}

int umbra_vm_exits(struct umbra_vm *vm, umbra_exit_fn fn, void *context,
                   struct umbra_error *error)
{
    double tick_ns = stats_tick_ns(vm);
    int ret = callback_foreign(vm, "umbra_vm_exits", error);

    if (ret != 0) {
        return ret;
    }
    if (fn == NULL) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "umbra_vm_exits: fn must be given");
    }
    for (unsigned i = 0; i < vm->machine.vcpus->options.count; i++) {
        exits_vcpu(&vm->machine.vcpus->vcpus[i], tick_ns, fn, context);
    }
    return 0;
}

int umbra_vm_kvm_stats(struct umbra_vm *vm, int vcpu, umbra_kvm_stat_fn fn, void *context,
                       struct umbra_error *error)
{
    int count = (int)vm->machine.vcpus->options.count, fd;
    int ret = callback_foreign(vm, "umbra_vm_kvm_stats", error);

    if (ret != 0) {
        return ret;
    }
    if (fn == NULL || vcpu < -1 || vcpu >= count) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "umbra_vm_kvm_stats: fn must be given, and vCPU %d is not below "
                         "%d",
                         vcpu, count);
    }
    fd = vcpu < 0 ? vm->machine.kvm.stats_fd : vm->machine.vcpus->vcpus[vcpu].stats_fd;
    if (fd < 0) {
        return error_set(error, UMBRA_ERROR_NO_KVM, ENOTSUP,
                         "this kernel's KVM keeps no binary statistics");
    }
    ret = kvm_stats_read(fd, fn, context);
    return ret == 0 ? 0
                    : error_errno(error, UMBRA_ERROR_INTERNAL, -ret,
                                  "cannot read KVM's statistics");
}
