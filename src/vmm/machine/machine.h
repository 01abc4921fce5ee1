/* SPDX-License-Identifier: MIT */
/*
 * The machine: everything that a config describes, assembled, and its power-on state. It
 * knows nothing of runs and outcomes; src/vmm/vm/vm.c drives it.
 */
#ifndef VMM_MACHINE_MACHINE_H
#define VMM_MACHINE_MACHINE_H

#include <umbra/umbra.h>

#include "backend/chardev/char_end.h"
#include "devices/bus.h"
#include "devices/device.h"
#include "devices/pci/pci.h"
#include "loop/loop.h"
#include "vcpu/probe.h"
#include "vcpu/vcpu.h"
#include "vmm/board/board.h"
#include "vmm/boot/boot.h"
#include "vmm/config/config.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/console.h"

struct virtio_device;

enum {
    MACHINE_MAX_DEVICES = 128,
    MACHINE_SERIAL_PORTS = 4,
    MACHINE_VIRTIO_PORTS = 30, /* as many consoles as a config may have */
    MACHINE_CONSOLES = MACHINE_SERIAL_PORTS + MACHINE_VIRTIO_PORTS,
};

/* What the machine tells its VM. */
struct machine_events {
    void (*device_event)(void *context, enum device_event_kind kind, uint32_t value);
    void (*vcpu_ended)(void *context, struct vcpu *vcpu, enum vcpu_end_kind kind,
                       const char *reason);
    void (*vcpu_debug)(void *context, struct vcpu *vcpu);
    bool (*vcpu_int3)(void *context, struct vcpu *vcpu, uint64_t pc);
    bool (*hook)(void *context, struct vcpu *vcpu, enum exit_key_kind kind,
                 uint64_t address, unsigned size, uint64_t *value, bool *fault);
    void (*observe)(void *context, const struct umbra_event *event);
    void (*fault_act)(void *context, const struct fault_action *action);
    void (*fault_fired)(void *context, const struct umbra_fault_event *event);
    int (*dirty_ring_full)(void *context);
    void (*ioapic_eoi)(void *context, unsigned vector);
    void (*console_panicked)(void *context);
    void *context;
};

struct machine {
    const struct umbra_config *config;
    const struct log *log;
    struct kvm kvm; /* open if has_kvm */
    bool has_kvm;
    struct cpu_model *model;
    struct board board;
    struct guest_mem *mem;
    struct loop *loop;
    struct bus *pio, *mmio;
    struct device_env env;
    struct faults *faults;
    struct device_observer observer;
    struct pci_host *pci;
    struct device *devices[MACHINE_MAX_DEVICES]; /* owned, in order of creation */
    unsigned device_count;
    struct virtio_device *virtio[MACHINE_MAX_DEVICES]; /* the devices' own */
    unsigned virtio_count;
    struct device *serial[MACHINE_SERIAL_PORTS];
    struct device *pm, *keyboard, *ioapic;        /* ioapic: NULL when it is KVM's */
    struct virtio_device *virtio_console, *vsock; /* NULL: none */
    struct console consoles[MACHINE_CONSOLES];    /* serial ports, then virtio ones */
    struct vcpu_set *vcpus;
    struct dirty_tracker *dirty;        /* NULL: off */
    uint64_t created_ns, created_ticks; /* clock_ns() and exit_clock() at creation */
    struct kvm_probe probe;             /* all zero where nothing needed probing */
    char *append;                       /* the command line after adaptation */
    struct boot_entry entry;            /* of the last load */
};

int machine_create(struct machine *machine, const struct umbra_config *config,
                   const struct machine_events *events, struct umbra_error *error);
/* Fine on a half-built or zeroed machine. */
void machine_destroy(struct machine *machine);

/* Load the guest and set the boot processor's state: after create and after each reset. */
int machine_load(struct machine *machine, struct umbra_error *error);
/* Power-on state: memory empty, devices and vCPUs reset. Everything must be paused. */
int machine_reset(struct machine *machine, struct umbra_error *error);

/* Hold and release devices and loop; the vCPUs are the caller's. */
void machine_pause_devices(struct machine *machine);
int machine_resume_devices(struct machine *machine, struct umbra_error *error);

/* Take @device over (also on failure) and put it on the board at @place; the kind BOARD_OTHER
 * is not described to the guest. */
int machine_place(struct machine *machine, struct device *device,
                  const struct board_device *place, struct umbra_error *error);

/* The parts list (devices.c): create and place every device of the config. */
int machine_create_devices(struct machine *machine, struct umbra_error *error);
/* What a port's end in the config is to a device; @console (or NULL) sees the output. */
struct char_end_config machine_char_end(const struct config_serial *serial,
                                        struct console *console);
/* The virtio part of it (virtio.c). */
int machine_create_virtio(struct machine *machine, struct umbra_error *error);
/* Give @vdev the transport that the config chose, and its place; taken over. */
int machine_add_virtio(struct machine *machine, struct virtio_device *vdev,
                       struct umbra_error *error);
/* Give the PCI BARs their addresses: after creation and each reset. */
int machine_assign_bars(struct machine *machine, struct umbra_error *error);

/* The virtio device of that name, or NULL. */
struct virtio_device *machine_virtio_device(struct machine *machine, const char *id);
struct device *machine_device(struct machine *machine, const char *id);

/* May a kernel print its last words on port @port (as in `consoles`)? COM1, and "hvc*". */
bool machine_is_console(const struct machine *machine, unsigned port);

#endif
