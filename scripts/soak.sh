#!/usr/bin/env bash
# Random abuse of a running server for a while, with healthy clients on it:
#   scripts/soak.sh [seconds]        default 600
set -euo pipefail
cd "$(dirname "$0")/.."
ulimit -Sn "$(ulimit -Hn)"
ABUSE_SECONDS=${1:-600} cargo test --test abuse soak -- --nocapture
