# SPDX-License-Identifier: MIT
# Stock Debian kernels boot to a shell: each flavour, form, CPU count and memory size is
# covered, each form with each flavour (the full product is boot-all.sh, label slow).
# needs: generic/vmlinuz generic/vmlinux generic/initrd
# needs: cloud/vmlinuz cloud/vmlinux cloud/initrd
. ./lib.sh
. ./boot-lib.sh

boot cloud bzimage 1 256M
boot cloud guest 2 1G
boot cloud pvh 4 6G
boot generic bzimage 2 6G
boot generic guest 4 256M
boot generic pvh 1 1G
finish
