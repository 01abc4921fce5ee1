/* SPDX-License-Identifier: MIT */
/* The configuration object: made, read, copied, written, freed. */
#include "vmm/config/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "vmm/config/errors.h"
#include "vmm/config/json.h"
#include "vmm/config/text.h"
#include "vmm/config/value.h"

enum { CONFIG_DEFAULT_MEMORY_MIB = 256 };

int umbra_config_new(struct umbra_config **config)
{
    struct umbra_config *made = calloc(1, sizeof(*made));

    if (made == NULL) {
        return -ENOMEM;
    }
    made->memory = CONFIG_DEFAULT_MEMORY_MIB * MIB;
    made->cpus = 1;
    made->exit_hlt = true;
    made->exit_pause = true;
    made->exit_mwait = true; /* as on other VMMs: off keeps a host CPU busy */
    for (size_t i = 0; i < ARRAY_SIZE(made->serial); i++) {
        made->serial[i].fd = -1;
    }
    made->serial[0].kind = CONFIG_SERIAL_STDIO;
    made->serial_count = 1;
    made->debug_port.fd = -1;
    made->kvm_path = strdup("/dev/kvm");
    if (made->kvm_path == NULL) {
        free(made);
        return -ENOMEM;
    }
    *config = made;
    return 0;
}

void config_destroy(struct umbra_config *config)
{
    if (config == NULL) {
        return;
    }
    config_object_clear(&config_root, config);
    free(config->file);
    config_origins_free(config->origins);
    free(config);
}

void umbra_config_free(struct umbra_config *config)
{
    config_destroy(config);
}

int config_copy(const struct umbra_config *config, struct umbra_config **copy)
{
    struct umbra_config *made = malloc(sizeof(*made));
    int rc;

    if (made == NULL) {
        return -ENOMEM;
    }
    *made = *config;
    rc = config_object_unshare(&config_root, made, config);
    made->origins = NULL;
    made->file = config->file != NULL ? strdup(config->file) : NULL;
    if (rc == 0 && config->file != NULL && made->file == NULL) {
        rc = -ENOMEM;
    }
    rc = rc != 0 ? rc : config_origins_copy(config->origins, &made->origins);
    if (rc != 0) {
        config_destroy(made);
        return rc;
    }
    *copy = made;
    return 0;
}

bool config_needs_shared_memory(const struct umbra_config *config)
{
    bool shared = config->share_count > 0;

    for (size_t i = 0; i < config->disk_count; i++) {
        shared = shared || config->disks[i].backend == CONFIG_DISK_VHOST_USER;
    }
    for (size_t i = 0; i < config->net_count; i++) {
        shared = shared || config->nets[i].backend == CONFIG_NET_VHOST_USER;
    }
    return shared;
}

/* The short form "vhost-user": SOCKET is a path; with a path as well it stays, and
 * validation complains. */
static bool config_expand_socket(char **vhost_user, char **path)
{
    if (*vhost_user == NULL || *path != NULL) {
        return false;
    }
    *path = *vhost_user;
    *vhost_user = NULL;
    return true;
}

/* What follows from what was given. */
static void config_complete(struct umbra_config *config)
{
    for (size_t i = 0; i < config->disk_count; i++) {
        struct config_disk *disk = &config->disks[i];

        if (disk->path != NULL && strncmp(disk->path, "nbd", 3) == 0 &&
            strstr(disk->path, "://") != NULL) {
            disk->backend = CONFIG_DISK_NBD;
        }
        if (config_expand_socket(&disk->vhost_user, &disk->path)) {
            disk->backend = CONFIG_DISK_VHOST_USER;
        }
    }
    for (size_t i = 0; i < config->net_count; i++) {
        if (config->nets[i].tap != NULL) {
            config->nets[i].backend = CONFIG_NET_TAP;
        }
        if (config_expand_socket(&config->nets[i].vhost_user, &config->nets[i].path)) {
            config->nets[i].backend = CONFIG_NET_VHOST_USER;
        }
    }
}

/* Give @config the contents of @changed, and free the old ones. */
static void config_adopt(struct umbra_config *config, struct umbra_config *changed)
{
    struct umbra_config old = *config;

    *config = *changed;
    *changed = old;
    config_complete(config);
    config_destroy(changed);
}

static int no_memory(struct umbra_error *error)
{
    return error_set(error, UMBRA_ERROR_INTERNAL, ENOMEM, "configuration: out of memory");
}

int umbra_config_load_text(struct umbra_config *config, const char *json,
                           const char *name, const char *base_dir,
                           struct umbra_error *error)
{
    struct config_errors errors = { 0 };
    struct umbra_config *changed;
    int rc;

