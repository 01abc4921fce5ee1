/* SPDX-License-Identifier: MIT */
/* Names of CPUID feature bits (Intel SDM vol. 2A CPUID; AMD APM vol. 3, appendix E). */
#include <string.h>

#include "base/util.h"
#include "vcpu/x86_64/cpu_model.h"

enum { EAX, EBX, ECX, EDX };

static const struct cpu_feature features[] = {
    { "pni", 1, 0, ECX, 0 },
    { "pclmulqdq", 1, 0, ECX, 1 },
    { "dtes64", 1, 0, ECX, 2 },
    { "monitor", 1, 0, ECX, 3 },
    { "ds_cpl", 1, 0, ECX, 4 },
    { "vmx", 1, 0, ECX, 5 },
    { "smx", 1, 0, ECX, 6 },
    { "est", 1, 0, ECX, 7 },
    { "tm2", 1, 0, ECX, 8 },
    { "ssse3", 1, 0, ECX, 9 },
    { "fma", 1, 0, ECX, 12 },
    { "cx16", 1, 0, ECX, 13 },
    { "xtpr", 1, 0, ECX, 14 },
    { "pdcm", 1, 0, ECX, 15 },
    { "pcid", 1, 0, ECX, 17 },
    { "dca", 1, 0, ECX, 18 },
    { "sse4_1", 1, 0, ECX, 19 },
    { "sse4_2", 1, 0, ECX, 20 },
    { "x2apic", 1, 0, ECX, 21 },
    { "movbe", 1, 0, ECX, 22 },
    { "popcnt", 1, 0, ECX, 23 },
    { "tsc_deadline_timer", 1, 0, ECX, 24 },
    { "aes", 1, 0, ECX, 25 },
    { "xsave", 1, 0, ECX, 26 },
    { "avx", 1, 0, ECX, 28 },
    { "f16c", 1, 0, ECX, 29 },
    { "rdrand", 1, 0, ECX, 30 },
    { "hypervisor", 1, 0, ECX, 31 },
    { "fpu", 1, 0, EDX, 0 },
    { "vme", 1, 0, EDX, 1 },
    { "de", 1, 0, EDX, 2 },
    { "pse", 1, 0, EDX, 3 },
    { "tsc", 1, 0, EDX, 4 },
    { "msr", 1, 0, EDX, 5 },
    { "pae", 1, 0, EDX, 6 },
    { "mce", 1, 0, EDX, 7 },
    { "cx8", 1, 0, EDX, 8 },
    { "apic", 1, 0, EDX, 9 },
    { "sep", 1, 0, EDX, 11 },
    { "mtrr", 1, 0, EDX, 12 },
    { "pge", 1, 0, EDX, 13 },
    { "mca", 1, 0, EDX, 14 },
    { "cmov", 1, 0, EDX, 15 },
    { "pat", 1, 0, EDX, 16 },
    { "pse36", 1, 0, EDX, 17 },
    { "clflush", 1, 0, EDX, 19 },
    { "mmx", 1, 0, EDX, 23 },
    { "fxsr", 1, 0, EDX, 24 },
    { "sse", 1, 0, EDX, 25 },
    { "sse2", 1, 0, EDX, 26 },
    { "ss", 1, 0, EDX, 27 },
    { "ht", 1, 0, EDX, 28 },
    { "arat", 6, 0, EAX, 2 },
    { "fsgsbase", 7, 0, EBX, 0 },
    { "tsc_adjust", 7, 0, EBX, 1 },
    { "sgx", 7, 0, EBX, 2 },
    { "bmi1", 7, 0, EBX, 3 },
    { "hle", 7, 0, EBX, 4 },
    { "avx2", 7, 0, EBX, 5 },
    { "smep", 7, 0, EBX, 7 },
    { "bmi2", 7, 0, EBX, 8 },
    { "erms", 7, 0, EBX, 9 },
    { "invpcid", 7, 0, EBX, 10 },
    { "rtm", 7, 0, EBX, 11 },
    { "mpx", 7, 0, EBX, 14 },
    { "avx512f", 7, 0, EBX, 16 },
    { "avx512dq", 7, 0, EBX, 17 },
    { "rdseed", 7, 0, EBX, 18 },
    { "adx", 7, 0, EBX, 19 },
    { "smap", 7, 0, EBX, 20 },
    { "avx512ifma", 7, 0, EBX, 21 },
    { "clflushopt", 7, 0, EBX, 23 },
    { "clwb", 7, 0, EBX, 24 },
    { "avx512pf", 7, 0, EBX, 26 },
    { "avx512er", 7, 0, EBX, 27 },
    { "avx512cd", 7, 0, EBX, 28 },
    { "sha_ni", 7, 0, EBX, 29 },
    { "avx512bw", 7, 0, EBX, 30 },
    { "avx512vl", 7, 0, EBX, 31 },
    { "avx512vbmi", 7, 0, ECX, 1 },
    { "umip", 7, 0, ECX, 2 },
    { "pku", 7, 0, ECX, 3 },
    { "ospke", 7, 0, ECX, 4 },
    { "waitpkg", 7, 0, ECX, 5 },
    { "avx512_vbmi2", 7, 0, ECX, 6 },
    { "shstk", 7, 0, ECX, 7 },
    { "gfni", 7, 0, ECX, 8 },
    { "vaes", 7, 0, ECX, 9 },
    { "vpclmulqdq", 7, 0, ECX, 10 },
    { "avx512_vnni", 7, 0, ECX, 11 },
    { "avx512_bitalg", 7, 0, ECX, 12 },
    { "avx512_vpopcntdq", 7, 0, ECX, 14 },
    { "la57", 7, 0, ECX, 16 },
    { "rdpid", 7, 0, ECX, 22 },
    { "bus_lock_detect", 7, 0, ECX, 24 },
    { "cldemote", 7, 0, ECX, 25 },
    { "movdiri", 7, 0, ECX, 27 },
    { "movdir64b", 7, 0, ECX, 28 },
    { "sgx_lc", 7, 0, ECX, 30 },
    { "avx512_4vnniw", 7, 0, EDX, 2 },
    { "avx512_4fmaps", 7, 0, EDX, 3 },
    { "fsrm", 7, 0, EDX, 4 },
    { "avx512_vp2intersect", 7, 0, EDX, 8 },
    { "md_clear", 7, 0, EDX, 10 },
    { "serialize", 7, 0, EDX, 14 },
    { "tsxldtrk", 7, 0, EDX, 16 },
    { "ibt", 7, 0, EDX, 20 },
    { "amx_bf16", 7, 0, EDX, 22 },
    { "avx512_fp16", 7, 0, EDX, 23 },
    { "amx_tile", 7, 0, EDX, 24 },
    { "amx_int8", 7, 0, EDX, 25 },
    { "spec_ctrl", 7, 0, EDX, 26 },
    { "stibp", 7, 0, EDX, 27 },
    { "flush_l1d", 7, 0, EDX, 28 },
    { "arch_capabilities", 7, 0, EDX, 29 },
    { "ssbd", 7, 0, EDX, 31 },
    { "avx_vnni", 7, 1, EAX, 4 },
    { "avx512_bf16", 7, 1, EAX, 5 },
    { "fzrm", 7, 1, EAX, 10 },
    { "fsrs", 7, 1, EAX, 11 },
    { "fsrc", 7, 1, EAX, 12 },
    { "amx_fp16", 7, 1, EAX, 21 },
    { "avx_ifma", 7, 1, EAX, 23 },
    { "xsaveopt", 0xd, 1, EAX, 0 },
    { "xsavec", 0xd, 1, EAX, 1 },
    { "xgetbv1", 0xd, 1, EAX, 2 },
    { "xsaves", 0xd, 1, EAX, 3 },
    { "lahf_lm", 0x80000001, 0, ECX, 0 },
    { "svm", 0x80000001, 0, ECX, 2 },
    { "cr8_legacy", 0x80000001, 0, ECX, 4 },
    { "abm", 0x80000001, 0, ECX, 5 },
    { "sse4a", 0x80000001, 0, ECX, 6 },
    { "misalignsse", 0x80000001, 0, ECX, 7 },
    { "3dnowprefetch", 0x80000001, 0, ECX, 8 },
    { "osvw", 0x80000001, 0, ECX, 9 },
    { "xop", 0x80000001, 0, ECX, 11 },
    { "fma4", 0x80000001, 0, ECX, 16 },
    { "tbm", 0x80000001, 0, ECX, 21 },
    { "topoext", 0x80000001, 0, ECX, 22 },
    { "perfctr_core", 0x80000001, 0, ECX, 23 },
    { "syscall", 0x80000001, 0, EDX, 11 },
    { "nx", 0x80000001, 0, EDX, 20 },
    { "mmxext", 0x80000001, 0, EDX, 22 },
    { "fxsr_opt", 0x80000001, 0, EDX, 25 },
    { "pdpe1gb", 0x80000001, 0, EDX, 26 },
    { "rdtscp", 0x80000001, 0, EDX, 27 },
    { "lm", 0x80000001, 0, EDX, 29 },
    { "invtsc", 0x80000007, 0, EDX, 8 },
    { "clzero", 0x80000008, 0, EBX, 0 },
    { "xsaveerptr", 0x80000008, 0, EBX, 2 },
    { "wbnoinvd", 0x80000008, 0, EBX, 9 },
    { "amd_ibpb", 0x80000008, 0, EBX, 12 },
    { "amd_ibrs", 0x80000008, 0, EBX, 14 },
    { "amd_stibp", 0x80000008, 0, EBX, 15 },
    { "amd_ssbd", 0x80000008, 0, EBX, 24 },
    { "virt_ssbd", 0x80000008, 0, EBX, 25 },
    { "kvmclock", 0x40000001, 0, EAX, 0 },
    { "kvm_nopiodelay", 0x40000001, 0, EAX, 1 },
    { "kvmclock2", 0x40000001, 0, EAX, 3 },
    { "kvm_asyncpf", 0x40000001, 0, EAX, 4 },
    { "kvm_steal_time", 0x40000001, 0, EAX, 5 },
    { "kvm_pv_eoi", 0x40000001, 0, EAX, 6 },
    { "kvm_pv_unhalt", 0x40000001, 0, EAX, 7 },
    { "kvm_pv_tlb_flush", 0x40000001, 0, EAX, 9 },
    { "kvm_pv_ipi", 0x40000001, 0, EAX, 11 },
    { "kvm_poll_control", 0x40000001, 0, EAX, 12 },
    { "kvm_pv_sched_yield", 0x40000001, 0, EAX, 13 },
    { "kvm_asyncpf_int", 0x40000001, 0, EAX, 14 },
    { "kvm_msi_ext_dest_id", 0x40000001, 0, EAX, 15 },
    { "kvmclock_stable", 0x40000001, 0, EAX, 24 },
};

