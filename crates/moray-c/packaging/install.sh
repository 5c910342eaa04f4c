#!/bin/sh
# Installs the built libraries, the headers, and what pkg-config and CMake look for: install.sh target/release /usr/local
set -eu
libraries=$1 prefix=$2
here=$(cd "$(dirname "$0")/.." && pwd)
abi=$(sed -n 's/^#define MORAY_ABI_VERSION //p' "$here/include/moray.h")
mkdir -p "$prefix/include" "$prefix/lib/pkgconfig" "$prefix/lib/cmake/moray"
cp "$here/include/moray.h" "$here/include/moray.hpp" "$prefix/include/"
cp "$libraries/libmoray_c.a" "$prefix/lib/"
cp "$libraries/libmoray_c.so" "$prefix/lib/libmoray_c.so.$abi"
ln -sf "libmoray_c.so.$abi" "$prefix/lib/libmoray_c.so"
cp "$here/packaging/moray-c.pc" "$prefix/lib/pkgconfig/"
cp "$here"/packaging/*.cmake "$prefix/lib/cmake/moray/"
