/* SPDX-License-Identifier: MIT */
/* The one table of configuration keys. */
#include "vmm/config/keys.h"

#include "base/suggest.h"
#include "base/util.h"
#include "devices/faults.h"
#include "vmm/board/board.h"
#include "vmm/config/config.h"

/* Where a member lives. */
#define IN(type, member)                                                                 \
    .offset = offsetof(struct type, member), .size = sizeof(((struct type *)0)->member)
#define COUNT(type, member)                                                              \
    .count_offset = offsetof(struct type, member),                                       \
    .count_size = sizeof(((struct type *)0)->member)
#define ROOT(member)       IN(umbra_config, member)
#define ROOT_COUNT(member) COUNT(umbra_config, member)
#define TABLE(array)                                                                     \
    {                                                                                    \
        .keys = array, .count = ARRAY_SIZE(array)                                        \
    }

static const char *const hugepage_names[] = { "auto", "off", "thp", "2M", "1G", NULL };
static const char *const dirty_names[] = { "off", "bitmap", "ring", NULL };
static const char *const irqchip_names[] = { "kernel", "split", NULL };
static const char *const paging_names[] = { "auto", "nested", "shadow", NULL };
static const char *const format_names[] = { "auto", "flat", NULL };
static const char *const decompress_names[] = { "host", "guest", NULL };
static const char *const reset_names[] = { "exit", "restart", NULL };
static const char *const transport_names[] = { "pci", "mmio", NULL };
static const char *const ring_names[] = { "packed", "split", NULL };
static const char *const disk_backend_names[] = { "file", "nbd", "vhost-user", NULL };
static const char *const cache_names[] = { "cached", "direct", NULL };
static const char *const overlay_names[] = { "none", "discard", "keep", NULL };
static const char *const net_backend_names[] = { "user", "tap", "unix", "vhost-user",
                                                 NULL };

static const struct config_key topology_keys[] = {
    { "sockets", NULL, CONFIG_KIND_UINT, ROOT(sockets), .min = 1, .max = BOARD_MAX_CPUS,
      .value = "N", .help = "processor packages", .example = "1" },
    { "cores", NULL, CONFIG_KIND_UINT, ROOT(cores), .min = 1, .max = BOARD_MAX_CPUS,
      .value = "N", .help = "cores in a package", .example = "2" },
    { "threads", NULL, CONFIG_KIND_UINT, ROOT(threads), .min = 1, .max = BOARD_MAX_CPUS,
      .value = "N", .help = "hardware threads in a core", .example = "1" },
};
static const struct config_table topology_table = TABLE(topology_keys);

static const struct config_key exit_keys[] = {
    { "hlt", NULL, CONFIG_KIND_BOOL, ROOT(exit_hlt), .value = "on|off",
      .help = "HLT exits (off: the vCPU idles on its host CPU)", .example = "on" },
    { "pause", NULL, CONFIG_KIND_BOOL, ROOT(exit_pause), .value = "on|off",
      .help = "PAUSE loops exit", .example = "on" },
    { "mwait", NULL, CONFIG_KIND_BOOL, ROOT(exit_mwait), .value = "on|off",
      .help = "MWAIT exits and is not offered (off: the guest runs it itself)",
      .example = "on" },
    { "bus_lock", NULL, CONFIG_KIND_BOOL, ROOT(bus_lock_exit), .value = "on|off",
      .help = "bus locks exit, where the host can", .example = "off" },
    { "notify_window", NULL, CONFIG_KIND_UINT, ROOT(notify_window), .max = UINT32_MAX,
      .value = "CYCLES",
      .help = "exit when the guest blocks events this long, where the host can; 0 is off",
      .example = "128000" },
};
static const struct config_table exit_table = TABLE(exit_keys);

