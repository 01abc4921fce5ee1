/* SPDX-License-Identifier: MIT */
/* What the control socket's methods share: a request, its parameters, the handlers. */
#ifndef VMM_CONTROL_METHODS_H
#define VMM_CONTROL_METHODS_H

#include "base/util.h"
#include "vmm/control/control.h"

/* One call: what a handler gets and fills. Its parameters have been checked against the
 * method's table entry. */
struct control_request {
    struct umbra_vm *vm;
    struct control_session *session;
    json_t *params;
    struct umbra_error *error;
};

static inline uint64_t param_uint(const struct control_request *request, const char *name,
                                  uint64_t otherwise)
{
    json_t *value = json_object_get(request->params, name);

    return value != NULL ? (uint64_t)json_integer_value(value) : otherwise;
}

static inline const char *param_string(const struct control_request *request,
                                       const char *name)
{
    return json_string_value(json_object_get(request->params, name));
}

/* A checked parameter of type size. */
static inline uint64_t param_size(const struct control_request *request, const char *name)
{
    uint64_t bytes = param_uint(request, name, 0);
    const char *text = param_string(request, name);

    if (text != NULL && size_parse(text, &bytes) < 0) {
        bytes = 0;
    }
    return bytes;
}

/* The result of a call that gives 0 or -errno. */
static inline json_t *control_done(int ret)
{
    return ret < 0 ? NULL : json_object();
}

/* Handlers: the result, or NULL with request->error set. */
json_t *control_memory_read(const struct control_request *request);
json_t *control_symbol(const struct control_request *request);
json_t *control_report(const struct control_request *request);
json_t *control_registers(const struct control_request *request);
json_t *control_core(const struct control_request *request);
json_t *control_memory_map(const struct control_request *request);
json_t *control_memory_write(const struct control_request *request);
json_t *control_memory_find(const struct control_request *request);
json_t *control_paging(const struct control_request *request);
json_t *control_translate(const struct control_request *request);
json_t *control_balloon_set(const struct control_request *request);
json_t *control_balloon_stats(const struct control_request *request);
json_t *control_disk_resize(const struct control_request *request);
json_t *control_net_set_link(const struct control_request *request);

#endif
