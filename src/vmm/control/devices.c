/* SPDX-License-Identifier: MIT */
/* The control socket's methods that change devices while the guest runs. */
#include "virtio/registry.h"
#include "vmm/control/methods.h"

json_t *control_balloon_set(const struct control_request *request)
{
    return control_done(umbra_balloon_set(request->vm, "balloon",
                                          param_size(request, "target"), request->error));
}

json_t *control_balloon_stats(const struct control_request *request)
{
    struct umbra_balloon_stats stats = { .size = sizeof(stats) };
    json_t *json, *guest;

    if (umbra_balloon_stats(request->vm, "balloon", &stats, request->error) < 0) {
        return NULL;
    }
    guest = json_object();
    for (unsigned i = 0; i < UMBRA_BALLOON_STAT_COUNT; i++) {
        if (stats.guest[i] != UINT64_MAX) {
            json_object_set_new(guest, virtio_balloon_stat_name(i),
                                json_integer((json_int_t)stats.guest[i]));
        }
    }
    json = json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:o}", "driver_ready",
                     stats.driver_ready, "target", (json_int_t)stats.target, "actual",
                     (json_int_t)stats.actual, "resident", (json_int_t)stats.resident,
                     "released", (json_int_t)stats.released, "reported",
                     (json_int_t)stats.reported, "guest", guest);
    json_object_set_new(json, "age_ms",
                        stats.age_ms == UINT64_MAX
                            ? json_null()
                            : json_integer((json_int_t)stats.age_ms));
    return json;
}

json_t *control_disk_resize(const struct control_request *request)
{
    uint64_t size;
    int ret = umbra_disk_resize(request->vm, param_string(request, "disk"),
                                param_size(request, "size"), &size, request->error);

    return ret < 0 ? NULL : json_pack("{s:I}", "size", (json_int_t)size);
}

json_t *control_net_set_link(const struct control_request *request)
{
    return control_done(umbra_net_set_link(
        request->vm, param_string(request, "net"),
        json_is_true(json_object_get(request->params, "up")), request->error));
}
