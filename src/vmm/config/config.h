/* SPDX-License-Identifier: MIT */
/*
 * The configuration of a VM as plain data, and its one table of keys: the JSON parser,
 * the launcher's options, --help, configs/schema.json and the man page all follow that
 * table.
 */
#ifndef VMM_CONFIG_CONFIG_H
#define VMM_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <umbra/umbra.h>

#include "base/log.h"
#include "memory/guest_mem.h"

enum config_serial_kind {
    CONFIG_SERIAL_NONE,  /* the port exists, output is dropped */
    CONFIG_SERIAL_STDIO, /* the embedder's console callbacks; the launcher's terminal */
    CONFIG_SERIAL_FILE,  /* "file:PATH": output goes there; truncated at start */
    CONFIG_SERIAL_PTY,  /* "pty": a new pseudo-terminal, its name in the log and status */
    CONFIG_SERIAL_UNIX, /* "unix:PATH": a listening stream socket, one client at a time */
    CONFIG_SERIAL_FD,   /* "fd:N": an inherited descriptor */
};

struct config_serial {
    enum config_serial_kind kind;
    char *path;
    int fd;
};

enum config_kernel_format {
    CONFIG_KERNEL_AUTO, /* recognised from the file */
    CONFIG_KERNEL_FLAT, /* kernel_load and kernel_entry say where */
};

enum config_paging { CONFIG_PAGING_AUTO, CONFIG_PAGING_NESTED, CONFIG_PAGING_SHADOW };

enum config_on_reset { CONFIG_ON_RESET_EXIT, CONFIG_ON_RESET_RESTART };

enum config_dirty { CONFIG_DIRTY_OFF, CONFIG_DIRTY_BITMAP, CONFIG_DIRTY_RING };

struct config_disk {
    char *id, *path, *serial, *overlay_path;
    char *vhost_user; /* becomes backend and path */
    enum { CONFIG_DISK_FILE, CONFIG_DISK_NBD, CONFIG_DISK_VHOST_USER } backend;
    bool readonly, direct, poll;
    enum { CONFIG_OVERLAY_NONE, CONFIG_OVERLAY_DISCARD, CONFIG_OVERLAY_KEEP } overlay;
    unsigned queues, queue_size;
    unsigned block_size, physical_block_size;
    uint64_t size;         /* of an overlay, at least; 0: its own or the base's */
    uint64_t reconnect_ms; /* vhost-user: requests wait so long for a back end */
};

struct config_forward {
    bool udp;
    char host_address[46], guest_address[46];
    uint16_t host_port, guest_port;
};

struct config_net {
    char *id;
    enum {
        CONFIG_NET_USER,
        CONFIG_NET_TAP,
        CONFIG_NET_UNIX,
        CONFIG_NET_VHOST_USER
    } backend;
    char *tap, *path;
    char *vhost_user; /* becomes backend and path */
    int fd;           /* -1: none */
    bool vhost;
    unsigned queues, queue_size, mtu;
    uint8_t mac[6]; /* all zero: made up */
    struct config_forward *forwards;
    size_t forward_count;
    bool restricted; /* user: no access to the world but the forwards */
};

struct config_share {
    char *tag, *path, *socket;
    bool readonly;
};

struct config_console { /* a virtio-console port */
    char *name;
    struct config_serial end;
};

struct config_fault {
    unsigned kind; /* enum umbra_fault_kind */
    char *device;
    uint64_t seed, skip, one_in, count;
    unsigned direction; /* enum umbra_fault_direction */
    uint64_t delay_ms, bytes, address;
    enum { CONFIG_CLOCK_ALL, CONFIG_CLOCK_RTC, CONFIG_CLOCK_KVM, CONFIG_CLOCK_TSC } clock;
    uint64_t jump_ms;
    bool back;
};

struct umbra_config {
    char *name;
    char *file; /* where it was read from, for messages; NULL for built ones */

    uint64_t memory; /* bytes, a multiple of 4 KiB */
    struct guest_mem_options memory_options;
    enum config_dirty dirty;
    unsigned cpus, sockets, cores, threads; /* 0: derived */
    char **features;                        /* "-avx512f", "+x2apic" */
    size_t feature_count;
    bool split_irqchip, no_pit;
    bool exit_hlt, exit_pause,
        exit_mwait; /* make these exit; default: hlt and pause do */
    bool bus_lock_exit;
    uint32_t notify_window; /* 0: off; cycles */
    enum config_paging paging;

    char *kernel, *initrd, *append;
    enum config_kernel_format kernel_format;
    uint64_t kernel_load, kernel_entry; /* for flat */
    bool decompress_in_guest;
    bool no_acpi, fdt; /* fdt: hand an FDT over through setup_data */
    bool no_adapt;     /* leave the command line alone where CPUID masks do not apply */
    bool demo;         /* boot the embedded guest instead of a kernel */

    struct config_serial serial[4];
    unsigned serial_count;           /* by default one: stdio */
    struct config_serial debug_port; /* 0xe9 */

    struct config_disk *disks;
    size_t disk_count;
    struct config_net *nets;
    size_t net_count;
    struct config_share *shares;
    size_t share_count;
    struct config_console *consoles;
    size_t console_count;
    bool virtio_mmio;
    bool virtio_split; /* packed rings are not offered */
    bool rng;
    uint64_t rng_rate; /* bytes a second, 0: unlimited */
    bool balloon, balloon_deflate_on_oom, balloon_reporting;
    uint64_t balloon_target;   /* bytes to have in it at the start */
    uint64_t balloon_stats_ms; /* between statistics, 0: when asked */
    uint32_t vsock_cid;        /* 0: none */
    char *vsock_path;
    uint32_t vsock_connections; /* 0: the default */

    struct config_fault *faults;
    size_t fault_count;

    uint64_t timeout_ms; /* 0: none */
    enum config_on_reset on_reset;
    char *stats_path;
    char *symbols; /* a file that names the kernel's addresses; NULL: its own */
    char *gdb;     /* "PORT" or "unix:PATH" */
    bool gdb_wait;
    char *kvm_path; /* the KVM device, never NULL: "/dev/kvm" */

    struct log log;

    struct config_origins *origins; /* where each value came from, for messages */
};

/* Does something in it need guest RAM that other processes can map? */
bool config_needs_shared_memory(const struct umbra_config *config);

/* Every string and array freed, the struct itself too. */
void config_destroy(struct umbra_config *config);

/* A deep copy for the VM to own. */
int config_copy(const struct umbra_config *config, struct umbra_config **copy);

#endif
