#!/usr/bin/env bash
# The long proof, bounded in time: models with thousands of seeds, kills of one broker, every fault of the cluster tests
# with seed after seed, planted bugs. Each judged run is a row of the ledger, so that totals add up over time; the first
# failed one stops the soak, leaves its folder and says how to repeat it.
#
# Usage: scripts/soak.sh MINUTES CYCLES FIRST_SEED
#   PARTS    which of "models kill cluster planted" (all of these), or "spread": the cluster tests until the time is over,
#            each time the one with the fewest seeds in the ledger, with the next seed of its own. As root those of cut links
#            take part twice, the second time in network namespaces
#   JOBS     runs of "spread" side by side (1). A run mostly waits: three keep two cores busy
#   ONLY     of the cluster tests, those whose names contain this (all)
#   ROUNDS   stop after so many seeds, and in "spread" after so many runs, also when time is left (0: never)
#   LEDGER   the file that rows are appended to (docs/soak-ledger.md)
#   GO_ON    1: a failed run does not stop the soak; its folder and output stay, and the soak fails at its end
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=$1 cycles=$2 seed=$3
parts=${PARTS:-models kill cluster planted}
only=${ONLY:-}
jobs=${JOBS:-1}
rounds=${ROUNDS:-0}
go_on=${GO_ON:-0}
failed=0
[[ $jobs =~ ^[1-9][0-9]*$ ]] || { echo "JOBS is a number from 1 on, not '$jobs'" >&2; exit 2; }
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

# What became of one run: told, and counted. False when the soak is to end.
judge() { # PROGRAM TEST SEED STATUS ROWS OUTPUT [NAME=VALUE...]
    local program=$1 test=$2 its_seed=$3 status=$4 rows=$5 output=$6
    shift 6
    cat "$output" >>"$log"
    grep -E 'violations|SKIPPED|NOT RUN|found with|seeds, ' "$output" || true
    ((status == 0)) && return
    tail -n 60 "$output" >&2
    ((rows > 0)) || row "$test" "$its_seed" - "no verdict: the run failed before it"
    {
        echo "FAILED with status $status: $test of $program. Its folder is named above; all output is in $log"
        echo "repeat it: $* STREAMBUS_FAULT_CYCLES=$STREAMBUS_FAULT_CYCLES cargo test --release ${target_of[$program]} -- --exact $test --nocapture"
    } >&2
    failed=$((failed + 1))
    cp "$output" "$work/failed-$failed"
    ((go_on))
}

