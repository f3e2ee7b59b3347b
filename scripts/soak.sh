#!/usr/bin/env bash
# The long proof, bounded in time: power cuts and kills of one broker, then every cluster fault with seed after seed until
# MINUTES are over. Each judged run becomes a row of docs/soak-ledger.md, so that totals add up over time; a failed one
# stops the soak and leaves its folder. Usage: scripts/soak.sh MINUTES CYCLES FIRST_SEED
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=$1
cycles=$2
seed=$3
ledger=$PWD/docs/soak-ledger.md
end=$((SECONDS + minutes * 60))
cargo=(cargo test --release --locked)

{
    printf '\n## %s, commit %s, %s cores\n\n' "$(date -u +%F\ %R)" "$(git rev-parse --short HEAD)" "$(nproc)"
    printf '| run | seed | steps | acknowledged | unknown | violations |\n'
    printf '| --- | --- | --- | --- | --- | --- |\n'
} >>"$ledger"

export STREAMBUS_POWER_CUTS=$cycles STREAMBUS_KILL_CYCLES=$cycles STREAMBUS_SEED=$seed STREAMBUS_LEDGER=$ledger
"${cargo[@]}" -p streambus-storage --test store power -- --nocapture
"${cargo[@]}" -p streambus-tests --test kill_nine -- --nocapture
export STREAMBUS_FAULT_CYCLES=5
while ((SECONDS < end)); do
    echo "== seed $seed, $(((end - SECONDS) / 60)) minutes left"
    STREAMBUS_SEED=$seed "${cargo[@]}" -p streambus-tests --test cluster -- --nocapture --test-threads 1
    seed=$((seed + 1))
done
