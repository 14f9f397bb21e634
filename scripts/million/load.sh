#!/bin/sh
# Starts the server and the clients, looks at both until the clients have ended, ends the server.
# Runs in the guest under busybox, and on real hardware; writes everything into OUT.
# Usage: load.sh N PROGRAMS OUT PING_SECONDS SERVER_CPUS CLIENT_CPU
set -eu
clients=$1 programs=$2 out=$3 ping=$4 server_cpus=$5 client_cpu=$6
address=127.0.0.1:${MILLION_PORT:-4000}
server='' harness='' held=''

cleanup() {
    [ -z "$harness" ] || kill "$harness" 2>/dev/null || true
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
}
trap cleanup EXIT
trap 'exit 143' TERM

# kB of processes together.
resident() {
    for pid in "$@"; do cat "/proc/$pid/status" 2>/dev/null || true; done |
        awk '/^VmRSS:/ { sum += $2 } END { print sum + 0 }'
}

harness_pids() {
    echo "$harness" "$(cat "/proc/$harness/task/$harness/children" 2>/dev/null || true)"
}

# One number of the server's last line of figures.
figure() {
    echo "$figures" | sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p"
}

# The server's and the kernel's own view, under a name.
keep() {
    echo "$figures" >"$out/figures-$1.txt"
    cat /proc/slabinfo >"$out/slab-$1.txt" 2>/dev/null || true
    cat /proc/net/sockstat >"$out/sockstat-$1.txt"
    cat /proc/meminfo >"$out/meminfo-$1.txt"
    cat /proc/net/softnet_stat /proc/net/netstat >"$out/netstat-$1.txt"
}

# A line for the reader, and one for the file: seconds, sockets, pongs, kB of server and clients.
look() {
    figures=$(tail -n 1 "$out/server.txt")
    sockets=$(figure sockets) pongs=$(figure pongs)
    seconds=$(($(date +%s) - began))
    server_kb=$(resident "$server") client_kb=$(resident $(harness_pids))
    echo "$seconds ${sockets:-0} ${pongs:-0} $server_kb $client_kb" >>"$out/samples.txt"
    # Where the time goes, for when it goes wrong: ticks of each thread, in the program and for it
    # in the kernel, and what each CPU does.
    {
        echo "$seconds s"
        cat "/proc/$server/task/"*/stat | awk '{ print $2, "user", $14, "system", $15 }'
        grep '^cpu[0-9]' /proc/stat
    } >>"$out/cpus.txt"
    echo "progress: ${sockets:-0} of $clients connected, ${pongs:-0} heartbeats answered," \
        "server $((server_kb / 1024)) MiB, clients $((client_kb / 1024)) MiB, $seconds s," \
        "$(tail -n 1 "$out/harness.txt")"
    if [ "${sockets:-0}" -ge "$clients" ]; then
        [ -n "$held" ] || keep held
        held=yes
        keep last
    fi
}

began=$(date +%s)
"$programs/bench_server" --listen "$address" --cpus "$server_cpus" --stats 2 --room everybody \
    --ping-interval $((ping * 1000)) --ping-timeout $((ping * 1000 + 60000)) \
    2>"$out/server.txt" &
server=$!
until grep -q connections "$out/server.txt"; do
    kill -0 "$server" 2>/dev/null || { cat "$out/server.txt"; exit 1; }
    sleep 1
done
figures=$(tail -n 1 "$out/server.txt")
keep empty
"$programs/bench-harness" run "$programs/million.toml" --url "$address" --pid "$server" \
    --count "$clients" ${client_cpu:+--client-cpu "$client_cpu"} --label corecast \
    --json "$out/record.json" >"$out/harness.txt" 2>&1 &
harness=$!
pause=$((clients < 50000 ? 2 : 10))
while kill -0 "$harness" 2>/dev/null && [ ! -s "$out/record.json" ]; do
    sleep "$pause"
    look
done
# The record is written while everybody is still connected; a moment later it is whole.
code=0
if [ -s "$out/record.json" ]; then
    sleep 3
    # In the guest nobody has to leave, which takes a million clients many minutes.
    [ -z "${MILLION_STAY:-}" ] || trap - EXIT
else
    wait "$harness" || code=$?
    harness=''
fi
cat "$out/harness.txt"
exit "$code"