run() { # PROGRAM TEST [NAME=VALUE...]: one test; the soak ends when it fails
    local program=$1 test=$2
    shift 2
    local before status=0
    before=$(wc -l <"$STREAMBUS_LEDGER")
    echo "== $((end - SECONDS)) s left: $program $test, $*"
    env "$@" timeout "$stuck_seconds" "$work/$program" --exact "$test" --nocapture --test-threads 1 >"$log.run" 2>&1 || status=$?
    judge "$program" "$test" "$seed" "$status" $(($(wc -l <"$STREAMBUS_LEDGER") - before)) "$log.run" "$@" || exit 1
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

# A kind of run: a cluster test, with "@namespaces" behind it when it is to run in network namespaces.
kinds() {
    local test
    for test in $(tests_of cluster "$only"); do
        echo "$test"
        if [[ $test =~ ^(network::a_|one::clients_) ]] && [ "$(id -u)" = 0 ] && [ -z "${STREAMBUS_NETWORK:-}" ]; then
            echo "$test@namespaces"
        fi
    done
}

# What a kind calls its runs in the ledger is known once it has run; it is kept beside the programs that were built.
names=$target/soak-names
declare -A name_of=()
# Runs of a kind: under way, failed without a row, and whether it writes none at all, so that it is not chosen again.
declare -A underway=() rowless_failures=() is_rowless=()
declare -A next_seed=()
# What each process in the background runs: its number, its seed, its kind.
declare -A run_of=()
begun=0

choose() { # sets chosen and its_seed to the kind with the fewest seeds, those under way counted; false when there is none
    local kind name count fewest=0 seeds
    local -A seeds_of=()
    while read -r _ seeds _ _ _ name; do
        seeds_of[$name]=$seeds
    done < <(scripts/soak-totals.sh "$STREAMBUS_LEDGER" | tail -n +2)
    chosen=
    for kind in "${all_kinds[@]}"; do
        [ -z "${is_rowless[$kind]:-}" ] || continue
        name=${name_of[$kind]:-}
        count=$((${underway[$kind]:-0} + ${rowless_failures[$kind]:-0}))
        [ -z "$name" ] || count=$((count + ${seeds_of[$name]:-0}))
        if [ -z "$chosen" ] || ((count < fewest)); then chosen=$kind fewest=$count; fi
    done
    [ -n "$chosen" ] || return 1
    its_seed=${next_seed[$chosen]:-$seed}
    name=${name_of[$chosen]:-}
    while [ -n "$name" ] && grep -qF "| $name | $its_seed |" "$STREAMBUS_LEDGER"; do its_seed=$((its_seed + 1)); done
    next_seed[$chosen]=$((its_seed + 1))
}

settings_of() { # KIND SEED
    echo "STREAMBUS_SEED=$2"
    [[ $1 != *@namespaces ]] || echo STREAMBUS_NETWORK=namespaces
}

begin() { # KIND SEED: in the background, with rows and output of its own
    local kind=$1 test=${1%@namespaces} settings
    mapfile -t settings < <(settings_of "$kind" "$2")
    begun=$((begun + 1))
    : >"$work/rows-$begun"
    echo "== $((end - SECONDS)) s left: cluster $test, ${settings[*]}"
    env "${settings[@]}" STREAMBUS_LEDGER="$work/rows-$begun" timeout "$stuck_seconds" \
        "$work/cluster" --exact "$test" --nocapture --test-threads 1 >"$work/output-$begun" 2>&1 &
    run_of[$!]="$begun $2 $kind"
    underway[$kind]=$((${underway[$kind]:-0} + 1))
}

reap() { # waits for one run in the background and takes its rows over; false when the soak is to end
    local process='' status=0 number its_seed kind rows settings ends=0
    wait -n -p process "${!run_of[@]}" || status=$?
    [ -n "$process" ] || { echo "lost a run in the background, of ${run_of[*]}" >&2; exit 1; }
    read -r number its_seed kind <<<"${run_of[$process]}"
    unset "run_of[$process]"
    underway[$kind]=$((${underway[$kind]} - 1))
    mapfile -t settings < <(settings_of "$kind" "$its_seed")
    # Another soak may write to the same ledger.
    { flock 9 && cat "$work/rows-$number" >&9; } 9>>"$STREAMBUS_LEDGER" || exit 1
    rows=$(wc -l <"$work/rows-$number")
    if ((rows > 0)) && [ -z "${name_of[$kind]:-}" ]; then
        name_of[$kind]=$(tail -n 1 "$work/rows-$number" | cut -d'|' -f4 | sed 's/^ *//; s/ *$//')
        printf '%s\t%s\n' "$kind" "${name_of[$kind]}" >>"$names"
    elif ((rows == 0 && status == 0)); then
        is_rowless[$kind]=1
    elif ((rows == 0)); then
        rowless_failures[$kind]=$((${rowless_failures[$kind]:-0} + 1))
    fi
    judge cluster "${kind%@namespaces}" "$its_seed" "$status" "$rows" "$work/output-$number" "${settings[@]}" || ends=1
    rm -f "$work/rows-$number" "$work/output-$number"
    return "$ends"
}

# Processes in the background hear nothing of Ctrl-C.
abandon() {
    ((${#run_of[@]} == 0)) || kill "${!run_of[@]}" 2>/dev/null || true
    exit 130
}

spread() {
    local is_ended=0 kind name chosen its_seed all_kinds
    mapfile -t all_kinds < <(kinds)
    ((${#all_kinds[@]} > 0)) || { echo "no cluster test has '$only' in its name" >&2; exit 2; }
    if [ -f "$names" ]; then
        while IFS=$'\t' read -r kind name; do name_of[$kind]=$name; done <"$names"
    fi
    trap abandon INT TERM
    while :; do
        while ((!is_ended && ${#run_of[@]} < jobs)) && ! over && ! { ((rounds > 0)) && ((begun >= rounds)); }; do
            if ! choose; then
                echo "== no test is left that writes rows"
                end=$SECONDS
                break
            fi
            begin "$chosen" "$its_seed"
        done
        ((${#run_of[@]} > 0)) || break
        # After a failure those under way are waited for: what they have found counts.
        reap || is_ended=1
    done
    trap - INT TERM
    ((is_ended == 0)) || exit 1
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
