//! What is to be measured: a TOML file, its meaning and its mistakes.
//!
//! ```toml
//! [clients]
//! count = 5000
//!
//! [[phase]]
//! name = "broadcast"
//! seconds = 10
//! [[phase.load]]
//! kind = "fanout"
//! in_flight = 8
//! ```
//!
//! A phase runs its loads side by side, each with latencies of its own. If the first phase does not
//! connect the clients, one that does is put in front of it.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use toml::de::DeTable;

use crate::client::{Transport, Wait};
use crate::event::{self, Data};
use crate::record::Kind;
use crate::shared;

/// Scenarios that come along, by name.
pub(crate) const READY: [(&str, &str); 14] = [
    ("ab", include_str!("../scenarios/ab.toml")),
    ("all", include_str!("../scenarios/all.toml")),
    ("binary", include_str!("../scenarios/binary.toml")),
    ("churn", include_str!("../scenarios/churn.toml")),
    ("connect", include_str!("../scenarios/connect.toml")),
    ("deflate", include_str!("../scenarios/deflate.toml")),
    ("echo", include_str!("../scenarios/echo.toml")),
    ("fanout", include_str!("../scenarios/fanout.toml")),
    ("idle", include_str!("../scenarios/idle.toml")),
    ("mixed", include_str!("../scenarios/mixed.toml")),
    ("overload", include_str!("../scenarios/overload.toml")),
    ("polling", include_str!("../scenarios/polling.toml")),
    ("rooms", include_str!("../scenarios/rooms.toml")),
    ("stalled", include_str!("../scenarios/stalled.toml")),
];

/// A whole scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// What records call it. Default: the name of the file.
    #[serde(default)]
    pub(crate) name: String,
    /// The server to start; without it one has to run, see `--url`.
    pub(crate) server: Option<Server>,
    #[serde(default)]
    pub(crate) clients: Clients,
    /// In the order in which they run.
    #[serde(default, rename = "phase")]
    pub(crate) phases: Vec<Phase>,
}

/// How a server is started.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Server {
    /// Program and arguments; `{address}` becomes `127.0.0.1:PORT` with a port that is free.
    pub(crate) command: Vec<String>,
    /// What tables call it. Default: the program's file name.
    pub(crate) label: Option<String>,
    /// The CPU that it may use. Default: all.
    pub(crate) cpu: Option<usize>,
}

/// Who the clients are.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Clients {
    /// How many. Default: 5000.
    pub(crate) count: usize,
    /// Client processes that share them. Each may open `ulimit -Hn` files. Default: 1.
    pub(crate) processes: usize,
    /// CPUs of the client processes, in turn. Default: not pinned.
    pub(crate) cpus: Vec<usize>,
    /// Addresses that connections come from, in turn; 28,232 ports each by Linux's default.
    /// Default: as many of 127.0.0.2, 127.0.0.3, … as are needed if the server is on loopback.
    pub(crate) sources: Vec<IpAddr>,
    /// "spin" (default) asks for events again and again, which spares the server the wake-ups;
    /// "block" sleeps.
    pub(crate) wait: Wait,
    /// "websocket" (default) or "polling".
    pub(crate) transport: Transport,
    /// permessage-deflate is offered and has to be accepted. Default: false.
    pub(crate) deflate: bool,
    /// What events carry: "text" (default), a string, or "binary", an attachment.
    pub(crate) data: Data,
    /// Share of the clients that leaves and comes back in loads of kind "churn" with
    /// `what = "reconnect"`. They take part in nothing else. 0 to 0.9, default: 0.
    pub(crate) leaving: f64,
    /// Share of the clients that stops reading as soon as they have joined. They take part in
    /// nothing; when all is over the record says what became of them. 0 to 0.9, default: 0.
    pub(crate) stalled: f64,
    /// So many clients more, in a process of their own that goes before the others where it may
    /// (nice -20, as root): loads of kind "echo" are theirs, and they do nothing else. So no answer
    /// has to wait until one process has read what all others were sent. Default: 0.
    pub(crate) asking: usize,
    /// Seconds without any receipt after which what is missing is lost, and the run has failed. A
    /// server that is emulated needs more. Default: 10.
    pub(crate) patience: f64,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            count: 5000,
            processes: 1,
            cpus: Vec::new(),
            sources: Vec::new(),
            wait: Wait::Spin,
            transport: Transport::Websocket,
            deflate: false,
            data: Data::Text,
            leaving: 0.0,
            stalled: 0.0,
            asking: 0,
            patience: 10.0,
        }
    }
}

