#!/usr/bin/env bash
# A million websocket clients against one server process: connects N clients, joins each to a room
# of 1,000 and all to one room, broadcasts to one room and to all, and says what it took. The load
# runs in a small QEMU guest of its own, since N needs limits that this machine may not grant;
# emulated time says nothing about speed, but counts, deliveries and memory are real.
#
#   scripts/million.sh [N]           N clients, by default 1,000,000
#   scripts/million.sh --smoke       2,000, for CI
#   scripts/million.sh --native [N]  without QEMU, on hardware whose limits allow it
#
# Installs what is missing (Debian: qemu-system-x86, iproute2, python3; a kernel and busybox are
# unpacked and not installed). Results: artifacts/million/N.txt and N.json. Ends only the QEMU that
# it started.
# MILLION_MEMORY: MiB of the guest. MILLION_MINUTES: after so many it gives up (45).
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

clients=1000000 mode=guest
# What is measured is built as users build it; the smoke run takes what CI has built already.
profile=release build=(--release --no-default-features)
for argument in "$@"; do
    case $argument in
        --smoke) clients=2000 profile=debug build=() ;;
        --native) mode=native ;;
        *[!0-9]* | '' | 0*)
            sed -n '2,/^set/s/^# \{0,1\}//p' scripts/million.sh >&2
            exit 2
            ;;
        *) clients=$argument ;;
    esac
done
# A run takes longer than a heartbeat, and emulated CPUs have to connect clients meanwhile (800 to
# 3,400 a second were seen).
ping_seconds=$((clients / 2500 > 10 ? clients / 2500 : 10))
idle_seconds=$((clients / 6000 > 15 ? clients / 6000 : 15))
minutes=${MILLION_MINUTES:-45}
folder=artifacts/million
cache=$folder/guest
mkdir -p "$cache"
work=$(mktemp -d "$folder/run.XXXXXX")
load='' # QEMU, or load.sh

finish() {
    local code=$?
    if [ -n "$load" ]; then
        kill "$load" 2>/dev/null || true
        wait "$load" 2>/dev/null || true
    fi
    rm -rf "$work"
    [ "$code" = 0 ] || echo "million: failed, exit code $code" >&2
}
trap finish EXIT
trap 'exit 130' INT TERM

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

fail() {
    echo "million: $*" >&2
    exit 1
}

# KiB that a run touches: two sockets for each client, what user space keeps, a broadcast on its
# way, a kernel.
needed_kb() {
    echo $((700000 + clients * 9))
}

check_memory() {
    local available
    available=$(sed -n 's/^MemAvailable:[^0-9]*\([0-9]*\) kB/\1/p' /proc/meminfo)
    echo "memory: about $(($(needed_kb) / 1024)) MiB needed, $((available / 1024)) MiB available"
    [ "$available" -ge "$(needed_kb)" ] || [ -n "${MILLION_MEMORY:-}" ] ||
        fail "not enough memory: use a smaller N, or set MILLION_MEMORY to see how far it goes"
}