static const struct config_key disk_keys[] = {
    { "path", NULL, CONFIG_KIND_PATH, .required = true, .unless = "vhost-user",
      IN(config_disk, path), .value = "FILE",
      .help = "image file, block device, NBD URI or vhost-user socket",
      .example = "root.img" },
    { "vhost-user", NULL, CONFIG_KIND_PATH, IN(config_disk, vhost_user),
      .value = "SOCKET", .help = "instead of path: the socket of a vhost-user back end",
      .example = "disk.sock" },
    { "id", NULL, CONFIG_KIND_STRING, IN(config_disk, id), .value = "NAME",
      .help = "names it in statistics and commands", .example = "root" },
    { "serial", NULL, CONFIG_KIND_STRING, IN(config_disk, serial), .value = "TEXT",
      .help = "serial number that the guest sees, up to 20 bytes", .example = "R00T" },
    { "backend", NULL, CONFIG_KIND_ENUM, IN(config_disk, backend),
      .names = disk_backend_names, .value = "file|nbd|vhost-user",
      .help = "who serves the disk", .example = "file" },
    { "readonly", NULL, CONFIG_KIND_BOOL, IN(config_disk, readonly), .value = "on|off",
      .help = "the guest cannot write", .example = "on" },
    { "cache", NULL, CONFIG_KIND_ENUM, IN(config_disk, direct), .names = cache_names,
      .value = "cached|direct", .help = "through the host's page cache or past it",
      .example = "direct" },
    { "poll", NULL, CONFIG_KIND_BOOL, IN(config_disk, poll), .value = "on|off",
      .help = "poll for completions (costs CPU, saves latency)", .example = "off" },
    { "overlay", NULL, CONFIG_KIND_ENUM, IN(config_disk, overlay), .names = overlay_names,
      .value = "none|discard|keep",
      .help = "write to a copy-on-write overlay: thrown away at exit, or kept",
      .example = "discard" },
    { "overlay_path", NULL, CONFIG_KIND_PATH, IN(config_disk, overlay_path),
      .value = "FILE", .help = "the overlay's file", .example = "root.overlay" },
    { "size", NULL, CONFIG_KIND_SIZE, IN(config_disk, size), .max = UINT64_C(1) << 50,
      .value = "SIZE",
      .help = "the overlay's disk is at least so large; behind its base it is zeroes",
      .example = "20G" },
    { "queues", NULL, CONFIG_KIND_UINT, IN(config_disk, queues), .min = 1, .max = 64,
      .value = "N", .help = "virtqueues", .example = "2" },
    { "queue_size", NULL, CONFIG_KIND_UINT, IN(config_disk, queue_size), .min = 2,
      .max = 32768, .value = "N", .help = "entries in a virtqueue, a power of two",
      .example = "256" },
    { "block_size", NULL, CONFIG_KIND_UINT, IN(config_disk, block_size), .min = 512,
      .max = 65536, .value = "BYTES", .help = "logical block size, a power of two",
      .example = "512" },
    { "physical_block_size", NULL, CONFIG_KIND_UINT, IN(config_disk, physical_block_size),
      .min = 512, .max = 1048576, .value = "BYTES",
      .help = "physical block size, a power of two", .example = "4096" },
    { "reconnect", NULL, CONFIG_KIND_DURATION, IN(config_disk, reconnect_ms),
      .max = 86400000, .value = "TIME",
      .help = "how long requests wait for a vhost-user back end that went away, before "
              "they fail; default 30s",
      .example = "30s" },
};

static void disk_init(void *element)
{
    struct config_disk *disk = element;

    disk->queues = 1;
    disk->queue_size = 256;
    disk->block_size = 512;
    disk->physical_block_size = 512;
    disk->reconnect_ms = 30000;
}

static const struct config_table disk_table = {
    .keys = disk_keys,
    .count = ARRAY_SIZE(disk_keys),
    .element_size = sizeof(struct config_disk),
    .init = disk_init,
    .positional = "path",
};

