//! What the comparison measures: set-ups, each a fresh server under phases of a scenario, and the
//! rows of the table that are read from them.
//!
//! In texts, `{name}` stands for a number of `Numbers`.

use serde::Serialize;

use crate::record::{Kind, Phase};
use crate::table::{Base, Line};

/// Which engines a set-up is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    All,
    /// All but the floor, which knows no long-polling.
    Servers,
    /// corecast, and the floor beside it.
    Ours,
    /// corecast alone.
    OursAlone,
}

/// A server that is started afresh, and what is done to it.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) who: Who,
    /// Lines of `[clients]`.
    pub(crate) clients: &'static str,
    /// Milliseconds between two heartbeats.
    pub(crate) ping_interval: u32,
    /// With more than one, server and client share all CPUs: CPU time is compared then, not speed.
    pub(crate) shards: Shards,
    pub(crate) measures: &'static [Measure],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shards {
    /// On the server's CPU, the client on its own.
    Alone,
    /// So many, on CPUs that the client uses as well.
    Sharing(usize),
}

/// One or more phases, and what is read from that of the same name.
#[derive(Debug)]
pub(crate) struct Measure {
    /// What `--rows` calls it.
    pub(crate) name: &'static str,
    /// TOML.
    pub(crate) phases: &'static str,
    pub(crate) rows: &'static [Row],
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// Where it is read.
    pub(crate) phase: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) decimals: usize,
    pub(crate) base: Base,
    figure: Figure,
}

#[derive(Debug, Clone, Copy)]
enum Figure {
    /// Microseconds of the server's CPU time per receipt.
    Cpu,
    /// Thousands of receipts a second.
    Thousands,
    /// Milliseconds.
    Latency(Kind, f64),
    /// Bytes of the server per connection.
    Memory,
}

impl Who {
    pub(crate) fn has(self, engine: &str) -> bool {
        match self {
            Who::All => true,
            Who::Servers => engine != "floor",
            Who::Ours => ["floor", "corecast"].contains(&engine),
            Who::OursAlone => engine == "corecast",
        }
    }
}

impl Row {
    /// The row of the table.
    pub(crate) fn line(&self, numbers: &Numbers) -> Line {
        let Row { phase, unit, decimals, base, .. } = *self;
        Line { title: numbers.fill(self.title), unit, decimals, base, phase }
    }

    /// What its phase says; `None` if the phase has no such figure.
    pub(crate) fn figure(&self, phase: &Phase) -> Option<f64> {
        match self.figure {
            Figure::Cpu => phase.cpu_per_delivery().map(|seconds| seconds * 1e6),
            Figure::Thousands => Some(phase.deliveries() as f64 / phase.seconds / 1e3),
            Figure::Memory => phase.memory_per_connection(),
            Figure::Latency(kind, quantile) => {
                let load = phase.loads.iter().find(|load| load.kind == kind)?;
                let latency = load.latency();
                (!latency.0.is_empty()).then(|| latency.at(quantile) as f64 / 1e6)
            }
        }
    }
}

/// The numbers that texts name.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Numbers {
    /// Length of a measurement, in seconds.
    pub(crate) seconds: f64,
    /// Clients of most rows, of the rows of memory and growth, and of those with many rooms.
    pub(crate) clients: usize,
    pub(crate) idle: usize,
    pub(crate) roomy: usize,
    /// Broadcasts a second that make half of what the floor can, found at the beginning: one at a
    /// time, and with eight in flight.
    pub(crate) half: f64,
    pub(crate) half_8: f64,
}

impl Numbers {
    /// To try it out.
    pub(crate) const QUICK: Numbers =
        Numbers { seconds: 0.5, clients: 1_000, idle: 2_000, roomy: 2_000, half: 0.0, half_8: 0.0 };

    /// Clients of most rows, of memory and growth, and of many rooms. Of these there are fewer if
    /// no more than `files` may be open.
    pub(crate) fn new(seconds: f64, [clients, idle, roomy]: [u32; 3], files: u64) -> Self {
        let roomy = (roomy as usize).min(files.saturating_sub(128) as usize);
        let (clients, idle) = (clients as usize, idle as usize);
        Self { seconds, clients, idle, roomy, half: 0.0, half_8: 0.0 }
    }

    pub(crate) fn fill(&self, text: &str) -> String {
        let many = many_rooms(self.roomy);
        let few = self.roomy / 10;
        let numbers = [
            ("{seconds}", self.seconds.to_string()),
            ("{clients}", self.clients.to_string()),
            ("{fifth}", (self.clients / 5).to_string()),
            ("{idle}", self.idle.to_string()),
            ("{fifteenth}", (self.idle / 15).to_string()),
            ("{roomy}", self.roomy.to_string()),
            ("{few}", few.to_string()),
            ("{many}", many.to_string()),
            ("{half}", format!("{:.3}", self.half)),
            ("{half_8}", format!("{:.3}", self.half_8)),
        ];
        numbers.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }
}

