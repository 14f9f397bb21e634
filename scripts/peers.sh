#!/usr/bin/env bash
# Installs and builds the peers that bench-harness compares with, from their lock files.
set -euo pipefail
engines="$(cd "$(dirname "$0")/../bench-harness/engines" && pwd)"

if command -v npm >/dev/null; then
  (cd "$engines/node" && npm ci --no-audit --no-fund)
else
  echo "peers.sh: no npm, socket.io is left out of the comparison" >&2
fi
(cd "$engines/socketioxide" && cargo build --release --locked)