static const struct config_key net_keys[] = {
    { "backend", NULL, CONFIG_KIND_ENUM, IN(config_net, backend),
      .names = net_backend_names, .value = "user|tap|unix|vhost-user",
      .help =
          "user (rootless, the default), tap, unix (passt, other monitors), vhost-user",
      .example = "user" },
    { "id", NULL, CONFIG_KIND_STRING, IN(config_net, id), .value = "NAME",
      .help = "names it in statistics and commands", .example = "lan" },
    { "tap", NULL, CONFIG_KIND_STRING, IN(config_net, tap), .value = "NAME",
      .help = "host tap interface; implies backend=tap", .example = "tap0" },
    { "fd", NULL, CONFIG_KIND_INT, IN(config_net, fd), .max = 1048576, .value = "N",
      .help = "inherited descriptor of a tap or a unix stream", .example = "5" },
    { "path", NULL, CONFIG_KIND_PATH, IN(config_net, path), .value = "SOCKET",
      .help = "socket of unix and vhost-user", .example = "passt.sock" },
    { "vhost-user", NULL, CONFIG_KIND_PATH, IN(config_net, vhost_user), .value = "SOCKET",
      .help = "the socket of a vhost-user back end; implies the backend",
      .example = "switch.sock" },
    { "forward", NULL, CONFIG_KIND_FORWARDS, IN(config_net, forwards),
      COUNT(config_net, forward_count), .max = 64,
      .value = "tcp|udp:[HOST:]PORT:[GUEST:]PORT",
      .help = "forward a host port (of 127.0.0.1 unless HOST) to the guest; repeatable",
      .example = "tcp:2222:22" },
    { "restricted", NULL, CONFIG_KIND_BOOL, IN(config_net, restricted), .value = "on|off",
      .help = "no way out but the forwards (user)", .example = "on" },
    { "vhost", NULL, CONFIG_KIND_BOOL, IN(config_net, vhost), .value = "on|off",
      .help = "let the host kernel move the packets (tap)", .example = "on" },
    { "queues", NULL, CONFIG_KIND_UINT, IN(config_net, queues), .min = 1, .max = 64,
      .value = "N", .help = "pairs of virtqueues", .example = "2" },
    { "queue_size", NULL, CONFIG_KIND_UINT, IN(config_net, queue_size), .min = 2,
      .max = 32768, .value = "N", .help = "entries in a virtqueue, a power of two",
      .example = "256" },
    { "mtu", NULL, CONFIG_KIND_UINT, IN(config_net, mtu), .min = 68, .max = 65535,
      .value = "BYTES", .help = "MTU that the guest is told", .example = "1500" },
    { "mac", NULL, CONFIG_KIND_MAC, IN(config_net, mac), .value = "XX:XX:XX:XX:XX:XX",
      .help = "the guest's address; made up when absent",
      .example = "52:54:00:12:34:56" },
};

static void net_init(void *element)
{
    struct config_net *net = element;

    net->fd = -1;
    net->queues = 1;
    net->queue_size = 256;
    net->mtu = 1500;
}

static const struct config_table net_table = {
    .keys = net_keys,
    .count = ARRAY_SIZE(net_keys),
    .element_size = sizeof(struct config_net),
    .init = net_init,
    .positional = "backend",
};

static const struct config_key share_keys[] = {
    { "tag", NULL, CONFIG_KIND_STRING, .required = true, IN(config_share, tag),
      .value = "TAG", .help = "what the guest mounts: mount -t virtiofs TAG /mnt",
      .example = "src" },
    { "path", NULL, CONFIG_KIND_PATH, IN(config_share, path), .value = "FOLDER",
      .help = "host folder; umbra starts virtiofsd for it", .example = "/srv/src" },
    { "socket", NULL, CONFIG_KIND_PATH, IN(config_share, socket), .value = "SOCKET",
      .help = "vhost-user socket of a running virtiofsd, instead of path",
      .example = "fs.sock" },
    { "readonly", NULL, CONFIG_KIND_BOOL, IN(config_share, readonly), .value = "on|off",
      .help = "the guest cannot write", .example = "on" },
};
static const struct config_table share_table = {
    .keys = share_keys,
    .count = ARRAY_SIZE(share_keys),
    .element_size = sizeof(struct config_share),
    .positional = "path",
};

static const struct config_key console_keys[] = {
    { "name", NULL, CONFIG_KIND_STRING, .required = true, IN(config_console, name),
      .value = "NAME", .help = "port name in the guest (/dev/virtio-ports/NAME)",
      .example = "agent" },
    { "end", NULL, CONFIG_KIND_END, IN(config_console, end), .value = "END",
      .help = "none, stdio, pty, file:PATH, unix:PATH or fd:N",
      .example = "unix:agent.sock" },
};
static const struct config_table console_table = {
    .keys = console_keys,
    .count = ARRAY_SIZE(console_keys),
    .element_size = sizeof(struct config_console),
    .positional = "name",
};

static const struct config_key rng_keys[] = {
    { "rate", NULL, CONFIG_KIND_SIZE, ROOT(rng_rate), .max = UINT64_C(1) << 40,
      .value = "SIZE", .help = "bytes a second at most; 0 is unlimited",
      .example = "64K" },
};
static const struct config_table rng_table = TABLE(rng_keys);

