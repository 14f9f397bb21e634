#!/usr/bin/env bash
# Installs the peers of bench-harness from their lock files, builds corecast, and prints the table
# of ratios. Arguments go to `bench-harness peers`; --install-only stops before it. A peer whose
# tools are missing is named and left out.
set -euo pipefail
cd "$(dirname "$0")/.."
engines=bench-harness/engines

without() { echo "peers.sh: no $1, $2 is left out of the comparison" >&2; }

if command -v npm >/dev/null; then
  (cd "$engines/node" && npm ci --no-audit --no-fund)
else
  without npm socket.io
fi
if python3 -c 'import ensurepip, venv' 2>/dev/null; then
  python3 -m venv --clear "$engines/python/venv"
  "$engines/python/venv/bin/pip" install --quiet --requirement "$engines/python/requirements.txt"
else
  without "python3 with venv" python-socketio
fi
(cd "$engines/socketioxide" && cargo build --release --locked) || without "build of it" socketioxide

[[ ${1:-} == --install-only ]] && exit
cargo build --release --no-default-features --workspace --bins --example bench_server
exec target/release/bench-harness peers --server-cpu 0 --client-cpu 1 "$@"
