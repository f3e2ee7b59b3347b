#!/usr/bin/env bash
# Starts three brokers on this machine and prints what to try; Ctrl-C stops them in order. Data stays in DATA/broker-N, so
# the next start is the same cluster. Usage: scripts/cluster.sh STREAMBUS_BINARY DATA [ADDRESS]
# ADDRESS is one of this machine's, 127.0.0.1 unless it is said. The ports are always the same, so each cluster takes one of
# its own: any in 127.0.0.0/8 will do.
set -euo pipefail
streambus=$1
data=$2
host=${3:-127.0.0.1}
brokers=(1 2 3)
peers=1@$host:9192,2@$host:9193,3@$host:9194
declare -A process=()

client() { echo "$host:$((9091 + $1))"; }
http() { echo "$host:$((8079 + $1))"; }

# Every way out ends the brokers: SIGTERM drains, and an ended one is no error.
stop() {
    trap - EXIT INT TERM
    for id in "${!process[@]}"; do kill -TERM "${process[$id]}" 2>/dev/null || true; done
    wait || true
}
trap stop EXIT
trap 'stop; exit 0' INT TERM

mkdir -p "$data"
for id in "${brokers[@]}"; do
    "$streambus" server --broker-id "$id" --data-dir "$data/broker-$id" --listen "$(client "$id")" \
        --cluster-listen "$host:$((9191 + id))" --http "$(http "$id")" --peers "$peers" 2>>"$data/broker-$id.log" &
    process[$id]=$!
done
for id in "${brokers[@]}"; do
    until curl -fs -o /dev/null "http://$(http "$id")/health/ready"; do
        # Whichever has ended: the one that is waited for may wait for it.
        for other in "${brokers[@]}"; do
            kill -0 "${process[$other]}" 2>/dev/null || { tail -n 20 "$data/broker-$other.log" >&2; exit 1; }
        done
        read -r -t 0.1 <> <(:) || true
    done
done

cat <<TEXT
three brokers are ready: clients $(client 1), $(client 2), $(client 3); logs in $data/broker-N.log
try, in another terminal:
  export STREAMBUS_BROKERS=$(client 1),$(client 2),$(client 3)
  $streambus topic create orders --partitions 3 --replicas 3
  printf 'ada\t{"item":1}\n' | $streambus produce orders -f '%k\t%v\n'
  $streambus consume orders -e -f '%p %o %k\t%v\n'
  $streambus topic describe orders        # leaders, replicas, who is in sync
  kill -9 ${process[1]}                        # broker 1; the others carry on
  $streambus cluster health
  $streambus cluster brokers
Ctrl-C here stops all three.
TEXT
# One may be killed on purpose; the others go on until Ctrl-C.
wait