static const struct config_key balloon_keys[] = {
    { "target", NULL, CONFIG_KIND_SIZE, ROOT(balloon_target), .max = UINT64_C(1) << 44,
      .value = "SIZE", .help = "memory that the guest lends to the host from the start",
      .example = "64M" },
    { "deflate_on_oom", NULL, CONFIG_KIND_BOOL, ROOT(balloon_deflate_on_oom),
      .value = "on|off",
      .help = "the guest takes pages back rather than killing processes",
      .example = "on" },
    { "reporting", NULL, CONFIG_KIND_BOOL, ROOT(balloon_reporting), .value = "on|off",
      .help = "free pages go back to the host by themselves", .example = "on" },
    { "stats", NULL, CONFIG_KIND_DURATION, ROOT(balloon_stats_ms),
      .max = UINT64_C(1000) * 3600 * 24, .value = "TIME",
      .help = "ask the guest for its memory statistics this often; else only on request",
      .example = "5s" },
};
static const struct config_table balloon_table = TABLE(balloon_keys);

static const struct config_key vsock_keys[] = {
    { "cid", NULL, CONFIG_KIND_UINT, .required = true, ROOT(vsock_cid), .min = 3,
      .max = UINT32_MAX - 1, .value = "N", .help = "the guest's context id",
      .example = "3" },
    { "path", NULL, CONFIG_KIND_PATH, ROOT(vsock_path), .value = "SOCKET",
      .help = "host unix socket; guest port P connects to SOCKET_P",
      .example = "vsock.sock" },
    { "connections", NULL, CONFIG_KIND_UINT, ROOT(vsock_connections), .min = 1,
      .max = 4096, .value = "N", .help = "how many at once; default 256",
      .example = "64" },
};
static const struct config_table vsock_table = TABLE(vsock_keys);

static const char *const fault_names[] = { "io-error",    "short",      "delay",
                                           "drop",        "duplicate",  "corrupt",
                                           "link-flap",   "irq-lost",   "irq-spurious",
                                           "memory-gone", "clock-jump", NULL };
static const char *const direction_names[] = { "any", "in", "out", NULL };
static const char *const clock_names[] = { "all", "rtc", "kvm", "tsc", NULL };

_Static_assert(ARRAY_SIZE(fault_names) == FAULT_KIND_COUNT + 1, "a name for each kind");

static const struct config_key fault_keys[] = {
    { "fault", NULL, CONFIG_KIND_ENUM, .required = true, IN(config_fault, kind),
      .names = fault_names, .value = "KIND", .help = "what goes wrong",
      .example = "io-error" },
    { "device", NULL, CONFIG_KIND_STRING, .required = true, IN(config_fault, device),
      .value = "NAME", .help = "where: disk0, net0, rng, consoles, com1, rtc, an id, ...",
      .example = "disk0" },
    { "seed", NULL, CONFIG_KIND_UINT, IN(config_fault, seed), .max = INT64_MAX,
      .value = "N", .help = "the same seed hits the same opportunities",
      .example = "42" },
    { "skip", NULL, CONFIG_KIND_UINT, IN(config_fault, skip), .max = INT64_MAX,
      .value = "N", .help = "this many opportunities pass first", .example = "100" },
    { "one_in", NULL, CONFIG_KIND_UINT, IN(config_fault, one_in), .min = 1,
      .max = INT64_MAX, .value = "N", .help = "one opportunity in so many is hit",
      .example = "10" },
    { "count", NULL, CONFIG_KIND_UINT, IN(config_fault, count), .max = INT64_MAX,
      .value = "N", .help = "at most so many times; 0 is without end", .example = "3" },
    { "direction", NULL, CONFIG_KIND_ENUM, IN(config_fault, direction),
      .names = direction_names, .value = "any|in|out",
      .help = "in: reads, received frames; out: writes, sent frames", .example = "in" },
    { "delay", NULL, CONFIG_KIND_DURATION, IN(config_fault, delay_ms), .max = 3600000,
      .value = "TIME", .help = "how late; how long the link is down", .example = "20ms" },
    { "bytes", NULL, CONFIG_KIND_SIZE, IN(config_fault, bytes), .max = UINT64_C(1) << 46,
      .value = "SIZE",
      .help = "short: how much moves (by the seed if not given); memory-gone: its size",
      .example = "512" },
    { "address", NULL, CONFIG_KIND_SIZE, IN(config_fault, address),
      .max = UINT64_C(1) << 46, .value = "ADDRESS",
      .help = "memory-gone: guest-physical, of whole pages", .example = "0x2000000" },
    { "clock", NULL, CONFIG_KIND_ENUM, IN(config_fault, clock), .names = clock_names,
      .value = "all|rtc|kvm|tsc", .help = "which clock jumps", .example = "rtc" },
    { "jump", NULL, CONFIG_KIND_DURATION, IN(config_fault, jump_ms),
      .max = UINT64_C(3155760000000), .value = "TIME", .help = "how far the clock jumps",
      .example = "1h" },
    { "back", NULL, CONFIG_KIND_BOOL, IN(config_fault, back), .value = "on|off",
      .help = "it jumps back", .example = "on" },
};

