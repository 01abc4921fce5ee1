/* SPDX-License-Identifier: MIT */
/*
 * Where CPUID masks do not apply and the guest's kernel runs in KVM's instruction emulator,
 * a Linux guest sees features whose instructions the emulator lacks. Its own command line
 * can mask them.
 */
#include "vmm/boot/adapt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Features by their name in /proc/cpuinfo (Linux 5.17 and later take names). The kernel
 * keeps 128 bytes of this list. */
#define CLEARED "smap,smep,popcnt,cx16,erms,fsrm,invpcid,pcid,fsgsbase,rdpid,umip"

struct option {
    const char *text; /* "name" or "name=value" */
    bool repeats;     /* may be given several times: added although the user gave one */
};

/*
 * Initcalls that are left out. Hypercalls never complete there, so ptp_kvm_init would hang.
 * The others take an interpreted kernel minutes each and prepare what nobody asks for
 * before user space: names and files for tracing, type information for BPF programs (the
 * first to register kernel functions parses all of it; of these, only cubictcp_register
 * has another effect: TCP's default becomes reno), a self-test of BLAKE2s.
 */
#define BLACKLIST                                                                        \
    "ptp_kvm_init"                                                                       \
    ",ftrace_check_for_weak_functions,trace_eval_init,tracer_init_tracefs"               \
    ",cubictcp_register,kfunc_init,bpf_prog_test_run_init,bpf_rstat_kfunc_init"          \
    ",bpf_tcp_ca_kfunc_init,bpf_key_sig_kfuncs_init,blake2s_mod_init"

/* Besides: no XSAVE, which the emulator lacks; no spinlocks by hypercall; no watchdog, which
 * takes long initcalls for lockups; no self-tests of ciphers and elliptic curves. */
static const struct option options[] = {
    { "noxsave", false },           { "initcall_blacklist=" BLACKLIST, true },
    { "nopvspin", false },          { "nosoftlockup", false },
    { "cryptomgr.notests", false },
};

/* The value of the last "name=..." word of @line; its length in *length, or NULL. */
static const char *find_option(const char *line, const char *name, size_t *length)
{
    size_t n = strcspn(name, "=");
    const char *found = NULL;

    while (*line != '\0') {
        size_t word = strcspn(line, " ");

        if (word >= n && strncmp(line, name, n) == 0 && (word == n || line[n] == '=')) {
            found = word == n ? line + n : line + n + 1;
            *length = (size_t)(line + word - found);
        }
        if (word == 2 && strncmp(line, "--", 2) == 0) {
            break; /* what follows belongs to init */
        }
        line += word;
        line += strspn(line, " ");
    }
    return found;
}

/* Up to the word "--", behind which the kernel does not look. */
static size_t kernel_part(const char *line)
{
    const char *p = line;

    while ((p = strstr(p, "--")) != NULL) {
        if ((p == line || p[-1] == ' ') && (p[2] == ' ' || p[2] == '\0')) {
            return (size_t)(p - line);
        }
        p += 2;
    }
    return strlen(line);
}

int adapt_command_line(const struct kvm_probe *probe, const char *append, char **adapted)
{
    size_t length, user_length = 0, head = kernel_part(append);
    const char *user = find_option(append, "clearcpuid", &user_length);
    char *text = NULL;
    FILE *out;

    *adapted = NULL;
    if (!probe->measured || probe->masks_apply || !probe->cpl0_interpreted) {
        return 0;
    }
    out = open_memstream(&text, &length);
    if (out == NULL) {
        return -ENOMEM;
    }
    fprintf(out, "%.*s%s", (int)head, append,
            head > 0 && append[head - 1] != ' ' ? " " : "");
    /* The kernel takes the last clearcpuid= alone. */
    fprintf(out, "clearcpuid=%.*s%s" CLEARED, (int)user_length, user != NULL ? user : "",
            user_length > 0 ? "," : "");
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        size_t ignored;

        if (options[i].repeats ||
            find_option(append, options[i].text, &ignored) == NULL) {
            fprintf(out, " %s", options[i].text);
        }
    }
    fprintf(out, "%s%s", append[head] != '\0' ? " " : "", append + head);
    if (fclose(out) != 0) {
        free(text);
        return -ENOMEM;
    }
    *adapted = text;
    return 0;
}

const char *adapt_reason(const struct kvm_probe *probe)
{
    if (!probe->measured || probe->masks_apply || !probe->cpl0_interpreted) {
        return "the kernel's command line is as given";
    }
    return "this host's KVM interprets guest kernels and ignores CPUID masks: "
           "clearcpuid= "
           "and the like were added to the kernel's command line (\"adapt\": false "
           "leaves "
           "it alone)";
}