/// Loads that run side by side.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Phase {
    /// Default: the names of its loads.
    #[serde(default)]
    pub(crate) name: String,
    /// Length of the measured part. A phase that connects ends when all are connected instead.
    /// Default: 5.
    #[serde(default = "five")]
    pub(crate) seconds: f64,
    /// Seconds of load before that. Default: a fifth of `seconds`, 1 at most; 0 to connect.
    pub(crate) warmup: Option<f64>,
    /// Seconds without load behind it, before memory is read. Default: 0; 1 after connecting.
    pub(crate) settle: Option<f64>,
    /// Seconds between two readings. Default: 1, or as much as makes ten to a hundred of them.
    pub(crate) interval: Option<f64>,
    #[serde(rename = "load")]
    pub(crate) loads: Vec<Load>,
}

/// One load. Which fields a kind has is said at each of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Load {
    /// "connect", "idle", "fanout", "echo" or "churn".
    pub(crate) kind: Kind,
    /// Default: the kind.
    #[serde(default)]
    pub(crate) name: String,
    /// fanout, echo: bytes of data in each event, 32 to 60000. Default: 128.
    pub(crate) payload: Option<usize>,
    /// All but idle, open loop: operations a second by schedule, however long they take.
    pub(crate) rate: Option<f64>,
    /// All but idle, closed loop: operations under way at any time; the next begins when one ends.
    /// Default: 1 fanout (at most 64), 256 echoes, 64 connections, 64 joins or reconnections.
    pub(crate) in_flight: Option<usize>,
    /// fanout: clients are divided into rooms of so many, which take turns. Default: all clients
    /// get each broadcast. churn: a room is joined by so many at most. Default: 1.
    pub(crate) room_size: Option<usize>,
    /// connect: clients that are to be connected afterwards; more come or some leave.
    /// Default: all.
    pub(crate) count: Option<usize>,
    /// churn: "rooms" (default), a room is joined, then left, each acknowledged; or
    /// "reconnect", one of the leaving clients goes and comes back.
    pub(crate) what: Option<Churn>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Churn {
    Rooms,
    Reconnect,
}

fn five() -> f64 {
    5.0
}

/// A mistake: which phase and load has it, which key, and what is wrong.
struct Mistake {
    phase: Option<usize>,
    load: Option<usize>,
    key: &'static str,
    text: String,
}

