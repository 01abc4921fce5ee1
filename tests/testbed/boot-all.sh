# SPDX-License-Identifier: MIT
# Every flavour, form, CPU count and memory size: 54 boots.
# needs: generic/vmlinuz generic/vmlinux generic/initrd
# needs: cloud/vmlinuz cloud/vmlinux cloud/initrd
# level1: -t 3000
. ./lib.sh
. ./boot-lib.sh

for flavour in cloud generic; do
    for form in bzimage guest pvh; do
        for cpus in 1 2 4; do
            for memory in 256M 1G 6G; do
                boot $flavour $form $cpus $memory
            done
        done
    done
done
finish
