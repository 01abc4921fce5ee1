#!/bin/sh
# SPDX-License-Identifier: MIT
# Install to a prefix, move it elsewhere, build a consumer against it in every way.
# install.sh BUILD_DIR SOURCE_DIR VERSION EXAMPLES_DIR
set -eu
build=$1 source=$2 version=$3 examples=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/first" >/dev/null
mv "$work/first" "$work/moved" # the package must be relocatable
prefix=$work/moved
consumer=$source/consumer.c
strict="-Wall -Wextra -Wpedantic -Werror"
libdir=$(dirname "$(find "$prefix" -name libumbra.a)")
export PKG_CONFIG_PATH="$libdir/pkgconfig"

check() {
    what=$1
    shift
    LD_LIBRARY_PATH=$libdir "$@" "$version" || { echo "FAIL: $what"; exit 1; }
    echo "PASS: $what"
}

[ "$(pkg-config --modversion umbra)" = "$version" ]
shared=$(pkg-config --cflags --libs umbra)
static="$(pkg-config --cflags umbra) -l:libumbra.a $(pkg-config --static --libs umbra | sed 's/-lumbra\b//')"
# shellcheck disable=SC2086
{
    cc -std=c11 $strict "$consumer" $shared -o "$work/c11"
    check "C11, shared, pkg-config" "$work/c11"
    cc -std=c11 $strict "$consumer" $static -o "$work/c11s"
    check "C11, static, pkg-config" "$work/c11s"
    c++ -x c++ -std=c++17 $strict "$consumer" -x none $shared -o "$work/cxx"
    check "C++17, shared, pkg-config" "$work/cxx"
}
if readelf -d "$work/c11s" | grep -q 'NEEDED.*libumbra'; then
    echo "FAIL: the static consumer needs libumbra.so"
    exit 1
fi
readelf -d "$work/c11" | grep -q 'NEEDED.*libumbra.so.0' || { echo "FAIL: soname"; exit 1; }

cmake -S "$source" -B "$work/build" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" >"$work/log" 2>&1 &&
    cmake --build "$work/build" >>"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
check "find_package, shared" "$work/build/consumer-shared"
check "find_package, static" "$work/build/consumer-static"

# The examples, both ways. Without arguments they say how they are called.
cmake -S "$examples" -B "$work/examples" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" \
    -DCMAKE_C_FLAGS="$strict" >"$work/log" 2>&1 &&
    cmake --build "$work/examples" >>"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
mkdir "$work/pc"
for file in "$examples"/*.c; do
    name=$(basename "$file" .c)
    # shellcheck disable=SC2086
    cc -std=c11 $strict "$file" $shared -pthread -o "$work/pc/$name"
    for program in "$work/pc/$name" "$work/examples/$name"; do
        status=0
        LD_LIBRARY_PATH=$libdir "$program" 2>"$work/log" || status=$?
        if [ $status != 64 ] || ! grep -q "^usage: $name " "$work/log"; then
            cat "$work/log"
            echo "FAIL: example $program: status $status"
            exit 1
        fi
    done
    echo "PASS: example $name, pkg-config and find_package"
done

[ "$("$prefix/bin/umbra" --version)" = "umbra $version" ] || { echo "FAIL: umbra --version"; exit 1; }
if grep -rlF "$work/first" "$libdir/cmake" "$libdir/pkgconfig"; then
    echo "FAIL: the package holds the path it was installed to first"
    exit 1
fi
