#!/usr/bin/env bash
# What the ledger of the soaks adds up to: for each fault its runs, its seeds, the steps taken against clusters, what was
# acknowledged, and how many promises were broken.
#
# Usage: scripts/soak-totals.sh [LEDGER]
set -euo pipefail
cd "$(dirname "$0")/.."
awk -F ' *[|] *' '
    /^[|] 20/ {
        # A row of many seeds says "N to M".
        seeds[$4] += match($5, / to /) ? substr($5, RSTART + 4) - substr($5, 1, RSTART - 1) + 1 : 1
        runs[$4]++; steps[$4] += $6; acknowledged[$4] += $7; violations[$4] += $9
    }
    END { for (run in runs) printf "%5d %12d %8d %12d %10d  %s\n", runs[run], seeds[run], steps[run], acknowledged[run], violations[run], run }
' "${1:-docs/soak-ledger.md}" | sort -k 6 | { printf ' rows        seeds    steps acknowledged violations  fault\n'; cat; }
