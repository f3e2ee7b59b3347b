#!/usr/bin/env bash
# Three brokers on this machine: the same loads with replication factor 1 and with replication factor 3, in one run, so
# that the two compare. CPU is that of all three brokers and of the client, from /proc.
# Usage: scripts/bench-cluster.sh FOLDER_WITH_BINARIES [MILLIONS_OF_RECORDS]
set -euo pipefail
bin=$1
millions=${2:-1}
work=$(mktemp -d "${BENCH_FOLDER:-.}/data-bench.XXXXXX")
declare -A process=()
trap 'for id in "${!process[@]}"; do kill "${process[$id]}" 2>/dev/null || true; done; wait; rm -rf "$work"' EXIT

# Loopback addresses of this run's own, so that the usual ports are free.
net=127.$((RANDOM % 200 + 20)).$((RANDOM % 250 + 1))
peers=1@$net.1:9192,2@$net.2:9192,3@$net.3:9192
addresses=$net.1:9092,$net.2:9092,$net.3:9092
for id in 1 2 3; do
    "$bin/streambus" server --broker-id "$id" --data-dir "$work/broker-$id" --listen "$net.$id:9092" \
        --cluster-listen "$net.$id:9192" --http "$net.$id:8080" --peers "$peers" --log-level warn 2>"$work/$id.log" &
    process[$id]=$!
done
for id in 1 2 3; do
    until curl -fs -o /dev/null "http://$net.$id:8080/health/ready"; do
        kill -0 "${process[$id]}" 2>/dev/null || { cat "$work/$id.log" >&2; exit 1; }
        read -r -t 0.05 <> <(:) || true
    done
done

# Ticks of 10 ms that all brokers have used, user and system.
ticks() {
    for id in 1 2 3; do cat "/proc/${process[$id]}/stat"; done |
        awk '{sub(/.*\) /, ""); sum += $12 + $13} END {print sum}'
}
streambus() { "$bin/streambus" -b "$addresses" "$@"; }

# row NAME RECORDS REPLICAS BENCH_ARGUMENTS...
row() {
    local name=$1 records=$2 replicas=$3 before after
    shift 3
    printf '\n== %s, replication factor %s, acks all\n' "$name" "$replicas"
    local topic="${name// /-}-$replicas"
    topic=${topic//,/}
    streambus -q topic create "$topic" --partitions 6 --replicas "$replicas" --config "min.insync.replicas=$(((replicas + 1) / 2))"
    before=$(ticks)
    streambus bench produce --topic "$topic" --records "$records" --acks all --no-verify "$@"
    after=$(ticks)
    awk -v t=$((after - before)) -v n="$records" \
        'BEGIN {printf "brokers CPU %.2f s, %.2f s per million records (all three)\n", t / 100, t / 100 / n * 1e6}'
}

for replicas in 1 3; do
    row "100 B" $((millions * 1000000)) "$replicas" --record-size 100
done
for replicas in 1 3; do
    row "1 KiB" $((millions * 250000)) "$replicas" --record-size 1024
done
for replicas in 1 3; do
    row "paced 100 B" 10000 "$replicas" --record-size 100 --rate 1000
done
for replicas in 1 3; do
    row "paced 1 KiB" 100000 "$replicas" --record-size 1024 --rate 20000
done
printf '\n== 100 B again, replication factor 3, everything read back\n'
streambus -q topic create verified --partitions 6 --replicas 3 --config min.insync.replicas=2
streambus bench produce --topic verified --records $((millions * 500000)) --record-size 100 --acks all
printf '\n== memory of the brokers\n'
for id in 1 2 3; do grep -E 'VmHWM' "/proc/${process[$id]}/status"; done
