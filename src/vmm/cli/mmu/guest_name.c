/* SPDX-License-Identifier: MIT */
/* A guest to look at through the control socket of the umbra that runs it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "vmm/cli/client.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/mmu/guest.h"

enum { TRANSFER = 32768 }; /* bytes in one message */

struct name_source {
    struct client client;
    bool paused_by_us;
};

/* ---- Base64 (RFC 4648, section 4) --------------------------------------------------------- */

static const char digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static json_t *encode(const uint8_t *bytes, size_t length)
{
    char *text = malloc((length + 2) / 3 * 4 + 1), *at = text;
    json_t *json;

    if (text == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < length; i += 3) {
        uint32_t group = (uint32_t)bytes[i] << 16 |
                         (i + 1 < length ? (uint32_t)bytes[i + 1] << 8 : 0) |
                         (i + 2 < length ? bytes[i + 2] : 0);

        for (unsigned n = 0; n < 4; n++) {
            *at++ = i + n > length ? '=' : digits[group >> (18 - 6 * n) & 63];
        }
    }
    *at = '\0';
    json = json_string(text);
    free(text);
    return json;
}

static size_t decode(const char *text, uint8_t *bytes, size_t max)
{
    uint8_t value[256];
    uint32_t group = 0;
    unsigned bits = 0;
    size_t used = 0;

    memset(value, 0xff, sizeof(value));
    for (unsigned i = 0; i < 64; i++) {
        value[(uint8_t)digits[i]] = (uint8_t)i;
    }
    for (; text != NULL && value[(uint8_t)*text] != 0xff && used < max; text++) {
        group = group << 6 | value[(uint8_t)*text];
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            bytes[used++] = (uint8_t)(group >> bits);
        }
    }
    return used;
}

/* ---- Calls -------------------------------------------------------------------------------- */

static json_t *name_call(struct mmu_guest *guest, const char *method, json_t *params)
{
    struct name_source *source = guest->source;
    json_t *result;

    guest->error = (struct umbra_error){ .code = UMBRA_ERROR_STATE, .errnum = EPROTO };
    result = client_call(&source->client, method, params, guest->error.message,
                         sizeof(guest->error.message));
    return result;
}

/* The bytes of a result's member; false unless they are @length. */
static bool name_bytes(json_t *result, const char *member, void *buffer, size_t length)
{
    return decode(json_string_value(json_object_get(result, member)), buffer, length) ==
           length;
}

static int name_read(struct mmu_guest *guest, uint64_t gpa, void *buffer, size_t length)
{
    for (size_t done = 0; done < length; done += TRANSFER) {
        size_t part = length - done < TRANSFER ? length - done : TRANSFER;
        json_t *result =
            name_call(guest, "memory.read",
                      json_pack("{s:I, s:I}", "address", (json_int_t)(gpa + done),
                                "length", (json_int_t)part));
        bool good = name_bytes(result, "data", (char *)buffer + done, part);

        json_decref(result);
        if (!good) {
            return -EFAULT;
        }
    }
    return 0;
}

static int name_write(struct mmu_guest *guest, uint64_t gpa, const void *buffer,
                      size_t length)
{
    for (size_t done = 0; done < length; done += TRANSFER) {
        size_t part = length - done < TRANSFER ? length - done : TRANSFER;
        json_t *result =
            name_call(guest, "memory.write",
                      json_pack("{s:I, s:o}", "address", (json_int_t)(gpa + done), "data",
                                encode((const uint8_t *)buffer + done, part)));

        if (result == NULL) {
            return -EFAULT;
        }
        json_decref(result);
    }
    return 0;
}

static uint64_t name_number(const json_t *result, const char *member)
{
    const char *text = json_string_value(json_object_get(result, member));

    return text != NULL ? strtoull(text, NULL, 0) : 0;
}

static int name_paging(struct mmu_guest *guest, unsigned vcpu,
                       struct umbra_paging *paging)
{
    json_t *result = name_call(guest, "paging", json_pack("{s:i}", "vcpu", (int)vcpu));

    if (result == NULL) {
        return -EPROTO;
    }
    paging->cr0 = name_number(result, "cr0");
    paging->cr3 = name_number(result, "cr3");
    paging->cr4 = name_number(result, "cr4");
    paging->efer = name_number(result, "efer");
    paging->rflags = name_number(result, "rflags");
    paging->pkru = (uint32_t)name_number(result, "pkru");
    paging->physical_bits =
        (uint8_t)json_integer_value(json_object_get(result, "physical_bits"));
    paging->cpl = (uint8_t)json_integer_value(json_object_get(result, "cpl"));
    paging->gbpages = json_is_true(json_object_get(result, "gbpages"));
    paging->amd = json_is_true(json_object_get(result, "amd"));
    json_decref(result);
    return 0;
}

