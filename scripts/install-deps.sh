#!/usr/bin/env bash
# Installs what building StreamBus needs on a bare Debian machine. Does nothing when everything is there.
#
# RocksDB is C++ and its bindings are generated, so a C++ compiler and libclang are needed besides Rust;
# ccache turns the second compilation of RocksDB from minutes into seconds.
set -euo pipefail

rust_min=1.88

missing=()
command -v make >/dev/null || missing+=(make)
command -v git >/dev/null || missing+=(git)
command -v curl >/dev/null || missing+=(curl)
command -v clang++ >/dev/null || missing+=(clang)
command -v ccache >/dev/null || missing+=(ccache)
command -v ld >/dev/null || missing+=(binutils)
# Faults of disks in the tests: file systems in files.
command -v mkfs.ext4 >/dev/null || [ -x /sbin/mkfs.ext4 ] || missing+=(e2fsprogs)
command -v mount >/dev/null || missing+=(mount)
[ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
compgen -G '/usr/lib/gcc/*/*/libstdc++.a' >/dev/null || missing+=(g++)
compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || compgen -G '/usr/lib/*/libclang*.so*' >/dev/null || missing+=(libclang-dev)

if [ "${#missing[@]}" -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "error: missing ${missing[*]}; install them with this system's package manager" >&2
        exit 1
    fi
    sudo=
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { echo "error: missing ${missing[*]}; run as root: apt-get install ${missing[*]}" >&2; exit 1; }
        sudo=sudo
    fi
    echo "installing: ${missing[*]}" >&2
    export DEBIAN_FRONTEND=noninteractive
    $sudo apt-get update -qq
    $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    echo "error: Rust is installed but not on PATH; run: . \"${CARGO_HOME:-$HOME/.cargo}/env\"" >&2
    exit 1
fi
if ! command -v cargo >/dev/null; then
    if apt-cache show rustup >/dev/null 2>&1; then
        sudo=; [ "$(id -u)" -eq 0 ] || sudo=sudo
        $sudo apt-get install -y -qq rustup >/dev/null && rustup default stable
    else
        echo "error: Rust $rust_min or newer is needed and this release does not package it; install it with rustup, then run this again" >&2
        exit 1
    fi
fi
have=$(rustc --version | awk '{print $2}')
if [ "$(printf '%s\n%s\n' "$rust_min" "$have" | sort -V | head -n 1)" != "$rust_min" ]; then
    echo "error: Rust $rust_min or newer is needed, this is $have; run: rustup update stable" >&2
    exit 1
fi
