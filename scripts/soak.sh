#!/usr/bin/env bash
# The long proof, bounded in time: models with thousands of seeds, kills of one broker, every fault of the cluster tests
# with seed after seed, planted bugs. Each judged run is a row of the ledger, so that totals add up over time; the first
# failed one stops the soak, leaves its folder and says how to repeat it.
#
# Usage: scripts/soak.sh MINUTES CYCLES FIRST_SEED
#   PARTS    which of "models kill cluster planted" (all of these), or "spread": the cluster tests until the time is over,
#            each time the one with the fewest seeds in the ledger, with the next seed of its own
#   ONLY     of the cluster tests, those whose names contain this (all)
#   ROUNDS   stop after so many seeds also when time is left (0: never)
#   LEDGER   the file that rows are appended to (docs/soak-ledger.md)
#   GO_ON    1: a failed run does not stop the soak; its folder and output stay, and the soak fails at its end
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=$1 cycles=$2 seed=$3
parts=${PARTS:-models kill cluster planted}
only=${ONLY:-}
rounds=${ROUNDS:-0}
go_on=${GO_ON:-0}
failed=0
end=$((SECONDS + minutes * 60))

# A run that takes longer than this stands still.
stuck_seconds=1200
model_seeds=500
kills_a_round=50

target=${CARGO_TARGET_DIR:-target}
commit=$(git rev-parse --short HEAD)
[ -z "$(git status --porcelain --untracked-files=no -- ':!docs')" ] || commit=$commit+changes
export STREAMBUS_LEDGER_RUN="$(date -u +%F) | $commit"
export STREAMBUS_LEDGER=$(realpath "${LEDGER:-docs/soak-ledger.md}")
export STREAMBUS_FAULT_CYCLES=${FAULT_CYCLES:-3}

# Programs and tests are copied, so that a build meanwhile changes nothing of this soak.
work=$(mktemp -d "${TMPDIR:-/tmp}/streambus-soak-XXXXXX")
log=$work/log
declare -A target_of=(
    [replication]='-p streambus-broker --lib'
    [metadata]='-p streambus-consensus --test state_explorer'
    [storage]='-p streambus-storage --test store'
    [simulation]='-p streambus-tests --test simulation'
    [kill_nine]='-p streambus-tests --test kill_nine'
    [cluster]='-p streambus-tests --test cluster'
    [planted]='-p streambus-tests --test planted'
)
built() { # PROGRAM: builds a test and copies it
    local name=$1 path
    # shellcheck disable=SC2086 # several words on purpose
    path=$(cargo test --release --locked ${target_of[$name]} -- --list 2>&1 >/dev/null | tee -a "$log" |
        sed -n 's/^ *Running .*(\(.*\))$/\1/p' | tail -n 1) || true
    [ -n "$path" ] || { tail -n 20 "$log" >&2; exit 1; }
    cp "$path" "$work/$name"
}
wants() { [[ " $parts " == *" $1 "* ]]; }

echo "== building $commit; everything of this soak is in $work"
cargo build --release --locked -p streambus-cli --bin streambus
cp "$target/release/streambus" "$work/"
if wants models; then
    built replication
    built metadata
    built storage
    built simulation
fi
if wants kill; then built kill_nine; fi
if wants cluster || wants spread; then built cluster; fi
if wants planted; then
    cargo build --release --locked -p streambus-cli --features planted-bugs --bin streambus-planted
    cp "$target/release/streambus-planted" "$work/"
    built planted
fi

over() { ((SECONDS >= end)); }
row() { echo "| $STREAMBUS_LEDGER_RUN | $1 | $2 | $3 | - | - | $4 |" >>"$STREAMBUS_LEDGER"; }

run() { # PROGRAM TEST [NAME=VALUE...]: one test; the soak ends when it fails
    local program=$1 test=$2
    shift 2
    local before status=0
    before=$(wc -l <"$STREAMBUS_LEDGER")
    echo "== $((end - SECONDS)) s left: $program $test, $*"
    env "$@" timeout "$stuck_seconds" "$work/$program" --exact "$test" --nocapture --test-threads 1 >"$log.run" 2>&1 || status=$?
    cat "$log.run" >>"$log"
    grep -E 'violations|SKIPPED|NOT RUN|found with|seeds, ' "$log.run" || true
    ((status == 0)) && return
    tail -n 60 "$log.run" >&2
    [ "$(wc -l <"$STREAMBUS_LEDGER")" -gt "$before" ] || row "$test" "$seed" - "no verdict: the run failed before it"
    {
        echo "FAILED with status $status: $test of $program. Its folder is named above; all output is in $log"
        echo "repeat it: $* STREAMBUS_FAULT_CYCLES=$STREAMBUS_FAULT_CYCLES cargo test --release ${target_of[$program]} -- --exact $test --nocapture"
    } >&2
    ((go_on)) || exit 1
    failed=$((failed + 1))
    cp "$log.run" "$work/failed-$failed"
}

