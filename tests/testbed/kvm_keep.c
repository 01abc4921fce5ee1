/* SPDX-License-Identifier: MIT */
/*
 * Keeps a VM with one vCPU for as long as level 1 runs. When the last VM goes and the next one
 * comes, the kernel switches static keys and so patches __schedule() under the other processor's
 * feet, on which QEMU's multi-threaded emulator gets stuck at times.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(void)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);

    /* With an APIC in the kernel, or a key for those without one would be switched. */
    if (vm < 0 || ioctl(vm, KVM_CREATE_IRQCHIP, 0) != 0 ||
        ioctl(vm, KVM_CREATE_VCPU, 0) < 0) {
        perror("keeping a VM in level 1");
        return 1;
    }
    for (;;) {
        pause();
    }
}
