"""Says what a run of scripts/million.sh found: N.txt and N.json from the files that load.sh wrote.

Usage: summary.py N FOLDER TITLE. Ends with 1 if a client or a delivery is missing.
"""

import json
import pathlib
import sys

clients, folder, title = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]


def load(name):
    return json.loads((folder / name).read_text())


def numbers(name):
    """A file of `name: number` or `name: key number …` lines, as a dictionary of lists."""
    lines = (line.partition(":") for line in (folder / name).read_text().splitlines())
    return {name: rest.split() for name, _, rest in lines}


def slab(name):
    """Bytes of each cache: pages of its slabs."""
    path = folder / name
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        words = line.split()
        if not line.startswith(("slabinfo", "#")):
            found[words[0]] = int(words[14]) * int(words[5]) * 4096
    return found


record = load("record.json")
held, last = load("figures-held.txt"), load("figures-last.txt")
phases = {phase["name"]: phase for phase in record["phases"]}
first, end = record["phases"][0], record["phases"][-1]
before, after = slab("slab-empty.txt"), slab("slab-held.txt")
grown = {name: size - before.get(name, 0) for name, size in after.items()}
largest = sorted(grown, key=grown.get, reverse=True)[:8]
sockets = numbers("sockstat-held.txt")["TCP"]
samples = [line.split() for line in (folder / "samples.txt").read_text().splitlines()]
servers = [int(sample[3]) * 1024 for sample in samples]
holding = [int(sample[0]) for sample in samples if int(sample[1]) >= clients]

found = {
    "clients": clients,
    "guest": record["host"],
    "connections": {
        "held": held["sockets"],
        "at_the_end": last["sockets"],
        "shards": last["shards"],
    },
    "tcp_sockets": int(sockets[1]),
    "seconds": {"connected": holding[0], "all": int(samples[-1][0])},
    "broadcasts": [
        {
            "to": phase["name"],
            "sent": load["all_sent"],
            "due": load["all_due"],
            "received": load["all_received"],
        }
        for phase in record["phases"]
        for load in phase["loads"]
        if load["kind"] == "fanout"
    ],
    "heartbeats": {"answered": last["pongs"], "timeouts": last["ping_timeouts"]},
    "slow_closed": last["slow_closed"],
    "rooms": last["rooms"],
    "server_rss": {
        "empty": first["server"]["resident_before"],
        "connected": first["server"]["resident_after"],
        "at_the_end": end["server"]["resident_after"],
        "peak": max(servers),
        "per_connection": first["server"]["resident_after"] / clients,
        "per_connection_at_the_end": end["server"]["resident_after"] / clients,
    },
    "client_rss_per_connection": end["client"]["resident_after"] / clients,
    "slab": {
        "per_socket": sum(grown.values()) / (2 * clients),
        "caches_per_socket": {name: grown[name] / (2 * clients) for name in largest},
    },
    "record": record,
}
rss, pulse = found["server_rss"], found["heartbeats"]
caches = ", ".join(f"{name} {grown[name] / (2 * clients):.0f}" for name in largest)
shares = ", ".join(f"{count:,} ({count / last['sockets']:.1%})" for count in last["shards"])
text = [
    f"{title}",
    f"{record['host']}",
    "",
    f"connections held      {held['sockets']:,}, at the end {last['sockets']:,} "
    f"({found['tcp_sockets']:,} TCP sockets in the kernel)",
    f"shards                {shares}",
    f"rooms                 {found['rooms']:,}, over the shards",
]
for sent in found["broadcasts"]:
    text.append(
        f"deliveries            {sent['received']:,} of {sent['due']:,}, each exactly once: "
        f"{sent['sent']} broadcast(s) to {sent['to']}"
    )
text += [
    f"heartbeats            {pulse['answered']:,} answered, {pulse['timeouts']} timeouts",
    f"server RSS            {rss['connected'] / 2**20:,.1f} MiB connected, "
    f"{rss['per_connection']:.0f} B per connection, all included ({rss['empty'] / 2**20:.1f} MiB "
    "before the first)",
    f"                      {rss['at_the_end'] / 2**20:,.1f} MiB after rooms and broadcasts, "
    f"{rss['per_connection_at_the_end']:.0f} B; highest seen {rss['peak'] / 2**20:,.1f} MiB",
    f"client RSS            {found['client_rss_per_connection']:.0f} B per connection",
    f"kernel slab           {found['slab']['per_socket']:.0f} B per socket, two for each "
    "connection" if after else "kernel slab           not readable without root",
    f"  of which            {caches}",
    f"time                  {found['seconds']['connected']:,} s to connect, "
    f"{found['seconds']['all']:,} s in all",
    "",
]
target = pathlib.Path("artifacts/million") / str(clients)
target.with_suffix(".txt").write_text("\n".join(text))
target.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
print("\n".join(text))

wrong = [
    name
    for name, is_right in {
        "connections": held["sockets"] == last["sockets"] == clients,
        "deliveries": all(b["received"] == b["due"] > 0 for b in found["broadcasts"]),
        "a broadcast to all": any(b["due"] == b["sent"] * clients for b in found["broadcasts"]),
        "heartbeats": pulse["answered"] > 0 and pulse["timeouts"] == 0,
        "slow clients": last["slow_closed"] == 0,
        "every shard": all(last["shards"]),
    }.items()
    if not is_right
]
sys.exit(f"million: wrong: {', '.join(wrong)}" if wrong else 0)