/// Rooms that there are when each client is in one of 1, one of 2, one of 10 and one of 15.
fn many_rooms(clients: usize) -> usize {
    [1, 2, 10, 15].iter().map(|size| clients.div_ceil(*size)).sum()
}

/// One phase called `name`, which takes `{seconds}`, and its loads in TOML.
macro_rules! phase {
    ($name:literal, $loads:literal) => {
        concat!("[[phase]]\nname = \"", $name, "\"\nseconds = {seconds}\nload = [", $loads, "]\n")
    };
}

/// The measure and its only phase have one name.
macro_rules! measure {
    ($name:literal, $loads:literal, $($row:expr),+) => {
        Measure { name: $name, phases: phase!($name, $loads), rows: &[$($row),+] }
    };
}

const USUAL: Setup = Setup {
    who: Who::All,
    clients: "count = {clients}",
    ping_interval: 25_000,
    shards: Shards::Alone,
    measures: &[],
};

/// Rows by the fresh server that they need.
pub(crate) const SETUPS: [Setup; 11] = [
    Setup {
        measures: &[
            Measure {
                name: "connect",
                // Some come and go first: code and memory are warm when it counts.
                phases: concat!(
                    phase!("warm-up", "{ kind = 'connect', count = {fifth} }"),
                    phase!("leave", "{ kind = 'connect', count = 0 }"),
                    phase!("connect", "{ kind = 'connect' }")
                ),
                rows: &[cpu(
                    "connect",
                    "connect, upgrade and join the namespace, per connection",
                    1,
                )],
            },
            measure!(
                "fanout-1",
                "{ kind = 'fanout' }",
                cpu("fanout-1", "fan-out, one at a time, 128 B, per delivery", 2)
            ),
            measure!(
                "fanout-1-1k",
                "{ kind = 'fanout', payload = 1024 }",
                cpu("fanout-1-1k", "fan-out, one at a time, 1 KiB, per delivery", 2)
            ),
            measure!(
                "fanout-8",
                "{ kind = 'fanout', in_flight = 8 }",
                cpu("fanout-8", "fan-out, 8 in flight, 128 B, per delivery", 3),
                thousands("fanout-8", "the same, thousands of deliveries a second")
            ),
            measure!(
                "fanout-8-1k",
                "{ kind = 'fanout', in_flight = 8, payload = 1024 }",
                cpu("fanout-8-1k", "fan-out, 8 in flight, 1 KiB, per delivery", 3)
            ),
            measure!("echo", "{ kind = 'echo' }", cpu("echo", "echo, 256 in flight, per echo", 2)),
            measure!(
                "half",
                "{ kind = 'fanout', rate = {half} }",
                latency("half", "fan-out at half of what the floor can, p50", Kind::Fanout, 0.5),
                latency("half", "fan-out at half of what the floor can, p99", Kind::Fanout, 0.99)
            ),
        ],
        ..USUAL
    },
    Setup {
        who: Who::Ours,
        measures: &[measure!(
            "half-8",
            "{ kind = 'fanout', rate = {half_8} }",
            latency(
                "half-8",
                "fan-out at half of what it can with 8 in flight, p99",
                Kind::Fanout,
                0.99
            )
        )],
        ..USUAL
    },
    Setup {
        measures: &[measure!(
            "storm",
            "{ kind = 'connect', in_flight = {clients} }",
            cpu("storm", "connect, {clients} at once, per connection", 1)
        )],
        ..USUAL
    },
    Setup {
        ping_interval: 1_000,
        measures: &[measure!(
            "heartbeat",
            "{ kind = 'idle' }",
            cpu("heartbeat", "heartbeat, per ping and pong", 2)
        )],
        ..USUAL
    },
    Setup {
        ping_interval: 1_000,
        clients: "count = {clients}\nasking = 200",
        measures: &[measure!(
            "fairness",
            "{ kind = 'fanout' }, { kind = 'echo', rate = 500 }, { kind = 'idle' }",
            alone("fairness", "echo beside a fan-out to all, p99", Kind::Echo, 0.99),
            alone("fairness", "heartbeat beside it, the latest is late by", Kind::Idle, 1.0)
        )],
        ..USUAL
    },
    Setup {
        clients: "count = {idle}",
        measures: &[measure!(
            "memory",
            "{ kind = 'connect' }",
            memory("memory", "memory per idle websocket")
        )],
        ..USUAL
    },
    Setup {
        who: Who::Servers,
        clients: "count = {idle}\ntransport = 'polling'",
        measures: &[measure!(
            "memory-polling",
            "{ kind = 'connect' }",
            memory("memory-polling", "memory per idle long-polling session")
        )],
        ..USUAL
    },
    Setup {
        who: Who::Ours,
        clients: "count = {idle}",
        measures: &[Measure {
            name: "members",
            phases: concat!(
                phase!("connect-100", "{ kind = 'connect', count = 100 }"),
                phase!("members-100", "{ kind = 'fanout' }"),
                phase!("connect-1000", "{ kind = 'connect', count = {fifteenth} }"),
                phase!("members-1000", "{ kind = 'fanout' }"),
                phase!("connect-all", "{ kind = 'connect' }"),
                phase!("members", "{ kind = 'fanout' }")
            ),
            rows: &[
                cpu("members-100", "growth: fan-out to 100, per delivery", 2),
                cpu("members-1000", "growth: fan-out to {fifteenth}, per delivery", 2),
                cpu("members", "growth: fan-out to {idle}, per delivery", 2),
            ],
        }],
        ..USUAL
    },
    Setup {
        who: Who::OursAlone,
        clients: "count = {roomy}",
        measures: &[Measure {
            name: "rooms",
            // Rooms stay when they were needed once, so that each phase finds more of them.
            phases: concat!(
                phase!("join-none", "{ kind = 'churn' }"),
                phase!("rooms-few", "{ kind = 'fanout', room_size = 10, in_flight = 64 }"),
                "[[phase]]\nname = 'fill'\nseconds = 0.1\nload = [\
                    { kind = 'fanout', room_size = 1 }, { kind = 'fanout', room_size = 2 },\
                    { kind = 'fanout', room_size = 15 }]\n",
                phase!("rooms-many", "{ kind = 'fanout', room_size = 10, in_flight = 64 }"),
                phase!("join-many", "{ kind = 'churn' }"),
                phase!("join-large", "{ kind = 'churn', room_size = {roomy} }")
            ),
            rows: &[
                cpu(
                    "rooms-few",
                    "growth: broadcast to one of {few} rooms, 10 members each, per delivery",
                    2,
                ),
                within(
                    "rooms-many",
                    "growth: broadcast to one of {many} rooms, 10 members each",
                    "rooms-few",
                ),
                cpu("join-none", "growth: join or leave a room, no others there", 2),
                within("join-many", "growth: join or leave a room beside {many}", "join-none"),
                within(
                    "join-large",
                    "growth: join or leave a room of up to {roomy} members",
                    "join-none",
                ),
            ],
        }],
        ..USUAL
    },
    Setup {
        who: Who::OursAlone,
        clients: "count = {clients}\nwait = 'block'",
        shards: Shards::Sharing(1),
        measures: &[measure!(
            "one-shard",
            "{ kind = 'fanout', room_size = 100, in_flight = 8 }",
            cpu("one-shard", "broadcast to rooms of 100, one shard, per delivery", 2)
        )],
        ..USUAL
    },
    Setup {
        who: Who::OursAlone,
        clients: "count = {clients}\nwait = 'block'",
        shards: Shards::Sharing(2),
        measures: &[measure!(
            "two-shards",
            "{ kind = 'fanout', room_size = 100, in_flight = 8 }",
            within("two-shards", "the same, each room on two shards", "one-shard")
        )],
        ..USUAL
    },
];

