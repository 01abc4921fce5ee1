/* SPDX-License-Identifier: MIT */
/* umbra ctl, ls, stop: running VMs by their names. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <umbra/umbra.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/client.h"
#include "vmm/cli/exit_status.h"
#include "vmm/cli/options.h"

/* --now, the only option. */
static bool set_now(void *context, const char *name, const char *value)
{
    *(bool *)context = true;
    return true;
}

/* Parameters: one JSON object, or words NAME=VALUE (VALUE is JSON, or else a string). */
static json_t *parse_params(int count, char **words, const char **bad)
{
    json_t *params = json_object();

    if (count == 1 && words[0][0] == '{') {
        json_decref(params);
        params = json_loads(words[0], JSON_REJECT_DUPLICATES, NULL);
        *bad = words[0];
        return params;
    }
    for (int i = 0; i < count; i++) {
        char *equals = strchr(words[i], '=');
        json_t *value;

        if (equals == NULL) {
            *bad = words[i];
            json_decref(params);
            return NULL;
        }
        *equals = '\0';
        value = json_loads(equals + 1, JSON_DECODE_ANY, NULL);
        json_object_set_new(params, words[i],
                            value != NULL ? value : json_string(equals + 1));
    }
    return params;
}

/* Call @method of VM @name and print its result when @print. */
static int call(const char *command, const char *name, const char *method, json_t *params,
                bool print)
{
    char why[2048];
    struct client client;
    json_t *result;
    int status = client_open(&client, command, name);

    if (status != EXIT_STATUS_OK) {
        json_decref(params);
        return status;
    }
    result = client_call(&client, method, params, why, sizeof(why));
    client_close(&client);
    if (result == NULL) {
        fprintf(stderr, "umbra %s: %s: %s: %s\n", command, name, method, why);
        return EXIT_STATUS_INTERNAL;
    }
    if (print) {
        json_dumpf(result, stdout, JSON_INDENT(2));
        putchar('\n');
    }
    json_decref(result);
    return EXIT_STATUS_OK;
}

int command_ctl(int argc, char **argv)
{
    const char *bad = "";
    json_t *params;

    if (argc >= 2 && strcmp(argv[1], "--help") == 0) {
        puts("Usage: umbra ctl NAME METHOD [JSON-OBJECT | KEY=VALUE...]\n\n"
             "Call a method on the control socket of a running VM and print its result.\n"
             "umbra ctl NAME rpc.discover lists the methods and their parameters.\n\n"
             "  umbra ctl web status\n"
             "  umbra ctl web memory.read address=1048576 length=16");
        return EXIT_STATUS_OK;
    }
    if (argc < 3) {
        return cli_usage("ctl", "name a VM and a method: umbra ctl NAME METHOD");
    }
    params = parse_params(argc - 3, argv + 3, &bad);
    if (params == NULL) {
        fprintf(stderr, "umbra ctl: \"%s\" is neither KEY=VALUE nor a JSON object\n",
                bad);
        return EXIT_STATUS_USAGE;
    }
    return call("ctl", argv[1], argv[2], params, true);
}

int command_stop(int argc, char **argv)
{
    static const struct cli_option options[] = {
        { "now", NULL, "end the run at once instead of pressing the power button" },
        { NULL, NULL, NULL },
    };
    bool now = false;
    const struct cli_parser parser = {
        .command = "stop",
        .synopsis = "[--now] NAME",
        .summary = "Ask a running VM's guest to power off.",
        .options = options,
        .max_arguments = 1,
        .set = set_now,
        .context = &now,
    };
    struct cli_line line;
    int status;

    status = cli_parse(&parser, argc, argv, NULL, &line);
    if (status >= 0) {
        return status;
    }
    if (line.count == 0) {
        return cli_usage("stop", "name the VM: umbra stop NAME");
    }
    return call("stop", line.arguments[0], now ? "stop" : "power_button", NULL, false);
}

