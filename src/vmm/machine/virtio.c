/* SPDX-License-Identifier: MIT */
/* The machine's virtio devices: back end, device and transport for each the config names. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_config.h>

#include "backend/disk/disk.h"
#include "backend/net/net.h"
#include "base/error.h"
#include "virtio/registry.h"
#include "virtio/transport/transport.h"
#include "vmm/machine/machine.h"

enum { VIRTIO_MMIO_STRIDE = 0x1000, VIRTIO_MMIO_GSIS = 4 };

/* Behind PCI, or at the next free address of the board. */
static int machine_add_virtio_mmio(struct machine *machine, struct virtio_device *vdev,
                                   struct umbra_error *error)
{
    struct board_device place = { .kind = BOARD_VIRTIO_MMIO,
                                  .space = BOARD_MMIO,
                                  .size = VIRTIO_MMIO_SIZE };
    struct device *device;
    unsigned index = 0;
    int ret;

    for (unsigned i = 0; i < machine->board.device_count; i++) {
        index += machine->board.devices[i].kind == BOARD_VIRTIO_MMIO;
    }
    place.base = BOARD_VIRTIO_BASE + (uint64_t)index * VIRTIO_MMIO_STRIDE;
    place.gsi = BOARD_VIRTIO_GSI + (int)(index % VIRTIO_MMIO_GSIS);
    ret = virtio_mmio_create(&machine->env, (unsigned)place.gsi, vdev, &device, error);
    if (ret == 0) {
        ret = machine_place(machine, device, &place, error);
    }
    if (ret == 0) {
        virtio_mmio_placed(device, place.base);
    }
    return ret;
}

static int machine_connect_virtio(struct machine *machine, struct virtio_device *vdev,
                                  struct umbra_error *error)
{
    static const struct board_device nowhere = { .kind = BOARD_OTHER,
                                                 .space = BOARD_MMIO,
                                                 .gsi = -1 };
    struct pci_function *function;
    int ret;

    if (machine->config->virtio_split) {
        vdev->offered &= ~VIRTIO_FEATURE(VIRTIO_F_RING_PACKED);
    }
    if (machine->config->virtio_mmio) {
        return machine_add_virtio_mmio(machine, vdev, error);
    }
    ret = virtio_pci_create(&machine->env, vdev, &function, error);
    if (ret == 0) {
        ret = machine_place(machine, &function->device, &nowhere, error);
    }
    return ret == 0 ? pci_host_add(machine->pci, function, 0, error) : ret;
}

int machine_add_virtio(struct machine *machine, struct virtio_device *vdev,
                       struct umbra_error *error)
{
    int ret = machine_connect_virtio(machine, vdev, error);

    if (ret == 0 && machine->virtio_count < MACHINE_MAX_DEVICES) {
        machine->virtio[machine->virtio_count++] = vdev;
    }
    return ret;
}

struct virtio_device *machine_virtio_device(struct machine *machine, const char *id)
{
    for (unsigned i = 0; i < machine->virtio_count; i++) {
        if (strcmp(machine->virtio[i]->id, id) == 0) {
            return machine->virtio[i];
        }
    }
    return NULL;
}

/* ---- Disks ---------------------------------------------------------------------------- */

static int machine_open_disk(struct machine *machine, const struct config_disk *config,
                             struct disk **disk, struct umbra_error *error)
{
    const struct disk_file_options file = {
        .path = config->path,
        .readonly = config->readonly || config->overlay != CONFIG_OVERLAY_NONE,
        .direct = config->direct,
        .block_size = config->block_size,
        .physical_block_size = config->physical_block_size,
    };
    const struct disk_overlay_options overlay = {
        .path = config->overlay == CONFIG_OVERLAY_KEEP ? config->overlay_path : NULL,
        .size = config->size,
    };
    int ret;

    switch (config->backend) {
    case CONFIG_DISK_FILE:
        ret = disk_file_open(&file, machine->log, disk, error);
        break;
    case CONFIG_DISK_NBD:
        ret = disk_nbd_open(config->path, file.readonly, machine->log, disk, error);
        break;
    default:
        return -EINVAL; /* not a disk that we open */
    }
    if (ret == 0 && config->overlay != CONFIG_OVERLAY_NONE) {
        ret = disk_overlay_open(*disk, &overlay, machine->log, disk, error);
    }
    return ret;
}

static int machine_add_remote_disk(struct machine *machine,
                                   const struct config_disk *config, const char *id,
                                   struct umbra_error *error)
{
    const struct vhost_user_blk_options options = { .id = id,
                                                    .socket = config->path,
                                                    .readonly = config->readonly,
                                                    .queues = config->queues,
                                                    .queue_size = config->queue_size,
                                                    .patience_ms = config->reconnect_ms };
    struct virtio_device *vdev;
    int ret = vhost_user_blk_create(&machine->env, &options, &vdev, error);

