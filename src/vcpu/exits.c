/* SPDX-License-Identifier: MIT */
/* The exit table: what each KVM_EXIT_* means to a vCPU. */
#include <errno.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <string.h>

#include "base/text.h"
#include "base/util.h"
#include "devices/bus.h"
#include "vcpu/vcpu.h"

typedef enum vcpu_verdict exit_handler(struct vcpu *vcpu);

static void vcpu_note(struct vcpu *vcpu, enum exit_key_kind kind, uint64_t key,
                      uint64_t value, unsigned size)
{
    vcpu->detail =
        (struct exit_detail){ .kind = kind, .key = key, .value = value, .size = size };
}

/* Count an access that nobody answered; the first few of a guest's probes are ordinary.
 */
static void vcpu_unanswered(struct vcpu *vcpu, bool answered)
{
    if (!answered) {
        vcpu->stats->unhandled_io++;
    }
}

static void port_access(struct vcpu *vcpu, bool out, uint64_t *value)
{
    const struct kvm_run *run = vcpu->run;
    struct bus *bus = vcpu->set->options.pio;
    bool fault;

    if (vcpu_hook(vcpu, out ? EXIT_KEY_PORT_OUT : EXIT_KEY_PORT_IN, run->io.port,
                  run->io.size, value, &fault)) {
        return;
    }
    vcpu_unanswered(vcpu, out ? bus_write(bus, run->io.port, run->io.size, *value)
                              : bus_read(bus, run->io.port, run->io.size, value));
}

static enum vcpu_verdict exit_io(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    bool out = run->io.direction == KVM_EXIT_IO_OUT;
    uint64_t value = 0;

    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        value = 0;
        if (out) {
            memcpy(&value, data, run->io.size);
        }
        port_access(vcpu, out, &value);
        if (!out) {
            memcpy(data, &value, run->io.size);
        }
    }
    vcpu_note(vcpu, out ? EXIT_KEY_PORT_OUT : EXIT_KEY_PORT_IN, run->io.port, value,
              run->io.size);
    return VCPU_GO_ON;
}

static enum vcpu_verdict exit_mmio(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    struct bus *bus = vcpu->set->options.mmio;
    enum exit_key_kind kind =
        run->mmio.is_write ? EXIT_KEY_MMIO_WRITE : EXIT_KEY_MMIO_READ;
    unsigned size = run->mmio.len;
    uint64_t value = 0;
    bool fault;

    if (run->mmio.is_write) {
        memcpy(&value, run->mmio.data, sizeof(value));
        if (size < sizeof(value)) {
            value &= (UINT64_C(1) << (8 * size)) - 1;
        }
    }
    if (!vcpu_hook(vcpu, kind, run->mmio.phys_addr, size, &value, &fault)) {
        vcpu_unanswered(vcpu, run->mmio.is_write
                                  ? bus_write(bus, run->mmio.phys_addr, size, value)
                                  : bus_read(bus, run->mmio.phys_addr, size, &value));
    }
    if (!run->mmio.is_write) {
        memcpy(run->mmio.data, &value, sizeof(value));
    }
    vcpu_note(vcpu, kind, run->mmio.phys_addr, value, size);
    return VCPU_GO_ON;
}

static enum vcpu_verdict exit_go_on(struct vcpu *vcpu)
{
    (void)vcpu;
    return VCPU_GO_ON;
}

static enum vcpu_verdict exit_shutdown(struct vcpu *vcpu)
{
    return vcpu_end(vcpu, VCPU_END_TRIPLE_FAULT, "triple fault on vCPU %u", vcpu->index);
}

static enum vcpu_verdict exit_system_event(struct vcpu *vcpu)
{
    uint32_t type = vcpu->run->system_event.type;

    switch (type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
        return vcpu_end(vcpu, VCPU_END_POWEROFF, "the guest powered off");
    case KVM_SYSTEM_EVENT_RESET:
        return vcpu_end(vcpu, VCPU_END_RESET, "the guest asked for a reset");
    case KVM_SYSTEM_EVENT_CRASH:
        return vcpu_end(vcpu, VCPU_END_CRASH, "the guest reported a crash");
    default:
        return vcpu_end(vcpu, VCPU_END_ERROR, "unknown KVM system event %u on vCPU %u",
                        type, vcpu->index);
    }
}

