/* SPDX-License-Identifier: MIT */
/* The GDB server's commands: registers, memory, breakpoints, running, queries. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/debug/gdb_internal.h"
#include "vmm/vm/vm.h"

static void gdb_send_error(struct gdb *gdb, int errnum)
{
    char text[8];

    snprintf(text, sizeof(text), "E%02x",
             (unsigned)(errnum < 0 ? -errnum : errnum) & 0xff);
    gdb_send(gdb, text);
}

static void gdb_send_result(struct gdb *gdb, int ret)
{
    if (ret < 0) {
        gdb_send_error(gdb, ret);
    } else {
        gdb_send(gdb, "OK");
    }
}

static void hex_encode(const uint8_t *bytes, size_t length, char *text)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < length; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[2 * length] = '\0';
}

/* ---- Registers and memory ---------------------------------------------------------------- */

static struct vcpu *gdb_vcpu(struct gdb *gdb)
{
    return &gdb->vm->machine.vcpus->vcpus[gdb->vcpu];
}

static unsigned gdb_vcpu_count(const struct gdb *gdb)
{
    return gdb->vm->machine.vcpus->options.count;
}

static void gdb_read_registers(struct gdb *gdb)
{
    uint8_t bytes[GDB_REGISTERS_BYTES];
    int size = gdb_registers_get(gdb_vcpu(gdb), bytes);

    if (size < 0) {
        gdb_send_error(gdb, size);
        return;
    }
    hex_encode(bytes, (size_t)size, gdb->out);
    gdb_send(gdb, gdb->out);
}

static void gdb_write_registers(struct gdb *gdb, const char *text)
{
    uint8_t bytes[GDB_REGISTERS_BYTES];
    size_t size = hex_decode(text, bytes, sizeof(bytes));

    gdb_send_result(gdb, gdb_registers_set(gdb_vcpu(gdb), bytes, size));
}

/* p NUMBER, P NUMBER=VALUE */
static void gdb_one_register(struct gdb *gdb, const char *text, bool write)
{
    uint8_t bytes[GDB_REGISTERS_BYTES];
    size_t offset, size;
    char *end;
    unsigned long number = strtoul(text, &end, 16);
    int ret = gdb_registers_get(gdb_vcpu(gdb), bytes);

    if (ret < 0 || number > UINT16_MAX ||
        !gdb_register_place((unsigned)number, &offset, &size)) {
        gdb_send_error(gdb, ret < 0 ? ret : EINVAL);
    } else if (!write) {
        hex_encode(bytes + offset, size, gdb->out);
        gdb_send(gdb, gdb->out);
    } else if (*end != '=' || hex_decode(end + 1, bytes + offset, size) != size) {
        gdb_send_error(gdb, EINVAL);
    } else {
        gdb_send_result(gdb, gdb_registers_set(gdb_vcpu(gdb), bytes, (size_t)ret));
    }
}

/* m ADDRESS,LENGTH and M ADDRESS,LENGTH:BYTES; a read gives what there is up to a hole. */
static void gdb_memory(struct gdb *gdb, const char *text, bool write)
{
    static const size_t page = 4096;
    uint8_t bytes[GDB_PACKET_MAX / 2];
    struct umbra_error error;
    char *end;
    uint64_t address = strtoull(text, &end, 16);
    uint64_t length = *end == ',' ? strtoull(end + 1, &end, 16) : 0;
    size_t done = 0;
    int ret = 0;

    if (length > sizeof(bytes)) {
        length = sizeof(bytes);
    }
    if (write) {
        if (*end != ':' || hex_decode(end + 1, bytes, length) != length) {
            gdb_send_error(gdb, EINVAL);
            return;
        }
        gdb_send_result(gdb, umbra_memory_write_virtual(gdb->vm, gdb->vcpu, address,
                                                        bytes, length, &error));
        return;
    }
    while (done < length && ret == 0) {
        size_t part = page - (address + done) % page;

        part = part < length - done ? part : length - done;
        ret = umbra_memory_read_virtual(gdb->vm, gdb->vcpu, address + done, bytes + done,
                                        part, &error);
        done += ret == 0 ? part : 0;
    }
    if (done == 0 && length > 0) {
        gdb_send_error(gdb, EFAULT);
        return;
    }
    hex_encode(bytes, done, gdb->out);
    gdb_send(gdb, gdb->out);
}