models() {
    local first=$((round * model_seeds))
    run replication replication::explorer::every_invariant_holds_on_every_schedule_and_everything_heals \
        STREAMBUS_FIRST_SEED=$first STREAMBUS_EXPLORER_SEEDS=$model_seeds
    row 'model: replication explorer' "$first to $((first + model_seeds - 1))" \
        "$(sed -n 's/.* seeds, \([0-9]*\) steps.*/\1/p' "$log.run" | tail -n 1)" 0
    run metadata no_order_of_commands_breaks_an_invariant STREAMBUS_FIRST_SEED=$first STREAMBUS_EXPLORE_SEEDS=$model_seeds
    row 'model: metadata explorer' "$first to $((first + model_seeds - 1))" $((model_seeds * 250)) 0
    run storage power::no_acknowledged_batch_is_lost_in_any_power_cut \
        STREAMBUS_FIRST_SEED=$((round * cycles)) STREAMBUS_POWER_CUTS="$cycles"
    row 'model: power cuts of one store' "from $((round * cycles))" "$cycles" 0
    run simulation nothing_acknowledged_is_lost_whatever_happens STREAMBUS_SEED=$((first + 1)) STREAMBUS_SIM_SEEDS=$model_seeds
    row 'simulation of whole brokers' "$((first + 1)) to $((first + model_seeds))" $model_seeds 0
}

kills_left=$cycles
kills() {
    ((kills_left > 0)) || return 0
    local now=$((kills_left < kills_a_round ? kills_left : kills_a_round))
    run kill_nine nothing_acknowledged_is_lost_when_the_broker_is_killed_under_load STREAMBUS_SEED=$seed STREAMBUS_KILL_CYCLES=$now
    kills_left=$((kills_left - now))
}

tests_of() { "$work/$1" --list 2>/dev/null | sed -n "s/: test\$//p" | grep -F -- "$2" || true; }

cluster() {
    local test
    for test in $(tests_of cluster "$only"); do
        over && return
        run cluster "$test" STREAMBUS_SEED=$seed
    done
}

# What a test calls its runs is known once it has run.
declare -A name_of=() runs_of=()
covered() { # TEST TOTALS: how many seeds of it the ledger has
    local name=${name_of[$1]:-}
    if [ -z "$name" ]; then echo "${runs_of[$1]:-0}"; return; fi
    awk -v name="  $name" 'substr($0, length($0) - length(name) + 1) == name {seeds = $2} END {print seeds + 0}' <<<"$2"
}

spread() {
    local test least fewest count before totals
    until over; do
        least=
        totals=$(scripts/soak-totals.sh "$STREAMBUS_LEDGER")
        for test in $(tests_of cluster "$only"); do
            count=$(covered "$test" "$totals")
            if [ -z "$least" ] || ((count < fewest)); then least=$test fewest=$count; fi
        done
        before=$(wc -l <"$STREAMBUS_LEDGER")
        run cluster "$least" STREAMBUS_SEED=$((seed + ${runs_of[$least]:-0}))
        runs_of[$least]=$((${runs_of[$least]:-0} + 1))
        [ "$(wc -l <"$STREAMBUS_LEDGER")" -eq "$before" ] ||
            name_of[$least]=$(tail -n 1 "$STREAMBUS_LEDGER" | cut -d'|' -f4 | sed 's/^ *//; s/ *$//')
    done
}

planted() {
    local test found
    for test in $(tests_of planted found); do
        over && return
        # What broken brokers did is no proof of anything: one row says that the mistake was found.
        STREAMBUS_LEDGER=/dev/null run planted "$test" STREAMBUS_SEED=$seed STREAMBUS_PLANTED_SEEDS=20
        found=$(sed -n 's/.*\(found with seed [0-9]*, after [0-9]* seed(s)\).*/\1/p' "$log.run" | tail -n 1)
        row "planted: $test" "$seed" - "$found"
    done
}

round=0
until over || { ((rounds > 0)) && ((round >= rounds)); }; do
    echo "== round $round, seed $seed"
    for part in $parts; do
        over && break
        case $part in
            models) models ;;
            kill) kills ;;
            cluster) cluster ;;
            spread) spread ;;
            planted) planted ;;
            *) echo "no such part: $part" >&2; exit 2 ;;
        esac
    done
    # Nothing else to do once the kills are done.
    [ "$parts" = kill ] && ((kills_left == 0)) && break
    seed=$((seed + 1))
    round=$((round + 1))
done
((failed == 0)) || { echo "== $failed runs of the soak of $commit failed: see $work/failed-*" >&2; exit 1; }
echo "== the soak of $commit ended well; rows are in $STREAMBUS_LEDGER"