static int name_translate(struct mmu_guest *guest, unsigned vcpu, uint64_t cr3,
                          const uint64_t *gva, uint64_t *gpa, size_t count)
{
    json_t *params = json_pack("{s:i}", "vcpu", (int)vcpu), *result;
    bool good;

    for (size_t i = 0; i < count; i++) {
        gpa[i] = htole64(gva[i]);
    }
    json_object_set_new(params, "addresses",
                        encode((const uint8_t *)gpa, count * sizeof(*gpa)));
    if (cr3 != UMBRA_CR3_CURRENT) {
        json_object_set_new(params, "cr3",
                            json_sprintf("0x%llx", (unsigned long long)cr3));
    }
    result = name_call(guest, "translate", params);
    good = name_bytes(result, "data", gpa, count * sizeof(*gpa));
    json_decref(result);
    for (size_t i = 0; i < count; i++) {
        gpa[i] = le64toh(gpa[i]);
    }
    return good ? 0 : -EPROTO;
}

static int name_find(struct mmu_guest *guest, unsigned offset, const void *bytes,
                     size_t length, uint64_t *gpa, size_t max, size_t *count)
{
    json_t *result = name_call(
        guest, "memory.find",
        json_pack("{s:i, s:o}", "offset", (int)offset, "data", encode(bytes, length)));

    if (result == NULL) {
        return -EPROTO;
    }
    *count = (size_t)json_integer_value(json_object_get(result, "count"));
    max = decode(json_string_value(json_object_get(result, "pages")), (uint8_t *)gpa,
                 max * sizeof(*gpa)) /
          sizeof(*gpa);
    for (size_t i = 0; i < max; i++) {
        gpa[i] = le64toh(gpa[i]);
    }
    json_decref(result);
    return 0;
}

/* A guest that somebody else has paused stays so. */
static int name_hold(struct mmu_guest *guest, bool hold)
{
    struct name_source *source = guest->source;
    json_t *result;

    if (hold) {
        json_t *status = name_call(guest, "status", NULL);
        const char *state = json_string_value(json_object_get(status, "state"));

        source->paused_by_us = state != NULL && strcmp(state, "running") == 0;
        json_decref(status);
    }
    if (!source->paused_by_us) {
        return 0;
    }
    result = name_call(guest, hold ? "pause" : "resume", NULL);
    if (result == NULL) {
        return -EPROTO;
    }
    json_decref(result);
    return 0;
}

static void name_close(struct mmu_guest *guest)
{
    struct name_source *source = guest->source;

    (void)mmu_guest_hold(guest, false);
    client_close(&source->client);
    free(source);
}

static const struct mmu_guest_ops name_ops = {
    .read = name_read,
    .write = name_write,
    .paging = name_paging,
    .translate = name_translate,
    .find = name_find,
    .hold = name_hold,
    .close = name_close,
};

static bool name_describe(struct mmu_guest *guest)
{
    json_t *status = name_call(guest, "status", NULL);
    json_t *map = name_call(guest, "memory.map", NULL), *entry;
    size_t index;

    guest->cpus = (unsigned)json_integer_value(json_object_get(status, "cpus"));
    json_array_foreach(json_object_get(map, "ranges"), index, entry)
    {
        if (guest->ranges < MMU_GUEST_RANGES) {
            guest->range[guest->ranges++] = (struct umbra_memory_range){
                .gpa = (uint64_t)json_integer_value(json_object_get(entry, "address")),
                .length = (uint64_t)json_integer_value(json_object_get(entry, "length")),
                .readonly = json_is_true(json_object_get(entry, "readonly")),
            };
        }
    }
    json_decref(status);
    json_decref(map);
    return guest->cpus > 0 && guest->ranges > 0;
}

int mmu_guest_open_name(struct mmu_guest *guest, const char *command, const char *name)
{
    struct name_source *source = calloc(1, sizeof(*source));
    int status;

    *guest = (struct mmu_guest){ .command = command, .source = source };
    if (source == NULL) {
        return EXIT_STATUS_INTERNAL;
    }
    status = client_open(&source->client, command, name);
    if (status != EXIT_STATUS_OK) {
        free(source);
        return status;
    }
    guest->ops = &name_ops;
    if (!name_describe(guest) || mmu_guest_hold(guest, true) != 0) {
        status = exit_status_fail(command, &guest->error);
        mmu_guest_close(guest);
        return status;
    }
    return -1;
}
