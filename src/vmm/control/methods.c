/* SPDX-License-Identifier: MIT */
/* The methods of the control socket, as a table that rpc.discover prints. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/util.h"
#include "vmm/control/methods.h"
#include "vmm/vm/vm.h"

enum { MAX_PARAMS = 5 };

struct control_param {
    const char *name, *type, *help; /* type: integer, string, boolean, or size: */
                                    /* bytes as an integer, or text like "256M" */
    bool required;
};

struct control_method {
    const char *name, *help;
    json_t *(*call)(const struct control_request *request);
    struct control_param params[MAX_PARAMS];
};

/* ---- Base64 (RFC 4648, section 4) ---------------------------------------------------------- */

static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

json_t *control_encode(const void *bytes, size_t length)
{
    const uint8_t *in = bytes;
    char *text = malloc((length + 2) / 3 * 4 + 1);
    size_t used = 0;
    json_t *json;

    if (text == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < length; i += 3) {
        uint32_t group = (uint32_t)in[i] << 16 |
                         (i + 1 < length ? (uint32_t)in[i + 1] << 8 : 0) |
                         (i + 2 < length ? in[i + 2] : 0);

        for (unsigned n = 0; n < 4; n++) {
            text[used++] =
                i + n > length ? '=' : base64_digits[group >> (18 - 6 * n) & 63];
        }
    }
    text[used] = '\0';
    json = json_string(text);
    free(text);
    return json;
}

int control_decode(const char *text, uint8_t *bytes, size_t max)
{
    uint32_t group = 0;
    unsigned bits = 0;
    size_t used = 0;

    for (; *text != '\0' && *text != '='; text++) {
        const char *digit = strchr(base64_digits, *text);

        if (digit == NULL || used == max) {
            return -EINVAL;
        }
        group = group << 6 | (uint32_t)(digit - base64_digits);
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            bytes[used++] = (uint8_t)(group >> bits);
        }
    }
    return (int)used;
}

/* ---- Parameters ---------------------------------------------------------------------------- */

static bool param_fits(const struct control_param *param, const json_t *value)
{
    uint64_t bytes;

    if (strcmp(param->type, "size") == 0 && json_is_string(value)) {
        return size_parse(json_string_value(value), &bytes) == 0;
    }
    return strcmp(param->type, "integer") == 0 || strcmp(param->type, "size") == 0
               ? json_is_integer(value) && json_integer_value(value) >= 0
           : strcmp(param->type, "string") == 0 ? json_is_string(value)
                                                : json_is_boolean(value);
}

/* Are the parameters those of @method? */
static int params_check(const struct control_method *method, json_t *params,
                        struct umbra_error *error)
{
    const char *name;
    json_t *value;

    for (unsigned i = 0; i < MAX_PARAMS && method->params[i].name != NULL; i++) {
        const struct control_param *param = &method->params[i];

        value = json_object_get(params, param->name);
        if (value == NULL ? param->required : !param_fits(param, value)) {
            return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                             "%s: \"%s\" must be given as a%s %s", method->name,
                             param->name, param->type[0] == 'i' ? " non-negative" : "",
                             param->type);
        }
    }
    json_object_foreach(params, name, value)
    {
        bool known = false;

        for (unsigned i = 0; i < MAX_PARAMS && method->params[i].name != NULL; i++) {
            known |= strcmp(method->params[i].name, name) == 0;
        }
        if (!known) {
            return error_set(error, UMBRA_ERROR_USAGE, EINVAL, "%s takes no \"%s\"",
                             method->name, name);
        }
    }
    return 0;
}

/* ---- Handlers ------------------------------------------------------------------------------ */

static json_t *call_status(const struct control_request *request)
{
    static const char *const states[] = { "created", "running", "paused", "ended" };
    struct umbra_vm *vm = request->vm;
    json_t *json = json_object();

    json_object_set_new(json, "name",
                        json_string(vm->config->name != NULL ? vm->config->name : ""));
    json_object_set_new(json, "state", json_string(states[vm_state(vm)]));
    json_object_set_new(json, "pid", json_integer(getpid()));
    json_object_set_new(json, "cpus", json_integer(vm->config->cpus));
    json_object_set_new(json, "memory", json_integer((json_int_t)vm->config->memory));
    json_object_set_new(
        json, "memory_resident",
        json_integer((json_int_t)guest_mem_resident_lately(vm->machine.mem)));
    json_object_set_new(json, "kernel", json_string(vm->machine.entry.description));
    json_object_set_new(
        json, "run_ns",
        json_integer(vm->start_ns != 0 ? (json_int_t)(clock_ns() - vm->start_ns) : 0));
    return json;
}

static json_t *call_pause(const struct control_request *request)
{
    return control_done(umbra_vm_pause(request->vm, request->error));
}

static json_t *call_resume(const struct control_request *request)
{
    return control_done(umbra_vm_resume(request->vm, request->error));
}

static json_t *call_power_button(const struct control_request *request)
{
    return control_done(umbra_vm_power_button(request->vm, request->error));
}