static void fault_init(void *element)
{
    struct config_fault *fault = element;

    fault->one_in = 1;
}

static const struct config_table fault_table = {
    .keys = fault_keys,
    .count = ARRAY_SIZE(fault_keys),
    .element_size = sizeof(struct config_fault),
    .init = fault_init,
    .positional = "fault",
};

/* The order here is the order of --help and the manual. */
static const struct config_key root_keys[] = {
    { "name", "name", CONFIG_KIND_STRING, ROOT(name), .value = "NAME",
      .help = "names the VM in messages and thread names", .example = "web" },
    { "kernel", "kernel", CONFIG_KIND_PATH, ROOT(kernel), .value = "FILE",
      .help = "bzImage, vmlinux, PVH or multiboot ELF, or flat binary; told by content",
      .example = "vmlinuz" },
    { "initrd", "initrd", CONFIG_KIND_PATH, ROOT(initrd), .value = "FILE",
      .help = "initial RAM disk (multiboot: the first module)", .example = "initrd.img" },
    { "append", "append", CONFIG_KIND_STRING, ROOT(append), .value = "TEXT",
      .help = "the kernel's command line", .example = "console=ttyS0" },
    { "kernel_format", "kernel-format", CONFIG_KIND_ENUM, ROOT(kernel_format),
      .names = format_names, .value = "auto|flat",
      .help = "flat: no header, loaded at kernel_load", .example = "flat" },
    { "kernel_load", "kernel-load", CONFIG_KIND_SIZE, ROOT(kernel_load),
      .max = UINT64_C(1) << 46, .value = "ADDRESS",
      .help = "where a flat binary is loaded", .example = "0x100000" },
    { "kernel_entry", "kernel-entry", CONFIG_KIND_SIZE, ROOT(kernel_entry),
      .max = UINT64_C(1) << 46, .value = "ADDRESS",
      .help = "where a flat binary is entered", .example = "0x100000" },
    { "decompress", "decompress", CONFIG_KIND_ENUM, ROOT(decompress_in_guest),
      .names = decompress_names, .value = "host|guest",
      .help = "who unpacks a bzImage: umbra, or the kernel's own stub",
      .example = "guest" },
    { "demo", "demo", CONFIG_KIND_BOOL, ROOT(demo), .value = "on|off",
      .help = "boot the built-in demo guest instead of a kernel", .example = "on" },

    { "memory", "memory", CONFIG_KIND_SIZE, ROOT(memory), .min = MIB,
      .max = UINT64_C(1) << 44, .value = "SIZE",
      .help = "RAM, taken from the host when touched; default 256M", .example = "512M" },
    { "hugepages", "hugepages", CONFIG_KIND_ENUM, ROOT(memory_options.backing),
      .names = hugepage_names, .value = "auto|off|thp|2M|1G",
      .help = "back RAM with huge pages; default auto: transparent ones where the host "
              "has them and no other process shares the RAM",
      .example = "thp" },
    { "prefault", "prefault", CONFIG_KIND_BOOL, ROOT(memory_options.prefault),
      .value = "on|off", .help = "take all RAM at start", .example = "on" },
    { "mergeable", "mergeable", CONFIG_KIND_BOOL, ROOT(memory_options.mergeable),
      .value = "on|off", .help = "offer RAM to the host's same-page merging (KSM)",
      .example = "on" },
    { "locked", "locked", CONFIG_KIND_BOOL, ROOT(memory_options.locked),
      .value = "on|off", .help = "lock RAM in host memory", .example = "on" },
    { "dirty", "dirty", CONFIG_KIND_ENUM, ROOT(dirty), .names = dirty_names,
      .value = "off|bitmap|ring", .help = "track pages that the guest writes",
      .example = "ring" },

    { "cpus", "cpus", CONFIG_KIND_UINT, ROOT(cpus), .min = 1, .max = BOARD_MAX_CPUS,
      .value = "N", .help = "virtual CPUs; default 1", .example = "2" },
    { "topology", "topology", CONFIG_KIND_OBJECT, .table = &topology_table,
      .value = "sockets=N,cores=N,threads=N",
      .help = "how the CPUs are grouped; default one socket of cores",
      .example = "sockets=1,cores=2,threads=1" },
    { "features", "cpu-features", CONFIG_KIND_STRINGS, ROOT(features),
      ROOT_COUNT(feature_count), .max = 256, .value = "[+-]NAME,...",
      .help = "add or mask CPU features by their Linux name",
      .example = "-avx512f,+x2apic" },
    { "irqchip", "irqchip", CONFIG_KIND_ENUM, ROOT(split_irqchip), .names = irqchip_names,
      .value = "kernel|split",
      .help = "interrupt controllers in KVM, or only its local APICs",
      .example = "split" },
    { "pit", "pit", CONFIG_KIND_NOT, ROOT(no_pit), .value = "on|off",
      .help = "the 8254 timer", .example = "off" },
    { "exits", "exits", CONFIG_KIND_OBJECT, .table = &exit_table,
      .value = "hlt=on|off,...", .help = "what makes the guest exit",
      .example = "hlt=off,pause=off" },
    { "paging", "paging", CONFIG_KIND_ENUM, ROOT(paging), .names = paging_names,
      .value = "auto|nested|shadow", .help = "refuse to run unless KVM pages this way",
      .example = "nested" },
    { "acpi", "acpi", CONFIG_KIND_NOT, ROOT(no_acpi), .value = "on|off",
      .help = "ACPI tables", .example = "off" },
    { "fdt", "fdt", CONFIG_KIND_BOOL, ROOT(fdt), .value = "on|off",
      .help = "hand the kernel a device tree too", .example = "on" },
    { "adapt", "adapt", CONFIG_KIND_NOT, ROOT(no_adapt), .value = "on|off",
      .help = "add what this host's KVM needs to a Linux command line; on by default",
      .example = "off" },

    { "serial", "serial", CONFIG_KIND_ENDS, ROOT(serial), ROOT_COUNT(serial_count),
      .max = 4, .value = "END[,END...]",
      .help = "COM1 to COM4: none, stdio, pty, file:PATH, unix:PATH or fd:N",
      .example = "stdio" },
    { "debug_port", "debug-port", CONFIG_KIND_END, ROOT(debug_port), .value = "END",
      .help = "where bytes written to port 0xe9 go", .example = "file:debug.log" },

    { "disks", "disk", CONFIG_KIND_LIST, ROOT(disks), ROOT_COUNT(disk_count), .max = 64,
      .table = &disk_table, .value = "path=FILE[,...]", .help = "a virtio disk",
      .example = "path=root.img,readonly,cache=direct,overlay=discard" },
    { "net", "net", CONFIG_KIND_LIST, ROOT(nets), ROOT_COUNT(net_count), .max = 32,
      .table = &net_table, .value = "BACKEND[,...]", .help = "a virtio network interface",
      .example = "user,forward=tcp:2222:22" },
    { "share", "share", CONFIG_KIND_LIST, ROOT(shares), ROOT_COUNT(share_count),
      .max = 32, .table = &share_table, .value = "path=FOLDER,tag=TAG",
      .help = "a host folder through virtiofs", .example = "path=/srv/src,tag=src" },
    { "consoles", "console", CONFIG_KIND_LIST, ROOT(consoles), ROOT_COUNT(console_count),
      .max = 30, .table = &console_table, .value = "name=NAME,end=END",
      .help = "a virtio console port", .example = "name=agent,end=unix:agent.sock" },
    { "rng", "rng", CONFIG_KIND_SWITCH, ROOT(rng), .table = &rng_table,
      .value = "on|rate=SIZE", .help = "a virtio source of random numbers",
      .example = "rate=64K" },
    { "balloon", "balloon", CONFIG_KIND_SWITCH, ROOT(balloon), .table = &balloon_table,
      .value = "on|target=SIZE,deflate_on_oom,reporting,stats=TIME",
      .help = "a virtio memory balloon",
      .example = "target=64M,deflate_on_oom,reporting,stats=5s" },
    { "vsock", "vsock", CONFIG_KIND_OBJECT, .table = &vsock_table,
      .value = "cid=N,path=SOCKET", .help = "virtio sockets between guest and host",
      .example = "cid=3,path=vsock.sock" },
    { "virtio_transport", "virtio-transport", CONFIG_KIND_ENUM, ROOT(virtio_mmio),
      .names = transport_names, .value = "pci|mmio",
      .help = "how the guest finds its virtio devices", .example = "mmio" },
    { "virtio_ring", "virtio-ring", CONFIG_KIND_ENUM, ROOT(virtio_split),
      .names = ring_names, .value = "packed|split",
      .help = "ring formats offered: both, or split rings alone", .example = "split" },

    { "faults", "fault", CONFIG_KIND_LIST, ROOT(faults), ROOT_COUNT(fault_count),
      .max = FAULT_RULES_MAX, .table = &fault_table, .value = "KIND,device=NAME[,...]",
      .help = "a fault to inject, again at each run with the same seed",
      .example = "io-error,device=disk0,one_in=10,seed=42" },
    { "timeout", "timeout", CONFIG_KIND_DURATION, ROOT(timeout_ms),
      .max = UINT64_C(1000) * 3600 * 24 * 365, .value = "TIME",
      .help = "end the run after this long (90s, 500ms, 5m, 2h); exit status 124",
      .example = "90s" },
    { "on_reset", "on-reset", CONFIG_KIND_ENUM, ROOT(on_reset), .names = reset_names,
      .value = "exit|restart", .help = "what a guest's reset does",
      .example = "restart" },
    { "stats", "stats", CONFIG_KIND_PATH, ROOT(stats_path), .value = "FILE",
      .help = "write statistics as JSON at the end; - is stderr",
      .example = "stats.json" },
    { "symbols", "symbols", CONFIG_KIND_PATH, ROOT(symbols), .value = "FILE",
      .help = "names for reports, instead of the kernel's own: a vmlinux or other ELF",
      .example = "vmlinux" },
    { "gdb", "gdb", CONFIG_KIND_STRING, ROOT(gdb), .value = "PORT|unix:PATH",
      .help = "listen for a debugger", .example = "1234" },
    { "gdb_wait", "gdb-wait", CONFIG_KIND_BOOL, ROOT(gdb_wait), .value = "on|off",
      .help = "do not start before it has come", .example = "on" },
    { "kvm", "kvm", CONFIG_KIND_PATH, ROOT(kvm_path), .value = "DEVICE",
      .help = "the KVM device; default /dev/kvm", .example = "/dev/kvm" },
};

