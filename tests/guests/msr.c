/* SPDX-License-Identifier: MIT */
/* MSRs: the architectural ones keep what is written; CPUID's topology fits cpus=N, or that
 * it does not is said: it may be KVM's way. */
#include "vmm/guest/guest.h"

#define MSR_APIC_BASE 0x1b
#define MSR_PAT       0x277
#define MSR_EFER      0xc0000080
#define MSR_STAR      0xc0000081
#define MSR_LSTAR     0xc0000082
#define MSR_FS_BASE   0xc0000100
#define MSR_KERNEL_GS 0xc0000102

static uint64_t read_one(void *argument)
{
    return msr_read((uint32_t)(uint64_t)argument);
}

static void check_kept(uint32_t index, uint64_t value)
{
    uint64_t old = msr_read(index);

    msr_write(index, value);
    if (msr_read(index) != value)
        guest_fail("MSR %x holds %lx, not %lx", index, msr_read(index), value);
    msr_write(index, old);
}

static void check_topology(unsigned cpus)
{
    struct cpuid r = cpuid_read(1, 0);
    unsigned level, type, last = 1;

    CHECK(cpus == 1 || r.edx >> 28 & 1);
    if (cpus > 1 && (r.ebx >> 16 & 0xff) < cpus)
        print("CPUID is the host's: %u processors\n", r.ebx >> 16 & 0xff);
    for (level = 0; cpuid_read(0, 0).eax >= 0xb && level < 8; level++) {
        r = cpuid_read(0xb, level);
        type = r.ecx >> 8 & 0xff;
        if (!type)
            break;
        print("level %u type %u: %u processors, shift %u\n", level, type, r.ebx & 0xffff,
              r.eax & 31);
        last = r.ebx & 0xffff;
    }
    print("topology of %u\n", last);
}

int guest_main(int argc, char **argv)
{
    struct trap_report report;
    uint64_t cpus = 1;

    if (boot_option("cpus"))
        CHECK(number_parse(boot_option("cpus"), &cpus));
    CHECK((msr_read(MSR_APIC_BASE) & ~0xfffull) == 0xfee00000);
    CHECK(msr_read(MSR_APIC_BASE) & 0x100); /* this is the boot processor */
    CHECK((msr_read(MSR_EFER) & 0x500) == 0x500);
    check_kept(MSR_PAT, 0x0007040600070406);
    check_kept(MSR_STAR, 0x0023001000000000);
    check_kept(MSR_LSTAR, 0xffffffff81000000);
    check_kept(MSR_FS_BASE, 0x123456789000);
    check_kept(MSR_KERNEL_GS, 0xffff888000000000);
    print("architectural MSRs\n");
    guarded_run(read_one, (void *)0x7fffff00, &report);
    print("unknown MSR: exception %u\n", report.vector);
    CHECK(report.vector == VECTOR_GP || report.vector == TRAP_NONE);
    check_topology((unsigned)cpus);
    return EXIT_PASS;
}