impl Scenario {
    /// The file at `path`, or, if there is none, the scenario of this name that comes along.
    pub(crate) fn find(path: &Path) -> Result<Self> {
        let ready = READY.iter().find(|(name, _)| Path::new(name) == path);
        let text = match (std::fs::read_to_string(path), ready) {
            (Ok(text), _) => text,
            (Err(_), Some((_, text))) => (*text).to_owned(),
            (Err(error), None) => {
                let names: Vec<&str> = READY.iter().map(|(name, _)| *name).collect();
                return Err(anyhow!(error).context(format!(
                    "read {}: give a file, or one of {}",
                    path.display(),
                    names.join(", ")
                )));
            }
        };
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&text, &stem).with_context(|| path.display().to_string())
    }

    /// Errors say line and key.
    pub(crate) fn parse(text: &str, name: &str) -> Result<Self> {
        let mut found: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            anyhow!("line {line}: {}", error.message().trim())
        })?;
        if found.name.is_empty() {
            found.name = name.to_owned();
        }
        found.finish().map_err(|mistake| {
            let line = mistake.span(text).map_or(1, |start| line_of(text, start));
            anyhow!("line {line}: {}: {}", mistake.key, mistake.text)
        })?;
        Ok(found)
    }

    /// Clients that stay through the whole run: they are the first ones.
    pub(crate) fn steady(&self) -> usize {
        self.clients.steady()
    }

    /// Clients that are connected after `phase`, those that ask aside, if it changes that.
    pub(crate) fn connected_after(&self, phase: &Phase) -> Option<usize> {
        let load = phase.loads.first().filter(|_| phase.connects())?;
        Some(load.count.unwrap_or(self.clients.count))
    }

    /// What the process of those that ask runs.
    pub(crate) fn asking(&self) -> Self {
        let mut own = self.clone();
        own.clients = Clients {
            count: self.clients.asking,
            processes: 1,
            wait: Wait::Block,
            leaving: 0.0,
            stalled: 0.0,
            asking: 0,
            ..own.clients
        };
        let loads = own.phases.iter_mut().flat_map(|phase| &mut phase.loads);
        loads.for_each(|load| load.count = None);
        own
    }

    /// Changes the number of clients; what was larger than that shrinks to it.
    pub(crate) fn scale(&mut self, count: usize) {
        self.clients.count = count;
        let steady = self.steady();
        for load in self.phases.iter_mut().flat_map(|phase| &mut phase.loads) {
            load.count = load.count.map(|wanted| wanted.min(count));
            load.room_size = load.room_size.map(|wanted| wanted.min(steady).max(1));
            load.in_flight = load.in_flight.map(|wanted| wanted.min(steady).max(1));
        }
    }

    /// Checks again after the command line has changed something.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.finish().map_err(|mistake| {
            anyhow!("{}: {} (with what the command line says)", mistake.key, mistake.text)
        })
    }

    /// Fills in what follows from the rest, and checks everything.
    fn finish(&mut self) -> Result<(), Mistake> {
        self.check_clients()?;
        let connects = |phase: &Phase| phase.loads.iter().any(|load| load.kind == Kind::Connect);
        for (at, phase) in self.phases.iter_mut().enumerate() {
            let wrong = |key, text: &str| {
                Err(Mistake { phase: Some(at), load: None, key, text: text.to_owned() })
            };
            for load in phase.loads.iter_mut().filter(|load| load.name.is_empty()) {
                load.name = format!("{:?}", load.kind).to_lowercase();
            }
            if phase.name.is_empty() {
                let names: Vec<&str> = phase.loads.iter().map(|load| load.name.as_str()).collect();
                phase.name = names.join("+");
            }
            if phase.loads.is_empty() || phase.loads.len() > shared::LOADS_MAX {
                return wrong("load", "a phase has 1 to 8 loads");
            }
            if connects(phase) && phase.loads.len() > 1 {
                return wrong("load", "what connects clients runs alone in its phase");
            }
            for (key, value, least) in [
                ("seconds", Some(phase.seconds), 0.05),
                ("warmup", phase.warmup, 0.0),
                ("settle", phase.settle, 0.0),
                ("interval", phase.interval, 0.01),
            ] {
                if value.is_some_and(|value| !(least..=1e6).contains(&value)) {
                    return wrong(key, &format!("between {least} and 1000000 seconds"));
                }
            }
        }
        for (phase, load) in self.loads() {
            self.check_load(load).map_err(|(key, text)| Mistake {
                phase: Some(phase.0),
                load: Some(phase.1),
                key,
                text,
            })?;
        }
        if self.phases.first().is_none_or(|phase| !connects(phase)) {
            self.phases.insert(0, Phase::connect());
        }
        Ok(())
    }

    /// Each load with the numbers of its phase and of itself.
    pub(crate) fn loads(&self) -> impl Iterator<Item = ((usize, usize), &Load)> {
        self.phases.iter().enumerate().flat_map(|(phase, entry)| {
            entry.loads.iter().enumerate().map(move |(load, entry)| ((phase, load), entry))
        })
    }

    fn check_clients(&self) -> Result<(), Mistake> {
        let Clients { count, processes, leaving, stalled, transport, deflate, .. } = self.clients;
        let wrong =
            |key, text: &str| Err(Mistake { phase: None, load: None, key, text: text.to_owned() });
        if !(1..=20_000_000).contains(&count) {
            return wrong("count", "between 1 and 20000000 clients");
        }
        if !(1..=256).contains(&processes) || processes > count {
            return wrong("processes", "between 1 and 256, and no more than clients");
        }
        if !(0.0..=0.9).contains(&stalled) {
            return wrong("stalled", "a share between 0 and 0.9");
        }
        if !(0.0..=0.9).contains(&leaving) || self.steady() < processes {
            return wrong("leaving", "a share between 0 and 0.9; each process keeps one at least");
        }
        if self.clients.asking > 0 && !self.loads().any(|(_, load)| load.kind == Kind::Echo) {
            return wrong("asking", "nobody asks: there is no load of kind echo");
        }
        if !(1.0..=1e6).contains(&self.clients.patience) {
            return wrong("patience", "between 1 and 1000000 seconds");
        }
        if deflate && transport == Transport::Polling {
            return wrong("deflate", "it is an extension of websocket; drop it or the transport");
        }
        Ok(())
    }

    fn check_load(&self, load: &Load) -> Result<(), (&'static str, String)> {
        let wrong = |key, text: String| Err((key, text));
        for (key, given, fits) in [
            ("payload", load.payload.is_some(), load.has_data()),
            ("rate", load.rate.is_some(), load.kind != Kind::Idle),
            ("in_flight", load.in_flight.is_some(), load.kind != Kind::Idle),
            (
                "room_size",
                load.room_size.is_some(),
                matches!(load.kind, Kind::Fanout | Kind::Churn),
            ),
            ("count", load.count.is_some(), load.kind == Kind::Connect),
            ("what", load.what.is_some(), load.kind == Kind::Churn),
        ] {
            if given && !fits {
                return wrong(
                    key,
                    format!("a load of kind {:?} has none", load.kind).to_lowercase(),
                );
            }
        }
        if !(event::DATA_MIN..=60_000).contains(&load.payload()) {
            return wrong("payload", format!("between {} and 60000 bytes", event::DATA_MIN));
        }
        if load.rate.is_some() && load.in_flight.is_some() {
            return wrong("rate", "either a rate or a number in flight".into());
        }
        if load.rate.is_some_and(|rate| !(0.001..=1e7).contains(&rate)) {
            return wrong("rate", "between 0.001 and 10000000 a second".into());
        }
        let most = if load.kind == Kind::Fanout { shared::IN_FLIGHT_MAX } else { self.steady() };
        if load.in_flight.is_some_and(|count| count == 0 || count > most) {
            return wrong("in_flight", format!("between 1 and {most}"));
        }
        if load.room_size.is_some_and(|size| size == 0 || size > self.steady()) {
            return wrong("room_size", format!("between 1 and the {} clients", self.steady()));
        }
        if load.count.is_some_and(|count| count > self.clients.count) {
            return wrong("count", format!("at most the {} of [clients]", self.clients.count));
        }
        if load.what == Some(Churn::Reconnect) && self.clients.leaving == 0.0 {
            return wrong("what", "nobody can leave: set `leaving` in [clients]".into());
        }
        Ok(())
    }
}

