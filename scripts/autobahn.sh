#!/usr/bin/env bash
# The Autobahn test suite against examples/ws_echo: kosoku, its runner from PyPI, is the client.
#
#   scripts/autobahn.sh          all 517 cases, with permessage-deflate; minutes
#   scripts/autobahn.sh --quick  protocol, and compression without its endurance cases; seconds
#
# Needs python3 with venv (scripts/test.sh installs it) and the example, which it builds. The report
# stays in artifacts/autobahn; the last line is `N passed, N failed`. CORECAST_AUTOBAHN_CPUS names
# the CPUs of the server, all by default.
set -euo pipefail
cd "$(dirname "$0")/.."

cases=() at_least=517
if [ "${1:-}" = --quick ]; then
    for section in 1 2 3 4 5 6 7 10; do cases+=(-i "$section.*"); done
    for case in 9.1.1 9.2.1 9.7.1 9.8.1 12.{1..5}.1 13.{1..7}.1; do cases+=(-i "$case"); done
    at_least=263
fi

cargo build --quiet --workspace --example ws_echo
target=$(cargo metadata --format-version 1 --no-deps | grep -o '"target_directory":"[^"]*"')
target=$(cut -d'"' -f4 <<<"$target")
venv=$target/autobahn
wanted=tests/autobahn/requirements.txt
if ! cmp -s "$wanted" "$venv/installed.txt"; then
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted"
    cp "$wanted" "$venv/installed.txt"
fi

report=artifacts/autobahn
rm -rf "$report"
mkdir -p "$report"
# Level 1: the suite has gigabytes compressed, and any level makes sound streams.
"$target/debug/examples/ws_echo" --listen 127.0.0.1:0 --deflate --level 1 \
    --cpus "${CORECAST_AUTOBAHN_CPUS:-}" >"$report/server.txt" &
server=$!
trap 'kill "$server"; wait "$server" || true' EXIT
address=
for _ in $(seq 100); do
    address=$(sed -n 's/^listening on //p' "$report/server.txt")
    [ -z "$address" ] || break
    kill -0 "$server"
    sleep 0.1
done
# Its own verdict is milder than ours.
timeout --kill-after=30 1800 "$venv/bin/kosoku" "$address" -p 4 -o "$report" "${cases[@]}" ||
    echo "kosoku ended with $?"
python3 tests/autobahn/check.py "$report" "$at_least"
