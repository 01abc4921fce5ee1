/* SPDX-License-Identifier: MIT */
/* The least a VMM can do: run a flat real-mode guest in a bare KVM_RUN loop. */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { GUEST_SIZE = 1 << 20, GUEST_LOAD = 0x7c00 };

static int checked(int result, const char *what)
{
    if (result < 0) {
        err(69, "%s", what);
    }
    return result;
}

/* A VM with the kernel's irqchip and 1 MiB of RAM that holds the file @path. */
static int vm_make(int kvm, const char *path)
{
    struct kvm_userspace_memory_region slot = { .memory_size = GUEST_SIZE };
    int vm = checked(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    int file = checked(open(path, O_RDONLY), path);
    char *ram =
        mmap(NULL, GUEST_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (ram == MAP_FAILED) {
        err(70, "mmap");
    }
    checked((int)read(file, ram + GUEST_LOAD, GUEST_SIZE - GUEST_LOAD), path);
    close(file);
    slot.userspace_addr = (uintptr_t)ram;
    checked(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000ul), "KVM_SET_TSS_ADDR");
    checked(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
    checked(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
    return vm;
}

static void vcpu_prepare(int kvm, int vcpu)
{
    enum { LEAVES = 256 };
    struct kvm_cpuid2 *cpuid =
        calloc(1, sizeof(*cpuid) + LEAVES * sizeof(cpuid->entries[0]));
    struct kvm_regs regs = { .rip = GUEST_LOAD, .rflags = 2 };
    struct kvm_sregs sregs;

    if (!cpuid) {
        err(70, "calloc");
    }
    cpuid->nent = LEAVES;
    checked(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid), "KVM_GET_SUPPORTED_CPUID");
    checked(ioctl(vcpu, KVM_SET_CPUID2, cpuid), "KVM_SET_CPUID2");
    free(cpuid);
    checked(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    checked(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    checked(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

int main(int argc, char **argv)
{
    int kvm, vm, vcpu;
    struct kvm_run *run;

    if (argc != 2) {
        errx(64, "usage: bare_loop FLAT_IMAGE");
    }
    kvm = checked(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
    vm = vm_make(kvm, argv[1]);
    vcpu = checked(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    run = mmap(NULL, (size_t)checked(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "mmap size"),
               PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED) {
        err(70, "mmap");
    }
    vcpu_prepare(kvm, vcpu);
    fprintf(stderr, "tsc_khz %d\n", ioctl(vcpu, KVM_GET_TSC_KHZ, 0));
    for (;;) {
        checked(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
        if (run->exit_reason != KVM_EXIT_IO) {
            errx(70, "exit reason %u", run->exit_reason);
        }
        if (run->io.port == 0x3f8) {
            checked((int)write(1, (char *)run + run->io.data_offset, 1), "write");
        } else if (run->io.port == 0xf4) {
            return 1; /* 2v+1 of v = 0, as the debug-exit port has it */
        }
    }
}