static json_t *call_reset(const struct control_request *request)
{
    return control_done(umbra_vm_reset(request->vm, request->error));
}

static json_t *call_stop(const struct control_request *request)
{
    const char *reason = param_string(request, "reason");

    return control_done(umbra_vm_stop(
        request->vm, reason != NULL ? reason : "stopped by the control socket",
        request->error));
}

static json_t *call_stats(const struct control_request *request)
{
    char *text = umbra_vm_stats_json(request->vm);
    json_t *json = text != NULL ? json_loads(text, 0, NULL) : NULL;

    free(text);
    if (json == NULL) {
        error_errno(request->error, UMBRA_ERROR_INTERNAL, ENOMEM, "stats");
    }
    return json;
}

/* Which console is meant: by "name", or by "port", or else COM1; NULL: there is none. */
static struct console *param_console(const struct control_request *request,
                                     unsigned *port)
{
    const char *name = param_string(request, "name");
    uint64_t number = param_uint(request, "port", 0);

    if (name != NULL) {
        return umbra_console_find(request->vm, name, port, request->error) == 0
                   ? vm_console(request->vm, *port)
                   : NULL;
    }
    *port = number < MACHINE_CONSOLES ? (unsigned)number : MACHINE_CONSOLES;
    if (vm_console(request->vm, *port) == NULL) {
        error_set(request->error, UMBRA_ERROR_USAGE, EINVAL,
                  "there is no console %" PRIu64, number);
    }
    return vm_console(request->vm, *port);
}

static json_t *call_console_attach(const struct control_request *request)
{
    struct console *console;
    unsigned port;

    console = param_console(request, &port);
    if (console == NULL) {
        return NULL;
    }
    request->session->port = port;
    request->session->offset =
        console_attach_offset(console, param_uint(request, "backlog", 4096));
    request->session->attached = true;
    return json_object();
}

static json_t *call_console_detach(const struct control_request *request)
{
    request->session->attached = false;
    return json_object();
}

static json_t *call_console_send(const struct control_request *request)
{
    uint8_t bytes[CONTROL_MAX_TRANSFER];
    int length = control_decode(param_string(request, "data"), bytes, sizeof(bytes));
    unsigned port;
    int ret;

    if (param_console(request, &port) == NULL) {
        return NULL;
    }
    if (length < 0) {
        error_set(request->error, UMBRA_ERROR_USAGE, EINVAL,
                  "data is not base64, or longer than %d bytes", CONTROL_MAX_TRANSFER);
        return NULL;
    }
    ret = umbra_console_send(request->vm, port, bytes, (size_t)length);
    if (ret < 0) {
        error_errno(request->error, UMBRA_ERROR_STATE, -ret, "%s takes no input now",
                    vm_console_name(request->vm, port));
    }
    return control_done(ret);
}

static json_t *call_discover(const struct control_request *request);

static json_t *call_console_resize(const struct control_request *request)
{
    uint64_t columns = param_uint(request, "columns", 0);
    uint64_t rows = param_uint(request, "rows", 0);
    unsigned port;

    if (param_console(request, &port) == NULL) {
        return NULL;
    }
    return control_done(umbra_console_resize(
        request->vm, port, columns < UINT_MAX ? (unsigned)columns : UINT_MAX,
        rows < UINT_MAX ? (unsigned)rows : UINT_MAX, request->error));
}

