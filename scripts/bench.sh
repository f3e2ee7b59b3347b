#!/usr/bin/env bash
# Runs every benchmark row in one go on this machine: its own limits and the micro rows first, then a broker of its own
# on a fresh data directory with the end-to-end rows, each beside the limits. Usage:
#   scripts/bench.sh FOLDER_WITH_BINARIES [MILLIONS_OF_RECORDS]
# Settings, from the environment:
#   BENCH_FOLDER  where the data directories lie: on the disk under test [default: the current folder]
#   LONG=1        also the long rows: MINUTES [10] of load at 50 MB/s, and a start after kill -9 with GIB [10] stored
#
# Figures of different runs do not compare; rows of one run do. Keep the machine otherwise idle.
set -euo pipefail
bin=$1
millions=${2:-4}
minutes=${MINUTES:-10}
gib=${GIB:-10}
# The disk under test: beside the current folder, because a temporary folder may be in memory.
work=$(mktemp -d "${BENCH_FOLDER:-.}/data-bench.XXXXXX")
broker=
pulse=
end() {
    [ -z "$pulse" ] || kill "$pulse" 2>/dev/null || true
    [ -z "$broker" ] || kill "$broker" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap end EXIT

rule() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
# Waits some seconds without a process of its own.
pause() { read -r -t "$1" <> <(:) || true; }
microseconds() { printf '%s' "${EPOCHREALTIME/[.,]/}"; }

# start_broker DIRECTORY: sets broker, address, http, and started_in to the milliseconds from its start to its readiness.
start_broker() {
    local begun
    begun=$(microseconds)
    "$bin/streambus" server --data-dir "$1" --listen 127.0.0.1:0 --http 127.0.0.1:0 --log-level warn 2>"$work/log" &
    broker=$!
    until grep -q 'is ready' "$work/log"; do
        kill -0 "$broker" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
        pause 0.005
    done
    started_in=$((($(microseconds) - begun) / 1000))
    grep 'is ready' "$work/log"
    address=$(sed -n 's/.*clients \([^,]*\),.*/\1/p' "$work/log" | head -n 1)
    http=$(sed -n 's/.*HTTP \(.*\)$/\1/p' "$work/log" | head -n 1)
}
stop_broker() {
    kill "$broker"
    wait "$broker" || die "the broker did not stop in order: $(cat "$work/log")"
    broker=
}
# bench ROW ARGUMENTS...: prints the row and keeps it under its name. Progress goes to standard error.
bench() {
    local row=$1
    shift
    "$bin/streambus" -b "$address" bench "$@" --broker-pid "$broker" --limits "$work/limits.json" | tee "$work/row-$row"
}
# field ROW LINE NUMBER: a word of a line of a row.
field() { awk -v line="$2" -v number="$3" '$1 == line {print $number; exit}' "$work/row-$1"; }
# micro NAME: what one operation of a micro row takes, with its unit. share NAME: its share of the raw write, in percent.
micro() { awk -v name="$1  " 'index($0, name) == 1 {$0 = substr($0, length(name) + 1); print $1, $2; exit}' "$work/micro"; }
share() { awk -v name="$1  " 'index($0, name) == 1 && match($0, /[0-9]+ % of disk/) {print substr($0, RSTART) + 0; exit}' "$work/micro"; }
metric() { curl -fsS "http://$http/metrics" | awk -v name="$1" '$1 == name {value = $2} END {print value}'; }

short_rows() {
    local hits misses
    rule "broker"
    start_broker "$work/broker"
    empty_started_in=$started_in
    rule "produce, 100 B records, acks all, synced, batched, one client"
    bench small produce --topic small --record-size 100 --records $((millions * 1000000)) --acks all
    rule "produce, 1 KiB records, acks all, synced, batched, one client"
    bench large produce --topic large --record-size 1024 --records $((millions * 250000)) --acks all
    rule "consume from the tail: 100 B records in the tail cache, read again and again by new consumers"
    hits=$(metric streambus_storage_tail_cache_hits_total)
    misses=$(metric streambus_storage_tail_cache_misses_total)
    bench tail tail --topic tail --record-size 100 --records 200000 --passes 30
    hits=$(($(metric streambus_storage_tail_cache_hits_total) - hits))
    misses=$(($(metric streambus_storage_tail_cache_misses_total) - misses))
    printf 'tail cache  %s reads answered from memory, %s from the disk\n' "$hits" "$misses"
    rule "catch-up read: 100 B records from the beginning of a topic larger than the tail cache"
    bench catch-up consume --topic small
    rule "single synced sends at 1,000 a second, open loop"
    bench single produce --topic single --partitions 1 --record-size 100 --rate 1000 --records 20000 --acks all
    rule "end to end at 1,000 records a second"
    bench e2e e2e --topic e2e --partitions 1 --record-size 100 --rate 1000 --records 20000
    rule "memory of the broker"
    grep -E 'VmHWM|VmRSS' "/proc/$broker/status"
    stop_broker
    rm -rf "$work/broker"
}

goals() {
    rule "goals, in this run"
    awk -v small="$(field small rate 2)" -v large="$(field large rate 4)" -v tail="$(field tail rate 2)" \
        -v factor="$(awk '$1 == "limit" && $2 == "p99" {print $6; exit}' "$work/row-single")" 'BEGIN {
        printf "produce 100 B            %.0f records/s (goal 1,000,000)\n", small
        printf "produce 1 KiB            %.0f MB/s (goal 250)\n", large
        printf "consume from the tail    %.1f times the produce rate (goal 2)\n", tail / small
        printf "single sends, p99        %s times that of the raw sync at the same rate (goal 3)\n", factor
    }'
    printf 'produce encode, decode   %s, %s (goals 40, 110 ns)\n' \
        "$(micro 'wire/produce encode 1x100B')" "$(micro 'wire/produce decode 1x100B')"
    printf 'fetch encode, decode     %s, %s (goals 22, 70 ns)\n' "$(micro 'wire/fetch encode')" "$(micro 'wire/fetch decode')"
    printf 'journal commit           %s %% of the raw write of 1 MiB, %s of 64 KiB, %s of 4 KiB (goal 85)\n' \
        "$(share 'journal/commit 1MiB, disk')" "$(share 'journal/commit 64KiB, disk')" "$(share 'journal/commit 4KiB, disk')"
    printf 'ready, empty directory   %s ms after the process was started (goal 300)\n' "$empty_started_in"
}