install() {
    local packages=()
    command -v python3 >/dev/null || packages+=(python3)
    if [ "$mode" = guest ]; then
        command -v qemu-system-x86_64 >/dev/null || packages+=(qemu-system-x86)
        command -v ip >/dev/null || packages+=(iproute2)
    fi
    [ ${#packages[@]} -gt 0 ] || return 0
    as_root apt-get update
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "${packages[@]}"
}

build() {
    cargo build "${build[@]}" --workspace --bin bench-harness --example bench_server
    local programs
    programs=$(cargo metadata --format-version 1 --no-deps |
        grep -o '"target_directory":"[^"]*"' | cut -d'"' -f4)/$profile
    cp "$programs/examples/bench_server" "$programs/bench-harness" scripts/million/*.sh "$work/"
    sed "s/^seconds = 100$/seconds = $idle_seconds/" bench-harness/scenarios/million.toml \
        >"$work/million.toml"
}

# Debian's kernel for virtual machines and a static busybox, kept for the next run.
fetch() {
    [ ! -e "$cache/vmlinuz" ] || [ ! -e "$cache/busybox" ] || return 0
    apt-cache show linux-image-cloud-amd64 busybox-static >/dev/null 2>&1 || as_root apt-get update
    local kernel
    kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: *//p' | head -n 1)
    (cd "$work" && apt-get download "$kernel" busybox-static 2>&1)
    dpkg-deb --fsys-tarfile "$work"/linux-image-*.deb |
        tar x -C "$work" --wildcards './boot/vmlinuz-*'
    dpkg-deb --fsys-tarfile "$work"/busybox-static_*.deb | tar x -C "$work" ./bin/busybox
    mv "$work"/boot/vmlinuz-* "$cache/vmlinuz"
    mv "$work/bin/busybox" "$cache/busybox"
    rm "$work"/*.deb
}

# The programs as they were built, with the few libraries that they ask for.
pack() {
    local root=$work/root library
    mkdir -p "$root"/{bin,proc,sys,dev,million}
    cp "$cache/busybox" "$root/bin/"
    cp scripts/million/init "$root/init"
    cp "$work"/*.sh "$work/million.toml" "$root/million/"
    strip -o "$root/million/bench_server" "$work/bench_server"
    strip -o "$root/million/bench-harness" "$work/bench-harness"
    cp -L "$(command -v ip)" "$root/million/ip"
    # A CPU for each shard and one for the clients: what shares one pays for each switch.
    printf '%s\n' "CLIENTS=$clients" "PING_SECONDS=$ping_seconds" SERVER_CPUS=0,1 CLIENT_CPU=2 \
        >"$root/million/plan"
    ldd "$root/million/bench_server" "$root/million/bench-harness" "$root/million/ip" |
        grep -o '/[^ :]*\.so[^ ]*' | sort -u |
        while read -r library; do
            mkdir -p "$root$(dirname "$library")"
            cp -L "$library" "$root$library"
        done
    (cd "$root" && find . | ./bin/busybox cpio -o -H newc 2>/dev/null) | gzip -1 >"$work/initrd"
    rm -r "$root"
}

boot() {
    local memory=${MILLION_MEMORY:-$(($(needed_kb) * 11 / 10 / 1024 + 200))}
    : >"$work/console"
    : >"$work/results"
    qemu-system-x86_64 -accel tcg,thread=multi,tb-size=256 -cpu max -smp 3 -m "$memory" \
        -nodefaults -display none -no-reboot -kernel "$cache/vmlinuz" -initrd "$work/initrd" \
        -append 'console=ttyS0 panic=-1 mitigations=off tsc=reliable nowatchdog audit=0
            init_on_alloc=0 rcupdate.rcu_cpu_stall_suppress=1' \
        -serial "file:$work/console" -serial "file:$work/results" &
    load=$!
    echo "guest: $clients clients, $memory MiB, a heartbeat every $ping_seconds s"
}

lost() {
    echo "million: the guest $1; its last lines:" >&2
    tail -n 25 "$work/console" | tr -d '\r' >&2
    exit 1
}

# Shows the guest's progress until it has switched itself off.
watch_guest() {
    local end=$((SECONDS + minutes * 60)) size=0 grown=$SECONDS now line shown=''
    while kill -0 "$load" 2>/dev/null; do
        sleep 1
        line=$({ grep -a '^progress:' "$work/console" || true; } | tail -n 1 | tr -d '\r')
        if [ "$line" != "$shown" ]; then
            shown=$line
            if [ -t 1 ]; then printf '\r\033[K%s' "$line"; else echo "$line"; fi
        fi
        ! grep -aq '^FAILED' "$work/console" || lost "could not be set up"
        now=$(cat "$work/console" "$work/results" | wc -c)
        [ "$now" = "$size" ] || { size=$now grown=$SECONDS; }
        [ $((SECONDS - grown)) -le 300 ] || lost "said nothing for five minutes"
        [ "$SECONDS" -le "$end" ] || lost "was not done in $minutes minutes"
    done
    [ ! -t 1 ] || echo
    wait "$load" || true
    load=''
}

# What the guest has sent: files in base64, then a line with their sum and how the load ended.
unpack() {
    local sum code
    read -r _ sum _ code < <(grep -a '^end ' "$work/results") || lost "ended without results"
    grep -av '^end ' "$work/results" >"$work/packed" || true
    [ "$(md5sum <"$work/packed" | cut -d' ' -f1)" = "$sum" ] || lost "sent damaged results"
    base64 -d "$work/packed" | tar xz -C "$work/out"
    [ "$code" = 0 ] && return
    rm -rf "$folder/failed"
    cp -r "$work/out" "$folder/failed"
    lost "ended its load with code $code (what it wrote: $folder/failed)"
}

# Whether sysctl NAME has at least the VALUES wanted; not if it cannot be read. A range of ports has
# to be as wide.
has_sysctl() {
    local file=/proc/sys/${1//.//}
    [ -r "$file" ] && awk -v name="$1" -v wanted="$2" '
        {
            count = split(wanted, least, ",")
            enough = NF == count
            for (i = 1; i <= count; i++) if ($i < least[i] + 0) enough = 0
            if (name ~ /port_range$/) enough = $2 - $1 >= least[2] - least[1]
        }
        END { exit !enough }' "$file"
}

# Real hardware: the limits are looked at first, and nothing is changed.
check_host() {
    local name value missing=''
    echo "sysctls that $clients connections need (as root):"
    while read -r name value; do
        echo "  sysctl -w $name=\"${value//,/ }\""
        has_sysctl "$name" "$value" || missing+=" $name"
    done < <(scripts/million/needs.sh "$clients")
    echo "and RLIMIT_NOFILE: ulimit -n $((clients + 10000))"
    [ "$(ulimit -Hn)" = unlimited ] || [ "$(ulimit -Hn)" -ge $((clients + 100)) ] ||
        missing+=" RLIMIT_NOFILE"
    [ -z "$missing" ] || fail "too low on this machine:$missing"
    ulimit -Sn "$(ulimit -Hn)"
}

run_native() {
    local cpus last
    cpus=$(nproc)
    # The last CPU is the clients', the others are the server's.
    last=$((cpus > 1 ? cpus - 1 : 0))
    # Behind us, so that a signal ends it as well, and with it the server.
    "$work/load.sh" "$clients" "$work" "$work/out" "$ping_seconds" \
        "$(seq -s, 0 $((last > 0 ? last - 1 : 0)))" "$last" &
    load=$!
    wait "$load"
    load=''
}

check_memory
[ "$mode" = guest ] || check_host
install
build
mkdir "$work/out"
if [ "$mode" = native ]; then
    run_native
else
    fetch
    pack
    boot
    watch_guest
    unpack
fi
python3 scripts/million/summary.py "$clients" "$work/out" \
    "scripts/million.sh $*, $(date -u +%Y-%m-%d), commit $(git rev-parse --short HEAD)"
