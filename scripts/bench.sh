#!/usr/bin/env bash
# Runs every benchmark row in one go on this machine: its own limits and the micro rows first, then a broker of its own
# on a fresh data directory with the end-to-end rows. Usage: scripts/bench.sh FOLDER_WITH_BINARIES [MILLIONS_OF_RECORDS]
#
# Figures of different runs do not compare; rows of one run do. Keep the machine otherwise idle.
set -euo pipefail
bin=$1
millions=${2:-4}
# The disk under test: beside the current folder, because a temporary folder may be in memory.
work=$(mktemp -d "${BENCH_FOLDER:-.}/data-bench.XXXXXX")
broker=
trap '[ -z "$broker" ] || kill "$broker" 2>/dev/null || true; rm -rf "$work"' EXIT

rule() { printf '\n== %s\n' "$*"; }

rule "machine limits and micro rows"
"$bin/streambus-micro" --directory "$work"

rule "broker"
"$bin/streambus" server --data-dir "$work/broker" --listen 127.0.0.1:0 --http 127.0.0.1:0 --log-level warn 2>"$work/log" &
broker=$!
until grep -q 'is ready' "$work/log"; do
    kill -0 "$broker" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    read -r -t 0.05 <> <(:) || true
done
grep 'is ready' "$work/log"
address=$(sed -n 's/.*clients \([^,]*\),.*/\1/p' "$work/log" | head -n 1)
bench() { "$bin/streambus" -b "$address" bench "$@" --broker-pid "$broker"; }

rule "produce, 100 B records, acks all, synced, batched, one client"
bench produce --topic small --record-size 100 --records $((millions * 1000000)) --acks all
rule "produce, 1 KiB records, acks all, synced, batched, one client"
bench produce --topic large --record-size 1024 --records $((millions * 250000)) --acks all
rule "consume from the tail"
bench consume --topic small
rule "single synced sends at 1,000 a second, open loop"
bench produce --topic single --partitions 1 --record-size 100 --rate 1000 --records 20000 --acks all
rule "end to end at 1,000 records a second"
bench e2e --topic e2e --partitions 1 --record-size 100 --rate 1000 --records 20000

rule "memory of the broker"
grep -E 'VmHWM|VmRSS' "/proc/$broker/status"
