# SPDX-License-Identifier: MIT
# umbra mmu inspect on a stock kernel with several processes, under nested paging:
# every page of every address space is compared with KVM_TRANSLATE.
# needs: cloud/vmlinuz cloud/initrd
# shellcheck shell=sh
. ./lib.sh

# A guest with processes of its own that go on running.
umbra run --kernel cloud.vmlinuz --initrd cloud.cpio --memory 256M --name deb --timeout 300 \
    --append 'console=ttyS0 quiet do="for i in 1 2 3; do while :; do sleep 0.05; done & done; echo at work; sleep 1000"' \
    >/tmp/guest.out 2>&1 </dev/null &
tries=0
until grep -q '^at work' /tmp/guest.out; do
    tries=$((tries + 1))
    [ $tries -lt 750 ] || { cp /tmp/guest.out $out; fail "the guest" "it does not come up"; finish; }
    sleep 0.2
done
sleep 1

run umbra mmu inspect deb --scan --sample 20 --summary
verdict "every page of every process is where KVM says" 0 ', 0 not as the walker says' \
    '![1-9][0-9]* not as the walker says' 'found in memory' 'shadow of all together'
spaces=$(grep -c '^CR3' $out)
[ "$spaces" -ge 4 ] && pass "$spaces address spaces" || fail "address spaces" "only $spaces"
grep -E '^CR3.*loaded' -A 4 $out
# Between processes a kernel's own tables may be loaded: look more than once.
run umbra mmu inspect deb --no-shadow --sample 20
verdict "ranges" 0 'ffff888000.* k rw-g ' '^  0000000000400000.* u r'
finish