    return ret == 0 ? machine_add_virtio(machine, vdev, error) : ret;
}

static int machine_add_disk(struct machine *machine, unsigned index,
                            struct umbra_error *error)
{
    const struct config_disk *config = &machine->config->disks[index];
    struct virtio_blk_options options = {
        .serial = config->serial,
        .queues = config->queues,
        .queue_size = config->queue_size,
        .poll = config->poll,
    };
    struct virtio_device *vdev;
    struct disk *disk;
    char id[32];
    int ret;

    snprintf(id, sizeof(id), "disk%u", index);
    options.id = config->id != NULL ? config->id : id;
    if (config->backend == CONFIG_DISK_VHOST_USER) {
        return machine_add_remote_disk(machine, config, options.id, error);
    }
    ret = machine_open_disk(machine, config, &disk, error);
    if (ret == 0) {
        ret = virtio_blk_create(&machine->env, &options, disk, &vdev, error);
    }
    return ret == 0 ? machine_add_virtio(machine, vdev, error) : ret;
}

/* ---- Networks ------------------------------------------------------------------------- */

static uint32_t hash_text(uint32_t hash, const char *text)
{
    for (; text != NULL && *text != '\0'; text++) {
        hash = (hash ^ (uint8_t)*text) * 16777619u; /* FNV-1a */
    }
    return (hash ^ 0xff) * 16777619u;
}

/*
 * The same at every start, and different for guests that may meet: the VM's name tells
 * them apart, or else the tap or socket, which no two guests share.
 */
static void machine_make_mac(const struct umbra_config *config, unsigned index,
                             uint8_t mac[6])
{
    const struct config_net *net = &config->nets[index];
    uint32_t hash = hash_text(2166136261u, config->name);

    if (memcmp(net->mac, (const uint8_t[6]){ 0 }, 6) != 0) {
        memcpy(mac, net->mac, 6);
        return;
    }
    hash = hash_text(hash_text(hash, net->tap), net->path) + index;
    mac[0] = 0x52; /* locally administered, as QEMU's */
    mac[1] = 0x54;
    mac[2] = 0;
    mac[3] = (uint8_t)(hash >> 16);
    mac[4] = (uint8_t)(hash >> 8);
    mac[5] = (uint8_t)hash;
}

static int machine_open_user(const struct config_net *config,
                             struct net_backend **backend, struct umbra_error *error)
{
    struct net_user_options options = { .restricted = config->restricted,
                                        .mtu = config->mtu,
                                        .forward_count = config->forward_count };
    struct net_forward *forwards = calloc(config->forward_count + 1, sizeof(*forwards));
    int ret;

    if (forwards == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "user networking");
    }
    for (size_t i = 0; i < config->forward_count; i++) {
        const struct config_forward *from = &config->forwards[i];

        forwards[i] = (struct net_forward){ .udp = from->udp,
                                            .host_address = from->host_address,
                                            .guest_address = from->guest_address,
                                            .host_port = from->host_port,
                                            .guest_port = from->guest_port };
    }
    options.forwards = forwards;
    ret = net_user_open(&options, backend, error);
    free(forwards);
    return ret;
}

static int machine_open_net(struct machine *machine, const struct config_net *config,
                            struct net_backend **backend, struct umbra_error *error)
{
    switch (config->backend) {
    case CONFIG_NET_USER:
        return machine_open_user(config, backend, error);
    case CONFIG_NET_TAP:
        return net_tap_open(config->tap, config->fd, config->queues, machine->log,
                            backend, error);
    case CONFIG_NET_UNIX:
        return net_unix_open(config->path, config->fd, backend, error);
    default:
        return -EINVAL; /* not one that we open */
    }
}

static int machine_add_remote_net(struct machine *machine,
                                  const struct config_net *config,
                                  const struct virtio_net_options *common,
                                  struct umbra_error *error)
{
    struct vhost_user_net_options options = { .id = common->id,
                                              .socket = config->path,
                                              .pairs = config->queues,
                                              .mtu = common->mtu,
                                              .queue_size = common->queue_size };
    struct virtio_device *vdev;
    int ret;

    memcpy(options.mac, common->mac, sizeof(options.mac));
    ret = vhost_user_net_create(&machine->env, &options, &vdev, error);
    return ret == 0 ? machine_add_virtio(machine, vdev, error) : ret;
}

static int machine_add_net(struct machine *machine, unsigned index,
                           struct umbra_error *error)
{
    const struct config_net *config = &machine->config->nets[index];
    struct virtio_net_options options = { .mtu = config->mtu,
                                          .queue_size = config->queue_size };
    struct net_backend *backend;
    struct virtio_device *vdev;
    char id[32];
    int ret;

