/* SPDX-License-Identifier: MIT */
/* The control socket's methods for who looks at a guest's page tables. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/util.h"
#include "vmm/control/methods.h"

enum { MAX_ADDRESSES = CONTROL_MAX_TRANSFER / sizeof(uint64_t) };

json_t *control_memory_map(const struct control_request *request)
{
    struct umbra_vm *vm = request->vm;
    struct umbra_memory_range range = { .size = sizeof(range) };
    json_t *list = json_array();

    for (size_t i = 0; umbra_memory_range_at(vm, i, &range) == 0; i++) {
        json_array_append_new(
            list, json_pack("{s:I, s:I, s:b}", "address", (json_int_t)range.gpa, "length",
                            (json_int_t)range.length, "readonly", range.readonly));
    }
    return json_pack("{s:o}", "ranges", list);
}

json_t *control_memory_write(const struct control_request *request)
{
    const json_t *params = request->params;
    struct umbra_error *error = request->error;
    struct umbra_vm *vm = request->vm;
    const json_t *address = json_object_get(params, "address");
    uint8_t bytes[CONTROL_MAX_TRANSFER];
    int length = control_decode(json_string_value(json_object_get(params, "data")), bytes,
                                sizeof(bytes));

    if (length <= 0) {
        error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                  "data is not base64, of no bytes, or longer than %d",
                  CONTROL_MAX_TRANSFER);
        return NULL;
    }
    return umbra_memory_write(vm, (uint64_t)json_integer_value(address), bytes,
                              (size_t)length, error) < 0
               ? NULL
               : json_object();
}

json_t *control_memory_find(const struct control_request *request)
{
    const json_t *params = request->params;
    struct umbra_error *error = request->error;
    struct umbra_vm *vm = request->vm;
    const json_t *offset = json_object_get(params, "offset");
    uint8_t bytes[CONTROL_MAX_TRANSFER];
    uint64_t found[MAX_ADDRESSES];
    int length = control_decode(json_string_value(json_object_get(params, "data")), bytes,
                                sizeof(bytes));
    size_t count;

    if (length <= 0 ||
        umbra_memory_find(vm, (unsigned)json_integer_value(offset), bytes, (size_t)length,
                          found, MAX_ADDRESSES, &count, error) < 0) {
        return length > 0 ? NULL
                          : (error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                                       "data is not base64, or of no bytes"),
                             NULL);
    }
    return json_pack(
        "{s:I, s:o}", "count", (json_int_t)count, "pages",
        control_encode(found,
                       (count < MAX_ADDRESSES ? count : MAX_ADDRESSES) * sizeof(*found)));
}

json_t *control_paging(const struct control_request *request)
{
    unsigned vcpu = (unsigned)param_uint(request, "vcpu", 0);
    struct umbra_error *error = request->error;
    struct umbra_vm *vm = request->vm;
    struct umbra_paging paging = { .size = sizeof(paging) };
    json_t *json;

    if (umbra_paging_get(vm, vcpu, &paging, error) < 0) {
        return NULL;
    }
    json = json_pack("{s:i, s:b, s:b, s:i}", "physical_bits", paging.physical_bits,
                     "gbpages", paging.gbpages, "amd", paging.amd, "cpl", paging.cpl);
    json_object_set_new(json, "cr0", json_sprintf("0x%" PRIx64, paging.cr0));
    json_object_set_new(json, "cr3", json_sprintf("0x%" PRIx64, paging.cr3));
    json_object_set_new(json, "cr4", json_sprintf("0x%" PRIx64, paging.cr4));
    json_object_set_new(json, "efer", json_sprintf("0x%" PRIx64, paging.efer));
    json_object_set_new(json, "rflags", json_sprintf("0x%" PRIx64, paging.rflags));
    json_object_set_new(json, "pkru", json_sprintf("0x%" PRIx32, paging.pkru));
    return json;
}

json_t *control_translate(const struct control_request *request)
{
    const json_t *params = request->params;
    struct umbra_error *error = request->error;
    struct umbra_vm *vm = request->vm;
    const char *text = json_string_value(json_object_get(params, "cr3"));
    unsigned vcpu = (unsigned)json_integer_value(json_object_get(params, "vcpu"));
    uint64_t addresses[MAX_ADDRESSES], cr3 = UMBRA_CR3_CURRENT;
    int length = control_decode(json_string_value(json_object_get(params, "addresses")),
                                (uint8_t *)addresses, sizeof(addresses));
    char *end = NULL;

    if (length < 0 || length % sizeof(uint64_t) != 0) {
        error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                  "addresses are base64 of at most %zu little-endian 64-bit numbers",
                  (size_t)MAX_ADDRESSES);
        return NULL;
    }
    if (text != NULL) {
        cr3 = strtoull(text, &end, 0);
        if (end == text || *end != '\0') {
            error_set(error, UMBRA_ERROR_USAGE, EINVAL, "cr3 is not a number: %.32s",
                      text);
            return NULL;
        }
    }
    for (size_t i = 0; i < (size_t)length / sizeof(uint64_t); i++) {
        addresses[i] = le64toh(addresses[i]);
    }
    if (umbra_translate_list(vm, vcpu, cr3, addresses, addresses,
                             (size_t)length / sizeof(uint64_t), error) < 0) {
        return NULL;
    }
    return json_pack("{s:o}", "data", control_encode(addresses, (size_t)length));
}