static enum vcpu_verdict exit_fail_entry(struct vcpu *vcpu)
{
    return vcpu_end(
        vcpu, VCPU_END_ERROR,
        "the processor refused to enter the guest on vCPU %u: hardware reason "
        "0x%" PRIx64 " on CPU %u",
        vcpu->index, (uint64_t)vcpu->run->fail_entry.hardware_entry_failure_reason,
        vcpu->run->fail_entry.cpu);
}

static const char *internal_error_name(uint32_t suberror)
{
    static const char *const names[] = {
        [KVM_INTERNAL_ERROR_EMULATION] = "emulation",
        [KVM_INTERNAL_ERROR_SIMUL_EX] = "simultaneous exceptions",
        [KVM_INTERNAL_ERROR_DELIVERY_EV] = "event delivery",
        [KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] = "unexpected exit reason",
    };

    return suberror < ARRAY_SIZE(names) && names[suberror] != NULL ? names[suberror]
                                                                   : "unknown";
}

static enum vcpu_verdict exit_internal_error(struct vcpu *vcpu)
{
    uint32_t suberror = vcpu->run->internal.suberror;

    if (suberror == KVM_INTERNAL_ERROR_EMULATION) {
        return vcpu_arch_emulation_failure(vcpu);
    }
    return vcpu_end(
        vcpu, VCPU_END_ERROR,
        "KVM internal error %u (%s) on vCPU %u, data 0x%" PRIx64 " 0x%" PRIx64, suberror,
        internal_error_name(suberror), vcpu->index, (uint64_t)vcpu->run->internal.data[0],
        (uint64_t)vcpu->run->internal.data[1]);
}

static enum vcpu_verdict exit_debug(struct vcpu *vcpu)
{
    const struct vcpu_set_options *options = &vcpu->set->options;

    if (options->debug == NULL) {
        return vcpu_end(vcpu, VCPU_END_ERROR, "unexpected debug exit on vCPU %u",
                        vcpu->index);
    }
    options->debug(options->context, vcpu);
    return VCPU_GO_ON;
}

static enum vcpu_verdict exit_ioapic_eoi(struct vcpu *vcpu)
{
    const struct vcpu_set_options *options = &vcpu->set->options;

    if (options->ioapic_eoi != NULL) {
        options->ioapic_eoi(options->context, vcpu->run->eoi.vector);
    }
    return VCPU_GO_ON;
}

static enum vcpu_verdict exit_dirty_ring_full(struct vcpu *vcpu)
{
    const struct vcpu_set_options *options = &vcpu->set->options;
    int ret = options->dirty_ring_full != NULL
                  ? options->dirty_ring_full(options->context)
                  : -ENOTSUP;

    if (ret < 0) {
        return vcpu_end(vcpu, VCPU_END_ERROR,
                        "the dirty ring of vCPU %u cannot be emptied", vcpu->index);
    }
    return VCPU_GO_ON;
}

static const struct {
    const char *name;
    exit_handler *handler; /* NULL: the architecture's, else an error */
} exits[] = {
    [KVM_EXIT_UNKNOWN] = { "UNKNOWN", NULL },
    [KVM_EXIT_EXCEPTION] = { "EXCEPTION", NULL },
    [KVM_EXIT_IO] = { "IO", exit_io },
    [KVM_EXIT_HYPERCALL] = { "HYPERCALL", NULL },
    [KVM_EXIT_DEBUG] = { "DEBUG", exit_debug },
    [KVM_EXIT_HLT] = { "HLT", NULL },
    [KVM_EXIT_MMIO] = { "MMIO", exit_mmio },
    [KVM_EXIT_IRQ_WINDOW_OPEN] = { "IRQ_WINDOW_OPEN", exit_go_on },
    [KVM_EXIT_SHUTDOWN] = { "SHUTDOWN", exit_shutdown },
    [KVM_EXIT_FAIL_ENTRY] = { "FAIL_ENTRY", exit_fail_entry },
    [KVM_EXIT_INTR] = { "INTR", exit_go_on },
    [KVM_EXIT_SET_TPR] = { "SET_TPR", exit_go_on },
    [KVM_EXIT_TPR_ACCESS] = { "TPR_ACCESS", exit_go_on },
    [KVM_EXIT_NMI] = { "NMI", exit_go_on },
    [KVM_EXIT_INTERNAL_ERROR] = { "INTERNAL_ERROR", exit_internal_error },
    [KVM_EXIT_WATCHDOG] = { "WATCHDOG", NULL },
    [KVM_EXIT_SYSTEM_EVENT] = { "SYSTEM_EVENT", exit_system_event },
    [KVM_EXIT_IOAPIC_EOI] = { "IOAPIC_EOI", exit_ioapic_eoi },
    [KVM_EXIT_HYPERV] = { "HYPERV", NULL },
    [KVM_EXIT_DIRTY_RING_FULL] = { "DIRTY_RING_FULL", exit_dirty_ring_full },
    [KVM_EXIT_X86_RDMSR] = { "RDMSR", NULL },
    [KVM_EXIT_X86_WRMSR] = { "WRMSR", NULL },
    [KVM_EXIT_X86_BUS_LOCK] = { "BUS_LOCK", exit_go_on },
    [KVM_EXIT_NOTIFY] = { "NOTIFY", NULL },
};