const struct config_table config_root = TABLE(root_keys);

_Static_assert(ARRAY_SIZE(root_keys) <= CONFIG_KEYS_MAX, "raise CONFIG_KEYS_MAX");

bool config_key_missing(const struct config_table *table, size_t index, const bool *given)
{
    const struct config_key *key = &table->keys[index];

    if (!key->required || given[index]) {
        return false;
    }
    for (size_t i = 0; key->unless != NULL && i < table->count; i++) {
        if (given[i] && strcmp(table->keys[i].name, key->unless) == 0) {
            return false;
        }
    }
    return true;
}

const struct config_key *config_key_find(const struct config_table *table,
                                         const char *name)
{
    for (size_t i = 0; i < table->count; i++) {
        const struct config_key *key = &table->keys[i];

        if (strcmp(key->name, name) == 0 ||
            (key->option != NULL && strcmp(key->option, name) == 0)) {
            return key;
        }
    }
    return NULL;
}

const char *config_key_suggest(const struct config_table *table, const char *name)
{
    struct suggest suggest;

    suggest_start(&suggest, name);
    for (size_t i = 0; i < table->count; i++) {
        suggest_offer(&suggest, table->keys[i].name);
    }
    return suggest_best(&suggest);
}

const char *config_name_suggest(const char *const *names, const char *name)
{
    return umbra_nearest(name, names);
}