# Says every half minute how long a long row has run, where no progress line is drawn.
start_pulse() {
    [ -t 2 ] && return
    local begun=$SECONDS
    while pause 30; do
        printf '   ... %s s, broker %s\n' $((SECONDS - begun)) \
            "$(awk '$1 == "VmRSS:" {printf "%.1f MiB resident", $2 / 1024}' "/proc/$broker/status")" >&2
    done &
    pulse=$!
}
stop_pulse() {
    [ -z "$pulse" ] || kill "$pulse" 2>/dev/null || true
    pulse=
}

# needs GIB: refuses to begin what would end at a full disk. The broker keeps a twentieth of the disk free for itself.
needs() {
    local free
    free=$(df --output=avail,size -B1073741824 "$work" | awk 'NR == 2 {print int($1 - $2 / 20)}')
    [ "$free" -gt "$1" ] || die "this row stores $1 GiB, and $free GiB can be used here: set BENCH_FOLDER, MINUTES or GIB"
}

long_rows() {
    local records=$((minutes * 60 * 50000))
    needs $((records * 1100 / 1073741824 + 1))
    rule "$minutes minute(s) at 50 MB/s of 1 KiB records: memory of the broker (goal: under 100 MB)"
    start_broker "$work/long"
    start_pulse
    bench long produce --topic long --partitions 8 --record-size 1024 --rate 50000 --records "$records" --acks all
    stop_pulse
    stop_broker
    rm -rf "$work/long"

    records=$((gib * 1048576))
    needs $((records * 1100 / 1073741824 + 1))
    rule "ready after kill -9 with $gib GiB stored (goal: within 1 s)"
    start_broker "$work/killed"
    start_pulse
    bench fill produce --topic stored --partitions 8 --record-size 1024 --records "$records" --acks all --no-verify
    stop_pulse
    kill -9 "$broker"
    wait "$broker" 2>/dev/null || true
    broker=
    sync
    if { echo 3 >/proc/sys/vm/drop_caches; } 2>/dev/null; then
        echo "page cache  dropped"
    else
        echo "page cache  kept: dropping it needs another user"
    fi
    start_broker "$work/killed"
    echo "ready       $started_in ms after the process was started"
    start_pulse
    bench stored consume --topic stored
    stop_pulse
    [ "$(field stored records 2)" -ge "$(field fill records 2)" ] || die "acknowledged records are missing after the kill"
    stop_broker
    rule "the same data directory, offline"
    "$bin/streambus" log verify "$work/killed"
}

rule "machine limits and micro rows"
commit=$(git describe --always --dirty 2>/dev/null || echo unknown)
# The rows come on standard error as they are measured, the document with the limits on standard output.
"$bin/streambus-micro" --directory "$work" --commit "$commit" --output json 2>&1 >"$work/limits.json" | tee "$work/micro"
short_rows
goals
[ -z "${LONG:-}" ] || long_rows