const char *vcpu_exit_name(unsigned reason)
{
    return reason < ARRAY_SIZE(exits) && exits[reason].name != NULL ? exits[reason].name
                                                                    : "OTHER";
}

enum vcpu_verdict vcpu_handle_exit(struct vcpu *vcpu)
{
    uint32_t reason = vcpu->run->exit_reason;
    enum vcpu_verdict verdict;
    bool handled = false;

    if (reason < ARRAY_SIZE(exits) && exits[reason].handler != NULL) {
        return exits[reason].handler(vcpu);
    }
    verdict = vcpu_arch_exit(vcpu, &handled);
    if (handled) {
        return verdict;
    }
    return vcpu_end(vcpu, VCPU_END_ERROR,
                    "exit %u (%s) on vCPU %u, which umbra does not know", reason,
                    vcpu_exit_name(reason), vcpu->index);
}

/* Words of an internal error; the last of emulation failures are flags and bytes. */
static void describe_internal(const struct kvm_run *run, struct text *text)
{
    uint32_t count = run->internal.ndata;

    text_add(text, ", suberror %u (%s)", run->internal.suberror,
             internal_error_name(run->internal.suberror));
    for (uint32_t i = 0; i < count && i < ARRAY_SIZE(run->internal.data); i++) {
        text_add(text, "%s%" PRIx64, i == 0 ? ", data " : " ",
                 (uint64_t)run->internal.data[i]);
    }
}

void vcpu_describe_exit(const struct vcpu *vcpu, char *buffer, size_t size)
{
    const struct kvm_run *run = vcpu->run;
    struct text text;

    text_fixed(&text, buffer, size);
    text_add(&text, "reason %u (%s)", run->exit_reason, vcpu_exit_name(run->exit_reason));
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        text_add(&text, ", %s port 0x%x, %u x %u bytes",
                 run->io.direction == KVM_EXIT_IO_OUT ? "out" : "in", run->io.port,
                 run->io.count, run->io.size);
        break;
    case KVM_EXIT_MMIO:
        text_add(&text, ", %s GPA %" PRIx64 ", %u bytes",
                 run->mmio.is_write ? "write" : "read", (uint64_t)run->mmio.phys_addr,
                 run->mmio.len);
        break;
    case KVM_EXIT_FAIL_ENTRY:
        text_add(&text, ", hardware reason %" PRIx64 ", CPU %u",
                 (uint64_t)run->fail_entry.hardware_entry_failure_reason,
                 run->fail_entry.cpu);
        break;
    case KVM_EXIT_INTERNAL_ERROR:
        describe_internal(run, &text);
        break;
    case KVM_EXIT_SYSTEM_EVENT:
        text_add(&text, ", type %u", run->system_event.type);
        break;
    case KVM_EXIT_UNKNOWN:
        text_add(&text, ", hardware reason %" PRIx64,
                 (uint64_t)run->hw.hardware_exit_reason);
        break;
    default:
        break;
    }
    text_add(&text, "; interrupts %s", run->if_flag ? "enabled" : "disabled");
}
