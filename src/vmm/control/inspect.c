/* SPDX-License-Identifier: MIT */
/* The control socket's methods that look at a guest: memory, symbols, registers, reports. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/util.h"
#include "vmm/control/methods.h"
#include "vmm/symbols/symbols.h"

/* An address is given by a symbol's name or as a number. */
static bool one_place(const struct control_request *request)
{
    bool symbol = param_string(request, "symbol") != NULL;
    bool address = json_object_get(request->params, "address") != NULL;

    if (symbol == address) {
        error_set(request->error, UMBRA_ERROR_USAGE, EINVAL,
                  "give either \"symbol\" or \"address\"");
    }
    return symbol != address;
}

json_t *control_memory_read(const struct control_request *request)
{
    uint8_t bytes[CONTROL_MAX_TRANSFER];
    uint64_t length = param_uint(request, "length", 0);
    bool virtual = json_is_true(json_object_get(request->params, "virtual"));
    uint64_t address = param_uint(request, "address", 0);
    unsigned vcpu = (unsigned)param_uint(request, "vcpu", 0);
    const char *symbol = param_string(request, "symbol");
    json_t *json;
    int ret;

    if (!one_place(request)) {
        return NULL;
    }
    if (length == 0 || length > sizeof(bytes)) {
        error_set(request->error, UMBRA_ERROR_USAGE, EINVAL, "length is 1 to %zu",
                  sizeof(bytes));
        return NULL;
    }
    ret = symbol != NULL ? umbra_memory_read_symbol(request->vm, vcpu, symbol, bytes,
                                                    length, request->error)
          : virtual
              ? umbra_memory_read_virtual(request->vm, vcpu, address, bytes, length,
                                          request->error)
              : umbra_memory_read(request->vm, address, bytes, length, request->error);
    if (ret < 0) {
        return NULL;
    }
    json = json_object();
    json_object_set_new(json, "data", control_encode(bytes, length));
    return json;
}

static json_t *symbol_to_json(const struct umbra_symbol *symbol)
{
    char type[2] = { symbol->type, '\0' };

    return json_pack(
        "{s:s, s:s, s:o, s:I, s:I, s:s*}", "name", symbol->name, "type", type, "address",
        json_sprintf("0x%" PRIx64, symbol->address + symbol->offset), "offset",
        (json_int_t)symbol->offset, "length", (json_int_t)symbol->length, "module",
        symbol->module[0] != '\0' ? symbol->module : NULL);
}

/* Addresses of kernels do not fit into JSON's integers: they travel as text. */
json_t *control_symbol(const struct control_request *request)
{
    struct umbra_symbol symbol = { .size = sizeof(symbol) };
    const char *name = param_string(request, "symbol");
    const char *text = param_string(request, "address");
    char *end;
    int ret;

    if (!one_place(request)) {
        return NULL;
    }
    if (name != NULL) {
        ret = umbra_symbol_lookup(request->vm, name, &symbol, request->error);
    } else {
        uint64_t address = strtoull(text, &end, 0);

        if (end == text || *end != '\0') {
            error_set(request->error, UMBRA_ERROR_USAGE, EINVAL,
                      "\"address\" must be a number, as \"0xffffffff81000000\"");
            return NULL;
        }
        ret = umbra_symbol_at(request->vm, address, &symbol, request->error);
    }
    return ret < 0 ? NULL : symbol_to_json(&symbol);
}

json_t *control_report(const struct control_request *request)
{
    char *text = umbra_vm_report(request->vm, request->error);
    json_t *json;

    if (text == NULL) {
        return NULL;
    }
    json = json_pack("{s:s}", "text", text);
    if (json == NULL) { /* a console may print what is not UTF-8 */
        for (char *c = text; *c != '\0'; c++) {
            *c = (unsigned char)*c < 0x80 ? *c : '?';
        }
        json = json_pack("{s:s}", "text", text);
    }
    free(text);
    return json;
}

json_t *control_registers(const struct control_request *request)
{
    static const char *const names[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                         "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                         "r12", "r13", "r14", "r15" };
    struct umbra_registers registers = { .size = sizeof(registers) };
    char where[SYMBOLS_TEXT];
    json_t *json;

    if (umbra_registers_get(request->vm, (unsigned)param_uint(request, "vcpu", 0),
                            &registers, request->error) < 0) {
        return NULL;
    }
    json = json_object();
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        json_object_set_new(json, names[i], json_sprintf("0x%" PRIx64, registers.gpr[i]));
    }
    json_object_set_new(json, "rip", json_sprintf("0x%" PRIx64, registers.rip));
    json_object_set_new(json, "rflags", json_sprintf("0x%" PRIx64, registers.rflags));
    json_object_set_new(json, "cr0", json_sprintf("0x%" PRIx64, registers.cr0));
    json_object_set_new(json, "cr2", json_sprintf("0x%" PRIx64, registers.cr2));
    json_object_set_new(json, "cr3", json_sprintf("0x%" PRIx64, registers.cr3));
    json_object_set_new(json, "cr4", json_sprintf("0x%" PRIx64, registers.cr4));
    json_object_set_new(json, "efer", json_sprintf("0x%" PRIx64, registers.efer));
    symbols_describe(request->vm, registers.rip, where);
    if (where[0] != '\0') {
        json_object_set_new(json, "symbol", json_string(where));
    }
    return json;
}

json_t *control_core(const struct control_request *request)
{
    return control_done(
        umbra_vm_write_core(request->vm, param_string(request, "path"), request->error));
}
