#!/bin/sh
# Runs the simulator on N fresh seeds (default 100,000), from a start that differs each day.
# A failure prints SIM_SEED=<n>: SIM_SEED=<n> cargo test --test sim replays it.
set -eu
cd "$(dirname "$0")/.."
count=${1:-100000}
from=${2:-$(($(date +%Y%j) * 1000000))}
echo "seeds $from to $((from + count))"
SIM_SEEDS="$from..$((from + count))" cargo test --test sim -- --skip canary
