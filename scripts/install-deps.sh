#!/usr/bin/env bash
# Installs what building StreamBus needs on a bare Debian machine. Does nothing when everything is there.
#
# RocksDB is C++ and its bindings are generated, so a C++ compiler and libclang are needed besides Rust;
# ccache turns the second compilation of RocksDB from minutes into seconds.
set -euo pipefail

rust_min=1.88

# Runs a command as root, or ends with what to run.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "error: run this as root, then try again: $*" >&2
        exit 1
    fi
}

install() {
    echo "installing: $*" >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# True when $1 is a version of Rust that suffices.
suffices() { [[ $1 == [0-9]* && $(printf '%s\n%s\n' "$rust_min" "$1" | sort -V | head -n 1) == "$rust_min" ]]; }

# The version of package $1 that would be installed: nothing, or "(none)", when there is none.
candidate() { apt-cache policy "$1" 2>/dev/null | awk '/Candidate:/ {print $2}'; }

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
    as_root apt-get update -qq
    install "${missing[@]}"
fi

if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    echo "error: Rust is installed but not on PATH; run: . \"${CARGO_HOME:-$HOME/.cargo}/env\"" >&2
    exit 1
fi
if ! command -v cargo >/dev/null; then
    ! command -v apt-get >/dev/null || as_root apt-get update -qq
    # Debian 13 and newer have rustup, which brings the newest Rust. Debian 12 has a new Rust too, kept up to date for its
    # browsers, in packages that end in -web; its package rustc is years too old.
    if [[ $(candidate rustup) == [0-9]* ]]; then
        install rustup
        rustup default stable
    elif suffices "$(candidate cargo-web)"; then
        install rustc-web cargo-web rust-web-clippy rustfmt-web
    else
        cat >&2 <<TEXT
error: Rust $rust_min or newer is needed, and this system packages none. Either
  enable the security updates of this Debian release (its rustc-web and cargo-web are new enough), or
  install Rust with rustup's own installer (its home page says how), then: . "\$HOME/.cargo/env"
and run this again.
TEXT
        exit 1
    fi
    # The shell remembers where commands were not.
    hash -r
fi
have=$(rustc --version | awk '{print $2}')
if ! suffices "$have"; then
    echo "error: Rust $rust_min or newer is needed, this is $have; where rustup installed it, run: rustup update stable" >&2
    exit 1
fi