int command_report(int argc, char **argv)
{
    char why[2048];
    struct client client;
    json_t *result;
    int status;

    if (argc >= 2 && strcmp(argv[1], "--help") == 0) {
        puts(
            "Usage: umbra report NAME\n\n"
            "Print a running VM's registers, code, backtraces, page walks and the end of "
            "its console. It\nstands still for a moment.");
        return EXIT_STATUS_OK;
    }
    if (argc != 2) {
        return cli_usage("report", "name the VM: umbra report NAME");
    }
    status = client_open(&client, "report", argv[1]);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    result = client_call(&client, "report", NULL, why, sizeof(why));
    client_close(&client);
    if (result == NULL) {
        fprintf(stderr, "umbra report: %s: %s\n", argv[1], why);
        return EXIT_STATUS_INTERNAL;
    }
    fputs(json_string_value(json_object_get(result, "text")), stdout);
    json_decref(result);
    return EXIT_STATUS_OK;
}

int command_core(int argc, char **argv)
{
    char *folder, *path = NULL;
    int status;

    if (argc >= 2 && strcmp(argv[1], "--help") == 0) {
        puts("Usage: umbra core NAME FILE\n\n"
             "Write an ELF core of a running VM's guest, for gdb and crash(8). FILE must "
             "be new.");
        return EXIT_STATUS_OK;
    }
    if (argc != 3) {
        return cli_usage("core", "name the VM and a new file: umbra core NAME FILE");
    }
    /* The VM's process writes it, and has another working folder perhaps. */
    folder = argv[2][0] == '/' ? strdup("") : getcwd(NULL, 0);
    if (folder == NULL ||
        asprintf(&path, "%s%s%s", folder, folder[0] != '\0' ? "/" : "", argv[2]) < 0) {
        free(folder);
        return EXIT_STATUS_INTERNAL;
    }
    status = call("core", argv[1], "core", json_pack("{s:s}", "path", path), false);
    free(path);
    free(folder);
    return status;
}

static void list_one(const char *name)
{
    struct client client;
    char why[2048], size[24], resident[24];
    json_t *status;

    if (client_open(&client, "ls", name) != EXIT_STATUS_OK) {
        return;
    }
    status = client_call(&client, "status", NULL, why, sizeof(why));
    client_close(&client);
    if (status == NULL) {
        return;
    }
    snprintf(size, sizeof(size), "%lldM",
             (long long)json_integer_value(json_object_get(status, "memory")) >> 20);
    snprintf(resident, sizeof(resident), "%lldM",
             (long long)json_integer_value(json_object_get(status, "memory_resident")) >>
                 20);
    printf("%-20s %-8s %7lld %4lld %8s %8s %8.1f  %s\n", name,
           json_string_value(json_object_get(status, "state")),
           (long long)json_integer_value(json_object_get(status, "pid")),
           (long long)json_integer_value(json_object_get(status, "cpus")), size, resident,
           (double)json_integer_value(json_object_get(status, "run_ns")) / 1e9,
           json_string_value(json_object_get(status, "kernel")));
    json_decref(status);
}

int command_ls(int argc, char **argv)
{
    char folder[108];
    struct umbra_error error;
    struct dirent **names;
    int count;

    (void)argv;
    if (argc > 1) {
        puts("Usage: umbra ls\n\nList the running VMs that have a name (umbra run "
             "--name).");
        return strcmp(argv[1], "--help") == 0 ? EXIT_STATUS_OK : EXIT_STATUS_USAGE;
    }
    if (umbra_control_path(NULL, folder, sizeof(folder), &error) != 0) {
        return exit_status_fail("ls", &error);
    }
    count = scandir(folder, &names, NULL, alphasort);
    if (count < 0) {
        fprintf(stderr, "umbra ls: cannot read %s: %s\n", folder, strerror(errno));
        return EXIT_STATUS_INTERNAL;
    }
    printf("%-20s %-8s %7s %4s %8s %8s %8s  %s\n", "NAME", "STATE", "PID", "CPUS",
           "MEMORY", "RESIDENT", "SECONDS", "KERNEL");
    for (int i = 0; i < count; i++) {
        char *dot = strrchr(names[i]->d_name, '.');

        if (dot != NULL && strcmp(dot, ".sock") == 0) {
            *dot = '\0';
            list_one(names[i]->d_name);
        }
        free(names[i]);
    }
    free(names);
    return EXIT_STATUS_OK;
}