    if (strlen(json) > CONFIG_TEXT_MAX) {
        return error_set(error, UMBRA_ERROR_CONFIG, EFBIG,
                         "%s: larger than 1 MiB: this is not a configuration", name);
    }
    if (config_copy(config, &changed) != 0) {
        return no_memory(error);
    }
    rc = config_read_json(changed, json, name, base_dir, &errors);
    if (rc == 0) {
        rc = config_errors_report(&errors, error);
    } else {
        config_errors_report(&errors, NULL);
        rc = no_memory(error);
    }
    if (rc == 0) {
        free(changed->file);
        changed->file = strdup(name);
        if (changed->file == NULL) {
            rc = no_memory(error);
        }
    }
    if (rc != 0) {
        config_destroy(changed);
        return rc;
    }
    config_adopt(config, changed);
    return 0;
}

/* The whole file as a string, at most a byte more than CONFIG_TEXT_MAX. */
static int read_whole(const char *path, char **text, struct umbra_error *error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;
    size_t used = 0;
    char *buffer;

    if (fd < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno, "cannot open config '%s'",
                           path);
    }
    buffer = malloc(CONFIG_TEXT_MAX + 2);
    if (buffer == NULL) {
        rc = no_memory(error);
    }
    while (rc == 0 && used < CONFIG_TEXT_MAX + 1) {
        ssize_t n = read(fd, buffer + used, CONFIG_TEXT_MAX + 1 - used);

        if (n < 0 && errno != EINTR) {
            rc = error_errno(error, UMBRA_ERROR_CONFIG, errno, "cannot read config '%s'",
                             path);
        } else if (n == 0) {
            break;
        } else if (n > 0) {
            used += (size_t)n;
        }
    }
    close(fd);
    if (rc == 0 && memchr(buffer, '\0', used) != NULL) {
        rc = error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                       "%s: holds a zero byte: this is not a JSON text", path);
    }
    if (rc != 0) {
        free(buffer);
        return rc;
    }
    buffer[used] = '\0';
    *text = buffer;
    return 0;
}

int umbra_config_load_file(struct umbra_config *config, const char *path,
                           struct umbra_error *error)
{
    const char *slash = strrchr(path, '/');
    char *text = NULL, *folder;
    int rc = read_whole(path, &text, error);

    if (rc != 0) {
        return rc;
    }
    folder = slash == NULL   ? strdup("")
             : slash == path ? strdup("/")
                             : strndup(path, (size_t)(slash - path));
    rc = folder != NULL ? umbra_config_load_text(config, text, path, folder, error)
                        : no_memory(error);
    free(folder);
    free(text);
    return rc;
}

int umbra_config_set(struct umbra_config *config, const char *name, const char *value,
                     struct umbra_error *error)
{
    const struct config_key *key = config_key_find(&config_root, name);
    struct config_place nowhere = { 0 };
    struct umbra_config *changed;
    struct config_why why;
    char path[64];
    int rc;

    if (key == NULL) {
        const char *near = config_key_suggest(&config_root, name);

        return error_set(error, UMBRA_ERROR_USAGE, EINVAL, "unknown key '%.64s'%s%s%s",
                         name, near != NULL ? "; did you mean '" : "",
                         near != NULL ? near : "", near != NULL ? "'?" : "");
    }
    if (config_copy(config, &changed) != 0) {
        return no_memory(error);
    }
    snprintf(path, sizeof(path), "$.%s", key->name);
    rc = config_read_text(changed, key, value, &why);
    if (rc == 0) {
        if (key->kind == CONFIG_KIND_LIST) {
            snprintf(path, sizeof(path), "$.%s[%zu]", key->name,
                     config_count(key, changed) - 1);
        }
        config_origins_forget(changed->origins, path);
        rc = config_origins_add(&changed->origins, path, &nowhere);
    }
    if (rc != 0) {
        config_destroy(changed);
        return rc == -ENOMEM ? no_memory(error)
                             : error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                                         "%s '%.100s': %s", name, value, why.text);
    }
    config_adopt(config, changed);
    return 0;
}

char *umbra_config_get(const struct umbra_config *config, const char *name)
{
    const struct config_key *key = config_key_find(&config_root, name);

    return key != NULL ? config_value_text(key, config) : NULL;
}

char *umbra_config_to_json(const struct umbra_config *config)
{
    json_t *json = config_object_json(&config_root, config);
    char *text = json != NULL ? json_dumps(json, JSON_INDENT(4)) : NULL;

    json_decref(json);
    return text;
}

int umbra_config_set_log(struct umbra_config *config, umbra_log_fn fn, void *context,
                         enum umbra_log_level level)
{
    config->log = (struct log){ .fn = fn, .context = context, .level = level };
    return 0;
}