impl Clients {
    /// The first ones, which stay and take part.
    pub(crate) fn steady(&self) -> usize {
        self.count.saturating_sub(self.share(self.leaving) + self.stalled())
    }

    /// Those that stop reading, who come behind the steady ones.
    pub(crate) fn stalled(&self) -> usize {
        self.share(self.stalled)
    }

    /// However few there are, one of them if any shall.
    fn share(&self, share: f64) -> usize {
        (self.count as f64 * share - 1e-6).ceil() as usize
    }
}

impl Phase {
    fn connect() -> Self {
        let load = Load {
            kind: Kind::Connect,
            name: "connect".into(),
            payload: None,
            rate: None,
            in_flight: None,
            room_size: None,
            count: None,
            what: None,
        };
        Self {
            name: "connect".into(),
            seconds: five(),
            warmup: None,
            settle: None,
            interval: None,
            loads: vec![load],
        }
    }

    pub(crate) fn connects(&self) -> bool {
        self.loads.iter().any(|load| load.kind == Kind::Connect)
    }

    pub(crate) fn warmup(&self) -> f64 {
        let usual = if self.connects() { 0.0 } else { (self.seconds / 5.0).min(1.0) };
        self.warmup.unwrap_or(usual)
    }

    pub(crate) fn settle(&self) -> f64 {
        self.settle.unwrap_or(if self.connects() { 1.0 } else { 0.0 })
    }

    pub(crate) fn interval(&self) -> f64 {
        let usual = if self.connects() { 1.0 } else { (self.seconds / 10.0).min(1.0) };
        self.interval.unwrap_or(usual.max(self.seconds / 100.0))
    }
}

impl Load {
    /// Whether its broadcasts go to everybody.
    pub(crate) fn reaches_all(&self) -> bool {
        self.kind == Kind::Fanout && self.room_size.is_none()
    }

    /// Whether its operations carry data.
    pub(crate) fn has_data(&self) -> bool {
        matches!(self.kind, Kind::Fanout | Kind::Echo)
    }

    pub(crate) fn payload(&self) -> usize {
        self.payload.unwrap_or(128)
    }

    /// Operations under way, of a load without a rate, with `clients` of them.
    pub(crate) fn in_flight(&self, clients: usize) -> usize {
        let usual = match self.kind {
            Kind::Fanout => 1,
            Kind::Echo => 256,
            Kind::Connect | Kind::Churn | Kind::Idle => 64,
        };
        self.in_flight.unwrap_or(usual).min(clients.max(1))
    }

    pub(crate) fn what(&self) -> Churn {
        self.what.unwrap_or(Churn::Rooms)
    }
}

