#!/usr/bin/env bash
# The test command: formatting, lints, all Rust tests, documentation, the official JavaScript client
# end to end and in a browser, python-socketio, Autobahn, and whether the commit before was faster.
# Installs what is missing (cargo-nextest, Node.js, Chromium, Python, the packages of tests/npm,
# tests/python and tests/autobahn) by the package managers of this machine, and nothing else.
# Screenshots and logs go to artifacts/. The first failure or warning ends it with a non-zero code.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null
# All is built once: incremental builds would cost half as much again. For the same reason every
# cargo here takes the whole workspace, or its dependencies would be built anew with other features.
export CARGO_INCREMENTAL=0

logs=artifacts/logs
mkdir -p "$logs"
rm -f "$logs"/*.txt
name=start
started=$SECONDS

section() {
    printf '\n=== %s (after %d s: %s took %d s)\n' "$1" "$SECONDS" "$name" $((SECONDS - started))
    name=$1
    started=$SECONDS
}

finish() {
    local code=$?
    [ "$code" = 0 ] || printf '\n=== FAILED in "%s" after %d s, exit code %d\n' \
        "$name" "$SECONDS" "$code"
}
trap finish EXIT

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

have() {
    command -v "$1" >/dev/null
}

section "install what is missing"
packages=()
have cc || packages+=(build-essential)
have node || packages+=(nodejs)
have npm || packages+=(npm)
have openssl || packages+=(openssl)
python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3 python3-venv)
have chromium || have chromium-browser || have google-chrome || packages+=(chromium)
if [ ${#packages[@]} -gt 0 ]; then
    as_root apt-get update
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "${packages[@]}"
fi
if ! cargo nextest --version >/dev/null 2>&1; then
    cargo install cargo-nextest --locked || echo "no cargo-nextest here: cargo test runs the tests"
fi
cargo fetch --locked
# npm writes the inner lock file last; it is older where packages changed since.
if [ ! tests/npm/node_modules/.package-lock.json -nt tests/npm/package-lock.json ]; then
    (cd tests/npm && npm ci --no-audit --no-fund)
fi
# The folder of python-socketio, made anew when its list has changed.
python=artifacts/python
if ! cmp -s tests/python/requirements.txt "$python/requirements.txt"; then
    python3 -m venv --clear "$python"
    "$python/bin/pip" install --quiet --requirement tests/python/requirements.txt
    cp tests/python/requirements.txt "$python/requirements.txt"
fi
ulimit -Sn "$(ulimit -Hn)"
target=$(cargo metadata --format-version 1 --no-deps | grep -o '"target_directory":"[^"]*"')
target=$(cut -d'"' -f4 <<<"$target")

section "format"
cargo fmt --all --check

section "lints"
cargo clippy --workspace --all-targets -- -D warnings
# The library as others depend on it.
cargo clippy --no-default-features --lib -- -D warnings

section "Rust tests"
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace 2>&1 | tee "$logs/rust.txt"
else
    cargo test --workspace --lib --bins --tests --examples 2>&1 | tee "$logs/rust.txt"
fi

section "benches, each once"
cargo test --quiet --workspace --bench codec --bench encode --bench hub >"$logs/benches.txt"

section "documentation"
cargo test --workspace --doc 2>&1 | tee "$logs/doc.txt"
RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps

section "binaries and examples"
cargo build --workspace --bins --examples

section "against the commit before"
scripts/ab.sh 2>&1 | tee "$logs/ab.txt"

export NODE_OPTIONS=--test-reporter=spec

# The CPUs this process may use: "0-1,4" to one number a line.
mapfile -t cpus < <(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status |
    tr ',' '\n' | while IFS=- read -r first last; do seq "$first" "${last:-$first}"; done)

# Runs a script of tests/npm under its name in the logs; a quarter of an hour is a hang.
npm_suite() {
    (cd tests/npm && timeout --kill-after=30 900 npm run "$1") 2>&1 | tee "$logs/$2.txt"
}

end_to_end() {
    section "official client against --cpus $1"
    CORECAST_E2E_CMD="'$target/debug/examples/e2e_server' --cpus $1" npm_suite test:e2e "$2"
    CORECAST_E2E_CMD="'$target/debug/examples/e2e_server' --cpus $1" \
        npm_suite test:recovery "recovery${2#e2e}"
}
end_to_end "${cpus[0]}" e2e-one
if [ ${#cpus[@]} -gt 1 ]; then
    end_to_end "$(IFS=,; echo "${cpus[*]:0:4}")" e2e-several
fi

section "other parsers"
for parser in msgpack counted; do
    CORECAST_E2E_PARSER=$parser end_to_end "${cpus[0]}" "e2e-$parser"
done
CORECAST_E2E_CMD="'$target/debug/examples/e2e_server' --cpus ${cpus[0]}" npm_suite test:msgpack msgpack

section "old clients"
CORECAST_E2E_CMD="'$target/debug/examples/e2e_server' --cpus ${cpus[0]}" npm_suite test:v2 v2

section "protocol, without a client"
CORECAST_PROTOCOL_CMD="'$target/debug/examples/protocol_suite' --cpus ${cpus[0]}" \
    npm_suite test:protocol protocol

section "python-socketio"
(cd tests/python && PYTHONWARNINGS=ignore PYTHONDONTWRITEBYTECODE=1 \
    CORECAST_E2E_CMD="'$target/debug/examples/e2e_server' --cpus ${cpus[0]}" \
    timeout --kill-after=30 900 "../../$python/bin/python" -m unittest client_test) 2>&1 |
    tee "$logs/python.txt"

section "backends of the gateway"
CORECAST_GATEWAY_CMD="'$target/debug/corecast'" npm_suite test:backends backends
(cd tests/python && PYTHONWARNINGS=ignore PYTHONDONTWRITEBYTECODE=1 \
    CORECAST_GATEWAY_CMD="'$target/debug/corecast'" \
    timeout --kill-after=30 900 "../../$python/bin/python" -m unittest backends_test) 2>&1 |
    tee "$logs/backends-python.txt"

section "compression"
CORECAST_E2E_CMD="'$target/debug/examples/e2e_server' --cpus ${cpus[0]}" npm_suite test:deflate \
    deflate

section "TLS"
CORECAST_E2E_CMD="'$target/debug/examples/e2e_server' --cpus $(IFS=,; echo "${cpus[*]:0:2}")" \
    npm_suite test:tls tls

section "Autobahn"
CORECAST_AUTOBAHN_CPUS=${cpus[0]} scripts/autobahn.sh 2>&1 | tee "$logs/autobahn.txt"

section "browser"
CORECAST_DEMO_CMD="'$target/debug/corecast' serve" npm_suite test:browser browser
CORECAST_CHAT_CMD="'$target/debug/corecast' serve --config examples/gateway/chat/corecast.toml \
    --api 127.0.0.1:0" npm_suite test:chat chat

section "dashboard"
CORECAST_GATEWAY="$target/debug/corecast" npm_suite test:dashboard dashboard

section "reports"
CORECAST_BENCH="$target/debug/bench-harness" npm_suite test:report report

section "admin UI"
CORECAST_ADMIN_CMD="'$target/debug/examples/admin_server' --cpus ${cpus[0]}" npm_suite test:admin admin

section "many connections, in a guest"
MILLION_MINUTES=5 scripts/million.sh --smoke 2>&1 | tee "$logs/million.txt"

section "summary"
for log in doc rust e2e-one e2e-several recovery-one recovery-several e2e-msgpack e2e-counted msgpack \
    v2 protocol python backends backends-python deflate tls autobahn browser chat dashboard \
    report admin million; do
    [ -f "$logs/$log.txt" ] || continue
    echo "$log:"
    grep -E '^ *Summary \[|^test result: |^(#|ℹ) (tests|pass|fail|skipped) |^(Ran|OK|FAILED)|^[0-9]+ passed, |^(connections|deliveries|server RSS) ' \
        "$logs/$log.txt"
done