/// CPU time of the server for each receipt.
const fn cpu(phase: &'static str, title: &'static str, decimals: usize) -> Row {
    Row { phase, title, decimals, unit: "µs", base: Base::Floor, figure: Figure::Cpu }
}

/// The same, as a multiple of what it is in another phase.
const fn within(phase: &'static str, title: &'static str, base: &'static str) -> Row {
    Row { base: Base::Phase(base), ..cpu(phase, title, 2) }
}

const fn thousands(phase: &'static str, title: &'static str) -> Row {
    let figure = Figure::Thousands;
    Row { phase, title, decimals: 0, unit: "k/s", base: Base::Floor, figure }
}

const fn latency(phase: &'static str, title: &'static str, kind: Kind, quantile: f64) -> Row {
    let figure = Figure::Latency(kind, quantile);
    Row { phase, title, decimals: 1, unit: "ms", base: Base::Floor, figure }
}

/// A latency that has a bound of its own.
const fn alone(phase: &'static str, title: &'static str, kind: Kind, quantile: f64) -> Row {
    Row { base: Base::None, ..latency(phase, title, kind, quantile) }
}

const fn memory(phase: &'static str, title: &'static str) -> Row {
    Row { phase, title, decimals: 0, unit: "B", base: Base::None, figure: Figure::Memory }
}