/* Z and z: TYPE,ADDRESS,KIND */
static void gdb_breakpoint(struct gdb *gdb, const char *text, bool set)
{
    static const enum umbra_breakpoint_kind kinds[] = {
        UMBRA_BREAKPOINT_SOFTWARE, UMBRA_BREAKPOINT_HARDWARE, UMBRA_WATCHPOINT_WRITE,
        UMBRA_WATCHPOINT_ACCESS,   UMBRA_WATCHPOINT_ACCESS,
    };
    struct umbra_error error;
    char *end;
    unsigned long type = strtoul(text, &end, 16);
    uint64_t address = *end == ',' ? strtoull(end + 1, &end, 16) : 0;
    unsigned length = *end == ',' ? (unsigned)strtoul(end + 1, &end, 16) : 0;

    if (type >= ARRAY_SIZE(kinds)) {
        gdb_send(gdb, "");
        return;
    }
    gdb_send_result(
        gdb,
        set ? umbra_breakpoint_add(gdb->vm, kinds[type], address, length, &error)
            : umbra_breakpoint_remove(gdb->vm, kinds[type], address, length, &error));
}

/* ---- Running ------------------------------------------------------------------------------ */

void gdb_report_stop(struct gdb *gdb)
{
    struct umbra_stop stop = { .size = sizeof(stop) };
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    char text[128];

    if (umbra_vm_wait_stop(gdb->vm, 0, &stop, NULL) < 0) {
        return; /* it runs: nothing to tell */
    }
    gdb->running = false;
    if (stop.kind == UMBRA_STOP_ENDED) {
        umbra_vm_wait(gdb->vm, 0, &outcome, NULL);
        snprintf(text, sizeof(text), "W%02x",
                 outcome.kind == UMBRA_OUTCOME_POWEROFF ? 0u
                 : outcome.kind == UMBRA_OUTCOME_EXIT
                     ? (2 * outcome.exit_value + 1) & 0xff
                     : 1u);
        gdb_send(gdb, text);
        return;
    }
    if (stop.kind != UMBRA_STOP_PAUSED) {
        gdb->vcpu = stop.vcpu;
    }
    if (stop.kind == UMBRA_STOP_WATCHPOINT) {
        snprintf(text, sizeof(text), "T%02xthread:%x;watch:%" PRIx64 ";", GDB_SIGTRAP,
                 stop.vcpu + 1, stop.address);
    } else {
        snprintf(text, sizeof(text), "T%02xthread:%x;",
                 stop.kind == UMBRA_STOP_PAUSED ? GDB_SIGINT : GDB_SIGTRAP,
                 gdb->vcpu + 1);
    }
    gdb_send(gdb, text);
}

static void gdb_continue(struct gdb *gdb)
{
    struct umbra_error error;
    int ret = vm_state(gdb->vm) == VM_CREATED ? umbra_vm_start(gdb->vm, &error)
                                              : umbra_vm_resume(gdb->vm, &error);

    if (ret < 0) {
        gdb_report_stop(gdb);
    } else {
        gdb->running = true;
    }
}

static void gdb_step(struct gdb *gdb, unsigned vcpu)
{
    struct umbra_error error;
    int ret;

    gdb->vcpu = vcpu;
    if (vm_state(gdb->vm) == VM_CREATED) {
        ret = vm_start_paused(gdb->vm, &error);
    } else {
        ret = 0;
    }
    if (ret == 0) {
        ret = umbra_vm_step(gdb->vm, vcpu, NULL, &error);
    }
    if (ret == -EPIPE) {
        gdb->running = true; /* the end is on its way */
    } else {
        gdb_report_stop(gdb);
    }
}

/* vCont;ACTION[:THREAD]... : a step of one thread if any asks for it, otherwise all run. */
static void gdb_vcont(struct gdb *gdb, const char *text)
{
    if (strcmp(text, "?") == 0) {
        gdb_send(gdb, "vCont;c;C;s;S");
        return;
    }
    for (const char *action = text; *action == ';';) {
        const char *thread = strpbrk(action + 1, ":;");

        if (action[1] == 's' || action[1] == 'S') {
            unsigned long id = thread != NULL && *thread == ':'
                                   ? strtoul(thread + 1, NULL, 16)
                                   : gdb->vcpu + 1;

            gdb_step(gdb,
                     id >= 1 && id <= gdb_vcpu_count(gdb) ? (unsigned)id - 1 : gdb->vcpu);
            return;
        }
        action = strchr(action + 1, ';');
        if (action == NULL) {
            break;
        }
    }
    gdb_continue(gdb);
}

/* ---- Queries -------------------------------------------------------------------------------- */

/* qXfer:features:read:target.xml:OFFSET,LENGTH */
static void gdb_send_xml(struct gdb *gdb, const char *range)
{
    const char *xml = gdb_target_xml();
    char *end;
    size_t total = strlen(xml), offset = strtoul(range, &end, 16);
    size_t length = *end == ',' ? strtoul(end + 1, NULL, 16) : 0;

    offset = offset < total ? offset : total;
    length = length < total - offset ? length : total - offset;
    if (length > GDB_PACKET_MAX - 16) {
        length = GDB_PACKET_MAX - 16;
    }
    gdb->out[0] = offset + length < total ? 'm' : 'l';
    memcpy(gdb->out + 1, xml + offset, length);
    gdb->out[1 + length] = '\0';
    gdb_send(gdb, gdb->out);
}

