/* SPDX-License-Identifier: MIT */
/* What one key alone cannot tell: values that must fit each other, files that must exist.
 */
#include <errno.h>
#include <inttypes.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "vmm/config/config.h"
#include "vmm/config/errors.h"

enum {
    VIRTIO_DEVICES_MAX =
        30,               /* slots of one PCI bus without the host bridge and one spare */
    DISK_SERIAL_MAX = 20, /* virtio 1.2, 5.2.6.1 */
    SHARE_TAG_MAX = 36,   /* virtio 1.2, 5.11.4 */
    VHOST_USER_QUEUE_MAX = 1024, /* what back ends take */
};

struct validation {
    const struct umbra_config *config;
    struct config_errors errors;
};

__attribute__((format(printf, 4, 5))) static void bad(struct validation *v,
                                                      enum umbra_error_class code,
                                                      const char *path,
                                                      const char *format, ...)
{
    struct config_place place = config_origins_find(v->config->origins, path);
    char message[400];
    va_list args;

    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    config_errors_add(&v->errors, &place, path, code, "%s", message);
}

#define bad_value(v, path, ...) bad((v), UMBRA_ERROR_CONFIG, (path), __VA_ARGS__)

/* As bad_value(), for "$.list[index].member". */
#define bad_element(v, list, index, member, ...)                                         \
    do {                                                                                 \
        char path_[64];                                                                  \
        snprintf(path_, sizeof(path_), "$.%s[%zu]%s", (list), (size_t)(index),           \
                 (member));                                                              \
        bad_value((v), path_, __VA_ARGS__);                                              \
    } while (0)

