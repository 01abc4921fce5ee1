# SPDX-License-Identifier: MIT
# Booting stock Debian kernels to a shell, and judging what the guest reports.
# shellcheck shell=sh

# Kernel messages of level warning that a stock kernel has on any machine of this kind.
# Everything else that it complains about fails the boot test.
allowed='^(\[ *[0-9.]+\] )?('
allowed="$allowed"'.*mitigation|.*Spectre|.*vulnerab|.*MDS |.*TAA |.*MMIO Stale|.*RETBleed|.*Speculat'
allowed="$allowed"'|.*tainted|.*taint|.*out-of-tree|.*signature|.*[Uu]nknown kernel command line'
allowed="$allowed"'|.*will be passed to user space|.*PS/2 appears to have AUX port disabled)' # and rightly: there is no mouse

# After a boot that failed without a word, boot again with all messages on: they are the
# evidence. The verdict stands.
evidence() {
    cp $out /tmp/first
    # shellcheck disable=SC2086
    run umbra run --kernel $kernel --initrd $flavour.cpio --cpus $cpus --memory $memory \
        --timeout 120 $options --append 'console=ttyS0 earlyprintk=serial do="poweroff -f"'
    echo "---- booted again with all messages: status $status, the end of its output"
    tail -n 30 $out | tr -d '\r'
    echo "----"
    mv /tmp/first $out
}

# boot FLAVOUR FORM CPUS MEMORY: FORM is bzimage (umbra unpacks), guest (the kernel's own
# stub does) or pvh (the unpacked ELF file by its PVH note).
boot() {
    local flavour=$1 form=$2 cpus=$3 memory=$4 name kernel loader=255 options= started
    name="boot $flavour $form $cpus CPUs $memory"
    kernel=$flavour.vmlinuz
    case $form in
    guest) options="--decompress guest" ;;
    pvh) kernel=$flavour.vmlinux loader=176 ;; # hdr.type_of_loader as the PVH entry sets it
    esac
    started=$(uptime_s)
    # shellcheck disable=SC2086
    run umbra run --kernel $kernel --initrd $flavour.cpio --cpus $cpus --memory $memory \
        --timeout 120 $options --append 'console=ttyS0 quiet do="report; poweroff -f"'
    verdict "$name ($(($(uptime_s) - started)) s)" 0 '^\[init\] up' "^cpus=$cpus$" \
        '^clocksource=(kvm-clock|tsc)$' "^ran_on=$((cpus - 1))$" "^loader=$loader$" || { evidence; return; }
    judge_memory "$name" "$memory"
    judge_complaints "$name"
}

# What the guest has is at most what it was given, and at least three quarters of it.
judge_memory() {
    local given has
    case $2 in *G) given=$((${2%G} * 1048576)) ;; *M) given=$((${2%M} * 1024)) ;; esac
    has=$(value memory_kib)
    if [ "$has" -gt "$given" ] || [ "$has" -lt $((given * 3 / 4)) ]; then
        fail "$1: memory" "$has KiB of $given"
    fi
}

# QEMU 7.2's TCG does not intercept XSETBV for a hypervisor, so any guest here sees XCR0 and
# CPUID leaf 0xd disagree, warns, and goes on with FXSAVE: that one report is left out. So is
# what timers say of not having been run for a while, which a busy host causes.
without_host_reports() {
    awk '/cut here/ { block = $0; inside = 1; next }
         inside { block = block "\n" $0
                  if (/end trace/) { inside = 0; if (block !~ /XSAVE consistency problem/) print block }
                  next }
         /clocksource: Long readout interval|hrtimer: interrupt took/ { next }
         /CPUID\[0d, [0-9a-f]*\]:/ { next }
         { print }
         END { if (inside) print block }'
}

judge_complaints() {
    if tr -d '\r' <$out | sed -n 's/^complaint=//p' | without_host_reports |
        grep -Ev -- "$allowed" >/tmp/complaints; then
        cp /tmp/complaints $out
        fail "$1: kernel messages" "$(wc -l <$out) complaints"
    fi
}
