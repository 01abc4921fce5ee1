# SPDX-License-Identifier: MIT
# The demo and every micro guest of tests/guests where guest kernels run on the processor.
# needs: /bin/bash tests/guests/run-guest build/tests/guests
. ./lib.sh

# guest NAME ARGUMENTS-OF-RUN-GUEST...
guest() {
    local name=$1
    shift
    run ../bash ../run-guest "$@"
    verdict "$name" 0
}

cd guests || exit 1
cp ../run-guest .
. ./guest-tests.sh
run umbra demo --cpus 2 --memory 256M --timeout 60s
verdict "demo" 0 '^All good' '2 listed, 2 running' '!PROBLEM'
finish