    snprintf(id, sizeof(id), "net%u", index);
    options.id = config->id != NULL ? config->id : id;
    options.vhost = config->vhost;
    machine_make_mac(machine->config, index, options.mac);
    if (config->backend == CONFIG_NET_VHOST_USER) {
        return machine_add_remote_net(machine, config, &options, error);
    }
    ret = machine_open_net(machine, config, &backend, error);
    if (ret != 0) {
        error_prefix(error, "%s", options.id);
        return ret;
    }
    ret = virtio_net_create(&machine->env, &options, backend, &vdev, error);
    return ret == 0 ? machine_add_virtio(machine, vdev, error) : ret;
}

/* ---- Shared folders ------------------------------------------------------------------- */

static int machine_add_share(struct machine *machine, unsigned index,
                             struct umbra_error *error)
{
    const struct config_share *config = &machine->config->shares[index];
    struct virtio_fs_options options = { .tag = config->tag,
                                         .path = config->path,
                                         .socket = config->socket,
                                         .readonly = config->readonly };
    struct virtio_device *vdev;
    char id[32];
    int ret;

    snprintf(id, sizeof(id), "share%u", index);
    options.id = id;
    ret = virtio_fs_create(&machine->env, &options, &vdev, error);
    return ret == 0 ? machine_add_virtio(machine, vdev, error) : ret;
}

/* ---- The rest -------------------------------------------------------------------------- */

static int machine_add_rng(struct machine *machine, struct umbra_error *error)
{
    struct virtio_device *vdev;
    int ret =
        virtio_rng_create(&machine->env, "rng", machine->config->rng_rate, &vdev, error);

    return ret == 0 ? machine_add_virtio(machine, vdev, error) : ret;
}

static int machine_add_balloon(struct machine *machine, struct umbra_error *error)
{
    const struct umbra_config *config = machine->config;
    const struct virtio_balloon_options options = {
        .id = "balloon",
        .target = config->balloon_target,
        .stats_ms = config->balloon_stats_ms,
        .deflate_on_oom = config->balloon_deflate_on_oom,
        .reporting = config->balloon_reporting,
    };
    struct virtio_device *vdev;
    int ret = virtio_balloon_create(&machine->env, &options, &vdev, error);

    return ret == 0 ? machine_add_virtio(machine, vdev, error) : ret;
}

static int machine_add_consoles(struct machine *machine, struct umbra_error *error)
{
    const struct umbra_config *config = machine->config;
    struct virtio_console_port *ports = calloc(config->console_count, sizeof(*ports));
    struct virtio_device *vdev;
    int ret;

    if (ports == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "create the consoles");
    }
    for (size_t i = 0; i < config->console_count; i++) {
        ports[i].name = config->consoles[i].name;
        ports[i].console =
            machine_is_console(machine, (unsigned)i + MACHINE_SERIAL_PORTS);
        ports[i].end = machine_char_end(&config->consoles[i].end,
                                        &machine->consoles[MACHINE_SERIAL_PORTS + i]);
    }
    ret = virtio_console_create(&machine->env, "consoles", ports,
                                (unsigned)config->console_count, &vdev, error);
    free(ports);
    if (ret != 0) {
        return ret;
    }
    ret = machine_add_virtio(machine, vdev, error);
    machine->virtio_console = ret == 0 ? vdev : NULL;
    return ret;
}

static int machine_add_vsock(struct machine *machine, struct umbra_error *error)
{
    const struct umbra_config *config = machine->config;
    const struct virtio_vsock_options options = { .id = "vsock",
                                                  .cid = config->vsock_cid,
                                                  .path = config->vsock_path,
                                                  .streams = config->vsock_connections };
    struct virtio_device *vdev;
    int ret = virtio_vsock_create(&machine->env, &options, &vdev, error);

    if (ret != 0) {
        return ret;
    }
    ret = machine_add_virtio(machine, vdev, error);
    machine->vsock = ret == 0 ? vdev : NULL;
    return ret;
}

int machine_create_virtio(struct machine *machine, struct umbra_error *error)
{
    int ret = 0;

    for (unsigned i = 0; ret == 0 && i < machine->config->disk_count; i++) {
        ret = machine_add_disk(machine, i, error);
    }
    for (unsigned i = 0; ret == 0 && i < machine->config->net_count; i++) {
        ret = machine_add_net(machine, i, error);
    }
    for (unsigned i = 0; ret == 0 && i < machine->config->share_count; i++) {
        ret = machine_add_share(machine, i, error);
    }
    if (ret == 0 && machine->config->console_count > 0) {
        ret = machine_add_consoles(machine, error);
    }
    if (ret == 0 && machine->config->rng) {
        ret = machine_add_rng(machine, error);
    }
    if (ret == 0 && machine->config->balloon) {
        ret = machine_add_balloon(machine, error);
    }
    if (ret == 0 && machine->config->vsock_cid != 0) {
        ret = machine_add_vsock(machine, error);
    }
    return ret;
}
