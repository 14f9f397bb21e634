#!/usr/bin/env bash
# Compares the bench server of this work tree with that of an older revision, in rounds that take
# turns, and fails (1) if it has become slower beyond doubt.
#
#   scripts/ab.sh [REVISION]     default: the last tag if there is one, else the parent
#
# Both are built in the dev profile, in the common target folder, so that dependencies are not built
# again. Records, summary and page go to artifacts/ab. AB_ALWAYS=1: also if nothing has changed.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    echo "A/B skipped: $1"
    exit 0
}

if [ $# -gt 0 ]; then
    base=$(git rev-parse --verify "$1^{commit}")
else
    base=$(git describe --tags --abbrev=0 HEAD^ 2>/dev/null || true)
    base=$(git rev-parse --verify --quiet "${base:-HEAD^}^{commit}") ||
        skip "no parent of this commit here (a shallow clone needs a depth of 2)"
fi
git cat-file -e "$base:examples/bench_server.rs" 2>/dev/null ||
    skip "$base has no examples/bench_server.rs"
if [ -z "${AB_ALWAYS:-}" ] && git diff --quiet "$base" -- \
    src vendor Cargo.toml Cargo.lock examples/bench_server.rs; then
    skip "the server is what it was at $base"
fi
# The CPUs this process may use: "0-1,4" to one number a line.
mapfile -t cpus < <(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status |
    tr ',' '\n' | while IFS=- read -r first last; do seq "$first" "${last:-$first}"; done)
[ ${#cpus[@]} -gt 1 ] || skip "it takes two CPUs, one for the server and one for the clients"

target=$(cargo metadata --format-version 1 --no-deps | grep -o '"target_directory":"[^"]*"')
target=$(cut -d'"' -f4 <<<"$target")
source=$target/ab/source
out=artifacts/ab
rm -rf "$target/ab" "$out"
mkdir -p "$target/ab" "$out"
git worktree prune
trap 'git worktree remove --force "$source" 2>/dev/null || true' EXIT
git worktree add --quiet --detach "$source" "$base"

# Cargo takes a package at the same place in another work tree for the same one, and would call
# the older build fresh. A wrapper's name is part of what tells builds of our own crates apart, and
# of no dependency.
printf '#!/bin/sh\nexec "$@"\n' >"$target/ab/base-rustc"
chmod +x "$target/ab/base-rustc"
(cd "$source" && CARGO_TARGET_DIR=$target RUSTC_WORKSPACE_WRAPPER=$target/ab/base-rustc \
    cargo build --workspace --example bench_server)
cp "$target/debug/examples/bench_server" "$target/ab/base"
cargo build --workspace --bin bench-harness --example bench_server
cp "$target/debug/examples/bench_server" "$target/ab/new"
if cmp -s "$target/ab/base" "$target/ab/new"; then
    echo "both binaries are the same file: $base was not built" >&2
    exit 2
fi

"$target/debug/bench-harness" ab --base-bin "$target/ab/base" --new-bin "$target/ab/new" \
    --base-name "$(git describe --always --tags "$base")" \
    --new-name "$(git describe --always --tags --dirty)" \
    --server-cpu "${cpus[0]}" --client-cpu "${cpus[1]}" --thresholds scripts/ab.toml \
    --out "$out" --markdown "$out/summary.md" --html "$out/report.html" --json "$out/figures.json" \
    bench-harness/scenarios/ab.toml