const struct cpu_feature *cpu_features(size_t *count)
{
    *count = ARRAY_SIZE(features);
    return features;
}

/* '-', '_' and '.' are the same in a name: sse4.2, sse4-2, sse4_2. */
static bool name_equal(const char *a, const char *b)
{
    for (; *a != '\0' && *b != '\0'; a++, b++) {
        bool a_mark = strchr("-_.", *a) != NULL, b_mark = strchr("-_.", *b) != NULL;

        if (a_mark != b_mark || (!a_mark && *a != *b)) {
            return false;
        }
    }
    return *a == *b;
}

const struct cpu_feature *cpu_feature_find(const char *name)
{
    static const char *const aliases[][2] = {
        { "sse3", "pni" },
        { "tsc-deadline", "tsc_deadline_timer" },
        { "sha", "sha_ni" },
        { "lzcnt", "abm" },
        { "pdpe1g", "pdpe1gb" },
        { "sha-ni", "sha_ni" },
        { "kvm-pv-ipi", "kvm_pv_ipi" },
    };

    for (size_t i = 0; i < ARRAY_SIZE(aliases); i++) {
        if (name_equal(name, aliases[i][0])) {
            name = aliases[i][1];
        }
    }
    for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
        if (name_equal(name, features[i].name)) {
            return &features[i];
        }
    }
    return NULL;
}

/* Levenshtein distance, for short names. */
static unsigned name_distance(const char *a, const char *b)
{
    unsigned row[64];
    size_t length = strlen(b);

    if (length >= ARRAY_SIZE(row)) {
        return 64;
    }
    for (size_t j = 0; j <= length; j++) {
        row[j] = (unsigned)j;
    }
    for (size_t i = 1; a[i - 1] != '\0'; i++) {
        unsigned diagonal = row[0];

        row[0] = (unsigned)i;
        for (size_t j = 1; j <= length; j++) {
            unsigned best = diagonal + (a[i - 1] != b[j - 1]);

            diagonal = row[j];
            best = row[j] + 1 < best ? row[j] + 1 : best;
            best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            row[j] = best;
        }
    }
    return row[length];
}

const char *cpu_feature_suggest(const char *name)
{
    const char *best = NULL;
    unsigned best_distance = 3;

    for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
        unsigned distance = name_distance(name, features[i].name);

        if (distance < best_distance) {
            best = features[i].name;
            best_distance = distance;
        }
    }
    return best;
}