static const struct control_method methods[] = {
    { "rpc.discover", "the methods and their parameters", call_discover, { { 0 } } },
    { "status", "name, state, sizes and age of the VM", call_status, { { 0 } } },
    { "pause", "hold every vCPU and device", call_pause, { { 0 } } },
    { "resume", "let them go on", call_resume, { { 0 } } },
    { "power_button", "press the ACPI power button", call_power_button, { { 0 } } },
    { "reset", "back to power-on, with the kernel loaded afresh", call_reset, { { 0 } } },
    { "stop",
      "end the run now",
      call_stop,
      { { "reason", "string", "what the outcome says", false } } },
    { "stats", "exits, latencies and device statistics", call_stats, { { 0 } } },
    { "console.attach",
      "send console.output notifications (data in base64) from now on",
      call_console_attach,
      { { "port", "integer", "serial port, 0 to 3", false },
        { "name", "string", "or by name: com1, or a virtio console port's", false },
        { "backlog", "integer", "how many of the last bytes to send first", false } } },
    { "console.detach", "send no more console.output", call_console_detach, { { 0 } } },
    { "console.send",
      "type into a console",
      call_console_send,
      { { "port", "integer", "serial port, 0 to 3", false },
        { "name", "string", "or by name: com1, or a virtio console port's", false },
        { "data", "string", "base64", true } } },
    { "console.resize",
      "tell the guest the size of the terminal at a virtio console",
      call_console_resize,
      { { "port", "integer", "the console by number", false },
        { "name", "string", "or by name: a virtio console port's", false },
        { "columns", "integer", "characters in a line", true },
        { "rows", "integer", "lines", true } } },
    { "memory.read",
      "guest memory, by physical address or, while paused, by virtual one or symbol",
      control_memory_read,
      { { "address", "integer", "where", false },
        { "symbol", "string", "where, by name: jiffies, init_task+16", false },
        { "length", "integer", "bytes, at most 32768", true },
        { "virtual", "boolean", "address is guest-virtual", false },
        { "vcpu", "integer", "whose page tables", false } } },
    { "memory.write",
      "write guest memory by physical address",
      control_memory_write,
      { { "address", "integer", "where", true },
        { "data", "string", "base64, at most 32768 bytes", true } } },
    { "memory.map", "the ranges of guest memory", control_memory_map, { { 0 } } },
    { "memory.find",
      "the 4 KiB pages of RAM that hold these bytes at this offset",
      control_memory_find,
      { { "offset", "integer", "in the page", true },
        { "data", "string", "base64", true } } },
    { "paging",
      "what decides how a vCPU translates addresses, while paused",
      control_paging,
      { { "vcpu", "integer", "which", false } } },
    { "translate",
      "guest-virtual to physical addresses by KVM, all ones for none, while paused",
      control_translate,
      { { "vcpu", "integer", "with whose registers", false },
        { "cr3", "string", "through these tables, 0x...; default the vCPU's", false },
        { "addresses", "string", "base64 of little-endian 64-bit numbers", true } } },
    { "symbol",
      "a symbol's address, or the symbol at an address",
      control_symbol,
      { { "symbol", "string", "its name", false },
        { "address", "string", "a guest-virtual address", false } } },
    { "report",
      "registers, code, backtraces, page walks and console as text",
      control_report,
      { { 0 } } },
    { "core",
      "write an ELF core of the guest",
      control_core,
      { { "path", "string", "a new file", true } } },
    { "registers",
      "the registers of a vCPU while paused",
      control_registers,
      { { "vcpu", "integer", "which", false } } },
    { "balloon.set",
      "have the guest lend this much of its memory to the host",
      control_balloon_set,
      { { "target", "size", "bytes, or text like 256M; 0 gives all back", true } } },
    { "balloon.stats",
      "what the balloon brought, and what the guest says of its memory",
      control_balloon_stats,
      { { 0 } } },
    { "disk.resize",
      "tell the guest the size that a disk has now, after growing it if asked",
      control_disk_resize,
      { { "disk", "string", "its id in the config, or disk0, disk1, ...", true },
        { "size", "size", "grow its file or overlay to this first", false } } },
    { "net.set_link",
      "pull the cable of a network interface, or plug it in",
      control_net_set_link,
      { { "net", "string", "its id in the config, or net0, net1, ...", true },
        { "up", "boolean", "plugged in", true } } },
};

static json_t *discover_method(const struct control_method *method)
{
    json_t *json = json_object(), *list = json_array();

    for (unsigned i = 0; i < MAX_PARAMS && method->params[i].name != NULL; i++) {
        const struct control_param *param = &method->params[i];
        json_t *entry = json_object(), *schema = json_object();

        json_object_set_new(schema, "type",
                            strcmp(param->type, "size") == 0
                                ? json_pack("[ss]", "integer", "string")
                                : json_string(param->type));
        json_object_set_new(entry, "name", json_string(param->name));
        json_object_set_new(entry, "description", json_string(param->help));
        json_object_set_new(entry, "required", json_boolean(param->required));
        json_object_set_new(entry, "schema", schema);
        json_array_append_new(list, entry);
    }
    json_object_set_new(json, "name", json_string(method->name));
    json_object_set_new(json, "summary", json_string(method->help));
    json_object_set_new(json, "params", list);
    return json;
}

/* In the shape of an OpenRPC document. */
static json_t *call_discover(const struct control_request *request)
{
    json_t *json = json_object(), *info = json_object(), *list = json_array();

    (void)request;
    for (size_t i = 0; i < ARRAY_SIZE(methods); i++) {
        json_array_append_new(list, discover_method(&methods[i]));
    }
    json_object_set_new(info, "title", json_string("umbra"));
    json_object_set_new(info, "version", json_string(umbra_version()));
    json_object_set_new(json, "openrpc", json_string("1.2.6"));
    json_object_set_new(json, "info", info);
    json_object_set_new(json, "methods", list);
    return json;
}

json_t *control_call(struct umbra_vm *vm, struct control_session *session,
                     const char *name, json_t *params, int *code,
                     struct umbra_error *error)
{
    const struct control_request request = {
        .vm = vm, .session = session, .params = params, .error = error
    };

    for (size_t i = 0; i < ARRAY_SIZE(methods); i++) {
        if (strcmp(methods[i].name, name) != 0) {
            continue;
        }
        if (params_check(&methods[i], params, error) < 0) {
            *code = CONTROL_INVALID_PARAMS;
            return NULL;
        }
        *code = CONTROL_FAILED;
        return methods[i].call(&request);
    }
    *code = CONTROL_METHOD_NOT_FOUND;
    error_set(error, UMBRA_ERROR_USAGE, ENOSYS,
              "there is no method \"%.64s\"; rpc.discover lists them", name);
    return NULL;
}