static bool power_of_two(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

/* ---- Kernel, memory, processors ---------------------------------------------- */

static void validate_kernel(struct validation *v)
{
    const struct umbra_config *config = v->config;
    bool flat = config->kernel_format == CONFIG_KERNEL_FLAT;

    if (config->kernel == NULL && !config->demo) {
        bad(v, config->file == NULL ? UMBRA_ERROR_USAGE : UMBRA_ERROR_CONFIG, "$.kernel",
            "no kernel is given: name one, or set \"demo\" for the built-in guest");
    }
    if (config->kernel != NULL && config->demo) {
        bad_value(v, "$.demo", "the demo guest and a kernel exclude each other");
    }
    if (!flat && (config->kernel_load != 0 || config->kernel_entry != 0)) {
        bad_value(v, config->kernel_load != 0 ? "$.kernel_load" : "$.kernel_entry",
                  "only for \"kernel_format\": \"flat\"");
    }
    if (flat && config->kernel_entry != 0 && config->kernel_entry < config->kernel_load) {
        bad_value(v, "$.kernel_entry", "lies before kernel_load");
    }
    if (config->kernel_load >= config->memory && config->memory < 0xd0000000u) {
        bad_value(v, "$.kernel_load", "lies behind the end of memory");
    }
}

static void validate_memory(struct validation *v)
{
    static const uint64_t page[] = { 4 * KIB, 4 * KIB, 4 * KIB, 2 * MIB, GIB };
    const struct umbra_config *config = v->config;
    enum guest_mem_backing backing = config->memory_options.backing;
    char text[32];

    if (config->memory % page[backing] != 0) {
        bad_value(v, "$.memory", "must be a multiple of %s",
                  size_format(page[backing], text, sizeof(text)));
    }
    if (config->memory_options.mergeable && backing >= GUEST_MEM_2M) {
        bad_value(v, "$.mergeable",
                  "the host merges only ordinary pages: \"hugepages\" excludes it");
    }
    if (config->memory_options.mergeable && config_needs_shared_memory(config)) {
        bad_value(v, "$.mergeable",
                  "the host merges only private memory, and a share or a vhost-user "
                  "device needs memory that it can map: take one of them out");
    }
}

static void validate_cpus(struct validation *v)
{
    const struct umbra_config *config = v->config;
    uint64_t product = 1;
    bool all = config->sockets != 0 && config->cores != 0 && config->threads != 0;

    product *= config->sockets != 0 ? config->sockets : 1;
    product *= config->cores != 0 ? config->cores : 1;
    product *= config->threads != 0 ? config->threads : 1;
    if (all ? product != config->cpus : config->cpus % product != 0) {
        bad_value(v, "$.topology", "makes %" PRIu64 "%s CPUs, but \"cpus\" is %u",
                  product, all ? "" : " (or a multiple of it)", config->cpus);
    }
    for (size_t i = 0; i < config->feature_count; i++) {
        const char *name = config->features[i];

        name += name[0] == '+' || name[0] == '-';
        if (name[0] == '\0' ||
            name[strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_.")] != '\0') {
            bad_element(v, "features", i, "",
                        "\"%.60s\" is not a feature: expected +name or -name, as in "
                        "/proc/cpuinfo",
                        config->features[i]);
        }
    }
}

/* ---- Devices ----------------------------------------------------------------- */

/* What a vhost-user back end has, or says, is its own affair. */
static void validate_disk_remote(struct validation *v, size_t i)
{
    const struct config_disk *disk = &v->config->disks[i];

    if (disk->serial != NULL) {
        bad_element(v, "disks", i, ".serial", "is the back end's to give");
    }
    if (disk->block_size != 512 || disk->physical_block_size != 512) {
        bad_element(v, "disks", i,
                    disk->block_size != 512 ? ".block_size" : ".physical_block_size",
                    "is the back end's to give");
    }
    if (disk->poll) {
        bad_element(v, "disks", i, ".poll", "is the back end's to do");
    }
    if (disk->queue_size > VHOST_USER_QUEUE_MAX) {
        bad_element(v, "disks", i, ".queue_size",
                    "is at most %d for vhost-user back ends", VHOST_USER_QUEUE_MAX);
    }
}

static void validate_disk(struct validation *v, size_t i)
{
    const struct config_disk *disk = &v->config->disks[i];

    if (disk->path == NULL || disk->path[0] == '\0') {
        bad_element(v, "disks", i, ".path", "is missing");
    }
    if (disk->vhost_user != NULL) {
        bad_element(v, "disks", i, ".vhost-user", "and \"path\" exclude each other");
    }
    if (disk->backend == CONFIG_DISK_VHOST_USER) {
        validate_disk_remote(v, i);
    }
    if (disk->serial != NULL && strlen(disk->serial) > DISK_SERIAL_MAX) {
        bad_element(v, "disks", i, ".serial", "is longer than %d bytes", DISK_SERIAL_MAX);
    }
    if (!power_of_two(disk->queue_size)) {
        bad_element(v, "disks", i, ".queue_size", "must be a power of two");
    }
    if (!power_of_two(disk->block_size)) {
        bad_element(v, "disks", i, ".block_size", "must be a power of two");
    }
    if (!power_of_two(disk->physical_block_size)) {
        bad_element(v, "disks", i, ".physical_block_size", "must be a power of two");
    }
    if (disk->overlay == CONFIG_OVERLAY_KEEP && disk->overlay_path == NULL) {
        bad_element(v, "disks", i, ".overlay", "\"keep\" needs \"overlay_path\"");
    }
    if (disk->overlay == CONFIG_OVERLAY_NONE && disk->overlay_path != NULL) {
        bad_element(v, "disks", i, ".overlay_path", "needs \"overlay\"");
    }
    if (disk->overlay == CONFIG_OVERLAY_NONE && disk->size != 0) {
        bad_element(v, "disks", i, ".size", "needs \"overlay\"");
    }
    if (disk->overlay != CONFIG_OVERLAY_NONE && disk->backend == CONFIG_DISK_VHOST_USER) {
        bad_element(v, "disks", i, ".overlay", "is not for vhost-user back ends");
    }
    if (disk->overlay != CONFIG_OVERLAY_NONE && disk->readonly) {
        bad_element(v, "disks", i, ".overlay", "a read-only disk has nothing to write");
    }
    if (disk->direct && disk->backend != CONFIG_DISK_FILE) {
        bad_element(v, "disks", i, ".cache", "is for images in files only");
    }
}

static void validate_net_user(struct validation *v, size_t i)
{
    const struct config_net *net = &v->config->nets[i];

    if (net->backend == CONFIG_NET_USER) {
        if (net->queues > 1) {
            bad_element(v, "net", i, ".queues", "the user backend has one pair");
        }
        return;
    }
    if (net->forward_count > 0) {
        bad_element(v, "net", i, ".forward", "only the user backend forwards ports");
    }
    if (net->restricted) {
        bad_element(v, "net", i, ".restricted", "is for the user backend");
    }
}

static void validate_net_remote(struct validation *v, size_t i)
{
    const struct config_net *net = &v->config->nets[i];

    if (net->queue_size > VHOST_USER_QUEUE_MAX) {
        bad_element(v, "net", i, ".queue_size", "is at most %d for vhost-user back ends",
                    VHOST_USER_QUEUE_MAX);
    }
}

static void validate_net(struct validation *v, size_t i)
{
    const struct config_net *net = &v->config->nets[i];
    bool socket =
        net->backend == CONFIG_NET_UNIX || net->backend == CONFIG_NET_VHOST_USER;

    validate_net_user(v, i);
    if (net->tap != NULL && strlen(net->tap) >= IF_NAMESIZE) {
        bad_element(v, "net", i, ".tap", "is longer than %d bytes", IF_NAMESIZE - 1);
    }
    if (net->backend == CONFIG_NET_TAP && net->tap == NULL && net->fd < 0) {
        bad_element(v, "net", i, "", "the tap backend needs \"tap\" or \"fd\"");
    }
    if (net->backend == CONFIG_NET_UNIX && (net->path == NULL) == (net->fd < 0)) {
        bad_element(v, "net", i, "",
                    "the unix backend needs \"path\" or \"fd\", not both");
    }
    if (net->backend == CONFIG_NET_VHOST_USER && net->path == NULL) {
        bad_element(v, "net", i, "", "the vhost-user backend needs \"path\"");
    }
    if (net->vhost_user != NULL) {
        bad_element(v, "net", i, ".vhost-user", "and \"path\" exclude each other");
    }
    if (!socket && net->path != NULL) {
        bad_element(v, "net", i, ".path", "is for the unix and vhost-user backends");
    }
    if (net->fd >= 0 && net->tap != NULL) {
        bad_element(v, "net", i, ".fd", "and \"tap\" exclude each other");
    }
    if (net->fd >= 0 &&
        (net->backend == CONFIG_NET_USER || net->backend == CONFIG_NET_VHOST_USER)) {
        bad_element(v, "net", i, ".fd", "is for the tap and unix backends");
    }
    if (net->vhost && net->backend != CONFIG_NET_TAP) {
        bad_element(v, "net", i, ".vhost", "is for the tap backend");
    }
    if (net->queues > 1 && (net->backend == CONFIG_NET_UNIX || net->fd >= 0)) {
        bad_element(v, "net", i, ".queues", "one descriptor carries one pair");
    }
    if (net->backend == CONFIG_NET_VHOST_USER) {
        validate_net_remote(v, i);
    }
    if (!power_of_two(net->queue_size)) {
        bad_element(v, "net", i, ".queue_size", "must be a power of two");
    }
}

static void validate_share(struct validation *v, size_t i)
{
    const struct config_share *share = &v->config->shares[i];

    if (share->tag == NULL || share->tag[0] == '\0' ||
        strlen(share->tag) > SHARE_TAG_MAX) {
        bad_element(v, "share", i, ".tag", "must have 1 to %d bytes", SHARE_TAG_MAX);
    }
    if ((share->path == NULL) == (share->socket == NULL)) {
        bad_element(v, "share", i, "", "needs \"path\" or \"socket\", not both");
    }
    if (share->readonly && share->socket != NULL) {
        bad_element(v, "share", i, ".readonly",
                    "is for \"path\": a running virtiofsd has its own options");
    }
    for (size_t j = 0; j < i; j++) {
        if (share->tag != NULL && v->config->shares[j].tag != NULL &&
            strcmp(share->tag, v->config->shares[j].tag) == 0) {
            bad_element(v, "share", i, ".tag", "\"%.60s\" is used twice", share->tag);
            break;
        }
    }
}

/* Ids of disks and nets share one space: statistics and commands name them by it. */
static const char *device_id(const struct umbra_config *config, size_t i)
{
    return i < config->disk_count ? config->disks[i].id
                                  : config->nets[i - config->disk_count].id;
}

static void validate_ids(struct validation *v)
{
    const struct umbra_config *config = v->config;

    for (size_t i = 0; i < config->disk_count + config->net_count; i++) {
        const char *id = device_id(config, i);
        bool disk = i < config->disk_count;
        size_t index = disk ? i : i - config->disk_count;

        if (id != NULL && (id[0] == '\0' || strlen(id) > 31)) {
            bad_element(v, disk ? "disks" : "net", index, ".id",
                        "must have 1 to 31 bytes");
        }
        for (size_t j = 0; j < i; j++) {
            const char *other = device_id(config, j);

            if (id != NULL && other != NULL && strcmp(id, other) == 0) {
                bad_element(v, disk ? "disks" : "net", index, ".id",
                            "\"%.60s\" is used twice", id);
                break;
            }
        }
    }
}

static void validate_devices(struct validation *v)
{
    const struct umbra_config *config = v->config;
    size_t count = config->disk_count + config->net_count + config->share_count +
                   (config->console_count > 0) + config->rng + config->balloon +
                   (config->vsock_cid != 0);

    for (size_t i = 0; i < config->disk_count; i++) {
        validate_disk(v, i);
    }
    for (size_t i = 0; i < config->net_count; i++) {
        validate_net(v, i);
    }
    for (size_t i = 0; i < config->share_count; i++) {
        validate_share(v, i);
    }
    for (size_t i = 1; i < config->console_count; i++) {
        for (size_t j = 0; j < i; j++) {
            if (strcmp(config->consoles[i].name, config->consoles[j].name) == 0) {
                bad_element(v, "consoles", i, ".name", "\"%.60s\" is used twice",
                            config->consoles[i].name);
                break;
            }
        }
    }
    if (config->debug_port.kind == CONFIG_SERIAL_STDIO) {
        bad_value(
            v, "$.debug_port",
            "stdio is for consoles; the debug port ends at file:PATH, pty, unix:PATH "
            "or fd:N");
    }
    validate_ids(v);
    if (count > VIRTIO_DEVICES_MAX) {
        bad_value(v, "$", "%zu virtio devices: the board has room for %d", count,
                  VIRTIO_DEVICES_MAX);
    }
    if (config->balloon && config->balloon_target >= config->memory) {
        bad_value(v, "$.balloon.target", "must be less than \"memory\"");
    }
}

/* ---- The rest ---------------------------------------------------------------- */

static void validate_gdb(struct validation *v)
{
    const char *gdb = v->config->gdb;
    unsigned long port;
    char *end;

    if (gdb == NULL) {
        if (v->config->gdb_wait) {
            bad_value(v, "$.gdb_wait", "needs \"gdb\"");
        }
        return;
    }
    port = strtoul(gdb, &end, 10);
    if ((strncmp(gdb, "unix:", 5) != 0 || gdb[5] == '\0') &&
        (end == gdb || *end != '\0' || port == 0 || port > UINT16_MAX)) {
        bad_value(v, "$.gdb", "expected a port or unix:PATH, got \"%.60s\"", gdb);
    }
}

int umbra_config_validate(const struct umbra_config *config, struct umbra_error *error)
{
    struct validation v = { .config = config };

    validate_kernel(&v);
    validate_memory(&v);
    validate_cpus(&v);
    validate_devices(&v);
    validate_gdb(&v);
    return config_errors_report(&v.errors, error);
}

/* ---- Files ------------------------------------------------------------------- */

/* @mode as access() takes it; @what for the message. */
static void check_file(struct validation *v, const char *path, const char *key,
                       const char *what, int mode)
{
    struct stat info;
    bool folder = strcmp(what, "folder") == 0;

    if (path == NULL) {
        return;
    }
    if (stat(path, &info) != 0) {
        bad(v, errno == EACCES ? UMBRA_ERROR_PERMISSION : UMBRA_ERROR_MISSING, key,
            "there is no %s '%.200s': %s", what, path, strerror(errno));
    } else if (S_ISDIR(info.st_mode) != folder) {
        bad_value(v, key, "'%.200s' is %s folder", path, folder ? "not a" : "a");
    } else if (access(path, mode) != 0) {
        bad(v, UMBRA_ERROR_PERMISSION, key, "no permission to %s %s '%.200s'",
            (mode & W_OK) != 0 ? "write" : "read", what, path);
    }
}

int umbra_config_check_files(const struct umbra_config *config, struct umbra_error *error)
{
    struct validation v = { .config = config };
    char key[64];

    check_file(&v, config->kernel, "$.kernel", "kernel", R_OK);
    check_file(&v, config->initrd, "$.initrd", "initrd", R_OK);
    check_file(&v, config->symbols, "$.symbols", "file of symbols", R_OK);
    for (size_t i = 0; i < config->disk_count; i++) {
        const struct config_disk *disk = &config->disks[i];
        bool writes = !disk->readonly && disk->overlay == CONFIG_OVERLAY_NONE;

        if (disk->backend == CONFIG_DISK_FILE) {
            snprintf(key, sizeof(key), "$.disks[%zu].path", i);
            check_file(&v, disk->path, key, "disk", writes ? R_OK | W_OK : R_OK);
        }
    }
    for (size_t i = 0; i < config->share_count; i++) {
        snprintf(key, sizeof(key), "$.share[%zu].path", i);
        check_file(&v, config->shares[i].path, key, "folder", R_OK | X_OK);
    }
    return config_errors_report(&v.errors, error);
}