impl Mistake {
    /// Where its key stands in `text`, or the table that lacks it.
    fn span(&self, text: &str) -> Option<usize> {
        let root = DeTable::parse(text).ok()?;
        let Some(phase) = self.phase else {
            let clients = root.get_ref().get("clients")?;
            let table = clients.get_ref().as_table()?;
            return Some(table.get(self.key).map_or(clients.span(), |value| value.span()).start);
        };
        let mut item = root.get_ref().get("phase")?.get_ref().as_array()?.get(phase)?;
        if let Some(load) = self.load {
            let loads = item.get_ref().as_table()?.get("load")?;
            item = loads.get_ref().as_array()?.get(load)?;
        }
        let table = item.get_ref().as_table()?;
        Some(table.get(self.key).map_or(item.span(), |value| value.span()).start)
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at.min(text.len())].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_that_comes_along_is_valid_and_says_what_it_is() {
        for (name, text) in READY {
            let mut scenario = Scenario::parse(text, name).expect(name);
            assert!(text.starts_with("# "), "{name}");
            assert_eq!(scenario.name, name);
            assert!(scenario.phases[0].connects(), "{name}");
            for count in [50, 7, 2] {
                scenario.scale(count);
                scenario.clients.processes = 1;
                scenario.check().expect(name);
            }
        }
    }

    #[test]
    fn mistakes_are_told_with_line_and_key() {
        let load = |text: &str| format!("[clients]\ncount = 10\n\n[[phase]]\n{text}");
        for (text, line, key) in [
            ("[clients]\ncunt = 5\n".to_owned(), 2, "cunt"),
            ("[clients]\ncount = 0\n".into(), 2, "count"),
            ("[clients]\ncount = \"many\"\n".into(), 2, "invalid type"),
            ("[clients]\nprocesses = 9\ncount = 8\n".into(), 2, "processes"),
            ("[clients]\ndeflate = true\ntransport = \"polling\"\n".into(), 2, "deflate"),
            ("[clients]\nleaving = 1.0\n".into(), 2, "leaving"),
            (load("load = [{ kind = \"fan\" }]\n"), 5, "unknown variant"),
            (load("seconds = 0\nload = [{ kind = \"idle\" }]\n"), 5, "seconds"),
            (load("load = []\n"), 5, "load"),
            (load("[[phase.load]]\nkind = \"idle\"\n\npayload = 99\n"), 8, "payload"),
            (load("[[phase.load]]\nkind = \"echo\"\npayload = 31\n"), 7, "payload"),
            (load("[[phase.load]]\nkind = \"fanout\"\nin_flight = 65\n"), 7, "in_flight"),
            (load("[[phase.load]]\nkind = \"fanout\"\nroom_size = 11\n"), 7, "room_size"),
            (load("[[phase.load]]\nkind = \"echo\"\nrate = 9\nin_flight = 1\n"), 7, "rate"),
            (load("[[phase.load]]\nkind = \"connect\"\ncount = 11\n"), 7, "count"),
            (load("[[phase.load]]\nkind = \"churn\"\nwhat = \"reconnect\"\n"), 7, "what"),
            (load("load = [{ kind = \"connect\" }, { kind = \"idle\" }]\n"), 5, "load"),
        ] {
            let error = format!("{:#}", Scenario::parse(&text, "bad").expect_err(&text));
            assert!(error.starts_with(&format!("line {line}: ")), "{text}{error}");
            assert!(error.contains(key), "{text}{error}");
        }
    }

    #[test]
    fn what_is_not_said_follows_from_the_rest() {
        let text = "[clients]\ncount = 40\nleaving = 0.25\n[[phase]]\nseconds = 200\n\
                    load = [{ kind = \"echo\" }, { kind = \"idle\" }]\n";
        let scenario = Scenario::parse(text, "file").expect("valid");
        assert_eq!((scenario.steady(), scenario.phases.len()), (30, 2));
        let [connect, phase] = scenario.phases.as_slice() else { panic!("two phases") };
        assert_eq!(
            (connect.name.as_str(), connect.warmup(), connect.settle()),
            ("connect", 0.0, 1.0)
        );
        assert_eq!((phase.name.as_str(), phase.warmup(), phase.settle()), ("echo+idle", 1.0, 0.0));
        assert_eq!((connect.interval(), phase.interval()), (1.0, 2.0));
        assert_eq!((phase.loads[0].in_flight(30), phase.loads[0].payload()), (30, 128));
    }
}