static void gdb_thread_list(struct gdb *gdb)
{
    size_t used = 1;

    gdb->out[0] = 'm';
    for (unsigned i = 0; i < gdb_vcpu_count(gdb); i++) {
        used += (size_t)snprintf(gdb->out + used, sizeof(gdb->out) - used, "%s%x",
                                 i > 0 ? "," : "", i + 1);
    }
    gdb_send(gdb, gdb->out);
}

static void gdb_query(struct gdb *gdb, const char *text)
{
    static const char xml[] = "Xfer:features:read:target.xml:";
    char name[32];

    if (strncmp(text, "Supported", 9) == 0) {
        snprintf(gdb->out, sizeof(gdb->out),
                 "PacketSize=%x;qXfer:features:read+;vContSupported+;QStartNoAckMode+",
                 GDB_PACKET_MAX - 16);
        gdb_send(gdb, gdb->out);
    } else if (strncmp(text, xml, sizeof(xml) - 1) == 0) {
        gdb_send_xml(gdb, text + sizeof(xml) - 1);
    } else if (strcmp(text, "fThreadInfo") == 0) {
        gdb_thread_list(gdb);
    } else if (strcmp(text, "sThreadInfo") == 0) {
        gdb_send(gdb, "l");
    } else if (strncmp(text, "ThreadExtraInfo,", 16) == 0) {
        snprintf(name, sizeof(name), "vCPU %lu", strtoul(text + 16, NULL, 16) - 1);
        hex_encode((const uint8_t *)name, strlen(name), gdb->out);
        gdb_send(gdb, gdb->out);
    } else if (strcmp(text, "C") == 0) {
        snprintf(gdb->out, sizeof(gdb->out), "QC%x", gdb->vcpu + 1);
        gdb_send(gdb, gdb->out);
    } else if (strncmp(text, "Attached", 8) == 0) {
        gdb_send(gdb, "1");
    } else {
        gdb_send(gdb, "");
    }
}

static void gdb_set_thread(struct gdb *gdb, const char *text)
{
    long id = strtol(text, NULL, 16);

    if (id > 0 && (unsigned long)id <= gdb_vcpu_count(gdb)) {
        gdb->vcpu = (unsigned)id - 1;
    }
    gdb_send(gdb, id <= (long)gdb_vcpu_count(gdb) ? "OK" : "E16");
}

static void gdb_detach(struct gdb *gdb)
{
    gdb_send(gdb, "OK");
    close(gdb->client);
    gdb->client = -1;
}

void gdb_command(struct gdb *gdb, const char *text)
{
    unsigned long id;

    switch (text[0]) {
    case '?':
        gdb_report_stop(gdb);
        break;
    case 'g':
        gdb_read_registers(gdb);
        break;
    case 'G':
        gdb_write_registers(gdb, text + 1);
        break;
    case 'p':
    case 'P':
        gdb_one_register(gdb, text + 1, text[0] == 'P');
        break;
    case 'm':
    case 'M':
        gdb_memory(gdb, text + 1, text[0] == 'M');
        break;
    case 'Z':
    case 'z':
        gdb_breakpoint(gdb, text + 1, text[0] == 'Z');
        break;
    case 'c':
    case 'C':
        gdb_continue(gdb);
        break;
    case 's':
    case 'S':
        gdb_step(gdb, gdb->vcpu);
        break;
    case 'H':
        gdb_set_thread(gdb, text[1] != '\0' ? text + 2 : "");
        break;
    case 'T':
        id = strtoul(text + 1, NULL, 16);
        gdb_send(gdb, id >= 1 && id <= gdb_vcpu_count(gdb) ? "OK" : "E03");
        break;
    case 'q':
        gdb_query(gdb, text + 1);
        break;
    case 'Q':
        if (strcmp(text, "QStartNoAckMode") == 0) {
            gdb_send(gdb, "OK");
            gdb->no_ack = true;
        } else {
            gdb_send(gdb, "");
        }
        break;
    case 'v':
        if (strncmp(text, "vCont", 5) == 0) {
            gdb_vcont(gdb, text + 5);
        } else if (strncmp(text, "vKill", 5) == 0) {
            gdb_send(gdb, "OK");
            umbra_vm_stop(gdb->vm, "killed by gdb", NULL);
        } else {
            gdb_send(gdb, "");
        }
        break;
    case 'k':
        umbra_vm_stop(gdb->vm, "killed by gdb", NULL);
        break;
    case 'D':
        gdb_detach(gdb);
        break;
    default:
        gdb_send(gdb, "");
        break;
    }
}
