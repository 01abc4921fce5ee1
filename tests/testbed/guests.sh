# SPDX-License-Identifier: MIT
# The demo and every micro guest of tests/guests where guest kernels run on the processor.
# all: also long ones that run on this host's KVM anyway, or whose like is there
# needs: /bin/bash tests/guests/run-guest build/tests/guests libslirp.so.0
. ./lib.sh

# guest NAME ARGUMENTS-OF-RUN-GUEST...
guest() {
    local name=$1
    shift
    case $all$name in virtio_vsock_hostile* | balloon_reporting_split) return ;; esac
    run ../bash ../run-guest "$@"
    verdict "$name" 0
}

cd guests || exit 1
cp ../run-guest .
. ./guest-tests.sh
# Where there is hardware underneath, a vCPU's own counter jumps too. (The guest measures its
# frequency: on a busy host not quite right.)
guest faults_tsc -e '^rtc [0-9] s' -e '^tsc 3[56][0-9][0-9] s' -- 1 umbra run --kernel faults.elf \
    --append=clock=1 --fault clock-jump,device=debugcon,jump=1h,clock=tsc --timeout 60s
run umbra demo --cpus 2 --memory 256M --timeout 60s
verdict "demo" 0 '^All good' '2 listed, 2 running' '!PROBLEM'
finish
