# SPDX-License-Identifier: MIT
# umbra doctor on hardware virtualization: what it says, and that it is true.
# needs: cloud/vmlinuz cloud/initrd
. ./lib.sh

run umbra doctor
verdict "doctor's table" 0 '^good .*KVM ' 'AMD SVM' 'nested paging +on' 'CPUID masks +apply' "CPUID APIC ids +each processor's own" \
    'guest kernels +run on the processor'

# A masked feature is really gone, so nothing is added to the command line.
run umbra run --kernel cloud.vmlinuz --initrd cloud.cpio --memory 256M --timeout 100 \
    --cpu-features=-rdrand \
    --append 'console=ttyS0 quiet do="grep -c rdrand /proc/cpuinfo; cat /proc/cmdline; poweroff -f"'
verdict "masks apply to a guest" 0 '^0$' '!clearcpuid'

# Without permission, and without a device.
chmod 600 /dev/kvm
run umbra doctor --kvm /dev/null
verdict "not a KVM device" 69 'not a KVM device'
rm -f /dev/kvm
run umbra run --kernel cloud.vmlinuz
verdict "no device" 69 'cannot open /dev/kvm'
finish
