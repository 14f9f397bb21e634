//! Random lives of clients that lose their connections and come back, on several shards whose mail
//! takes its time. Whatever happens, a client whose session is restored has each broadcast that is
//! for it exactly once, those of one sender in order, and so its own events; and in the end nothing
//! is left. A failure prints its seed.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use corecast::Recovery;
use corecast::hub::fanout::Encoded;
use corecast::hub::recovery::{Data, Offset};
use corecast::hub::slab::Key;
use corecast::hub::{Config, Flags, Message, PeerEnd, Publish, Target};
use fastrand::Rng;
use serde_json::Value;

use crate::wire::{Wire, config, text, unframe};

const ROOMS: [&str; 3] = ["red", "green", "blue"];
/// Time that a session is kept, milliseconds.
const KEPT_MS: u64 = 20_000;

/// A fault put in to see whether the checks notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// A shard misses a broadcast.
    LoseLog,
    /// A shard applies a broadcast twice.
    RepeatLog,
    /// Mail overtakes mail.
    SwapMails,
}

enum Mail {
    Publish(Rc<Publish>, usize),
    Message(Message, Option<Data>),
}

struct Sent {
    sender: usize,
    rooms: Vec<String>,
    except: Vec<String>,
}

/// A connection as the client sees it.
struct Link {
    shard: usize,
    conn: u32,
    /// Frames that have come and were not read yet.
    unread: VecDeque<String>,
    /// Whether the answer to CONNECT was read.
    is_joined: bool,
    /// Tells it from former ones, and when it was made.
    serial: u64,
    since: u64,
}

struct Client {
    room: &'static str,
    link: Option<Link>,
    ids: Option<(String, String)>,
    offset: Option<String>,
    away_since: u64,
    /// It was cut while its session was on its way, or away for too long: it may have lost it.
    is_excused: bool,
    /// When it last gave an attempt up before it was answered. The question of that attempt may
    /// still be under way, but must not take the session from a later one.
    gave_up: Option<u64>,
    /// Sessions that it was refused for that reason alone.
    taken: u64,
    /// The socket on the server, while it is connected.
    socket: Option<(usize, Key)>,
    /// Per sender, the latest broadcast that it has, or that was before its time.
    seen: Vec<Option<usize>>,
    /// The same for its own events, sent and received.
    own: (u64, u64),
    recovered: u64,
}

struct World {
    rng: Rng,
    fault: Fault,
    wires: Vec<Wire>,
    /// How many members of each shard are known here.
    known: Vec<usize>,
    links: u64,
    /// Whose connection a number stands for, as numbers are used again.
    holders: HashMap<(usize, u32), u64>,
    mail: Vec<Vec<VecDeque<Mail>>>,
    sent: Vec<Sent>,
    counts: Vec<u64>,
    /// Per shard and sender, the latest broadcast that was applied.
    applied: Vec<Vec<Option<usize>>>,
    clients: Vec<Client>,
    now: u64,
    /// Logs are so short that any session may be refused.
    is_tight: bool,
    checked: u64,
    struck: u64,
}

impl World {
    fn new(seed: u64, fault: Fault) -> World {
        let mut rng = Rng::with_seed(seed);
        let shards = rng.u16(1..4);
        let is_tight = fault == Fault::None && rng.u8(0..5) == 0;
        let mut options = Recovery::default();
        options.max_disconnection_duration = Duration::from_millis(KEPT_MS);
        options.max_bytes = if is_tight { 600 } else { 1 << 20 };
        let wire = |shard| {
            let (ping_interval_ms, ping_timeout_ms) = (300, 60_000);
            let recovery = Some(options);
            let own = Config { shard, shards, recovery, ping_interval_ms, ..config() };
            Wire::with(Config { ping_timeout_ms, connections_max: 10_000, ..own })
        };
        let senders = usize::from(shards) + 1;
        let queues = || (0..senders).map(|_| VecDeque::new()).collect();
        let mut world = World {
            fault,
            wires: (0..shards).map(wire).collect(),
            known: vec![0; senders - 1],
            links: 0,
            holders: HashMap::new(),
            mail: (0..shards).map(|_| queues()).collect(),
            sent: Vec::new(),
            counts: vec![0; senders],
            applied: vec![vec![None; senders]; senders - 1],
            clients: Vec::new(),
            now: 1,
            is_tight,
            checked: 0,
            struck: 0,
            rng,
        };
        for _ in 0..world.rng.usize(1..6) {
            let room = world.rng.choice(ROOMS).unwrap();
            world.clients.push(Client {
                room,
                link: None,
                ids: None,
                offset: None,
                away_since: 0,
                is_excused: false,
                gave_up: None,
                taken: 0,
                socket: None,
                seen: vec![None; senders],
                own: (0, 0),
                recovered: 0,
            });
        }
        world
    }

    fn strikes(&mut self, fault: Fault) -> bool {
        let hit = self.fault == fault && self.rng.u8(0..12) == 0;
        self.struck += u64::from(hit);
        hit
    }

    fn shards(&self) -> usize {
        self.wires.len()
    }

    /// Lets a shard's time pass, in steps, so that nothing comes and goes unseen.
    fn advance(&mut self, shard: usize) {
        loop {
            let ms = self.now.min(self.wires[shard].now + 1_000);
            self.wires[shard].at(ms);
            self.after(shard);
            if ms == self.now {
                return;
            }
        }
    }

    /// To be called after whatever was done to a hub.
    fn after(&mut self, shard: usize) {
        self.wires[shard].run();
        while self.known[shard] < self.wires[shard].members.len() {
            let key = self.wires[shard].members[self.known[shard]];
            self.known[shard] += 1;
            self.connected(shard, key);
        }
        for (to, message, data) in std::mem::take(&mut self.wires[shard].mail) {
            self.mail[usize::from(to)][shard].push_back(Mail::Message(message, data));
        }
    }

    fn connected(&mut self, shard: usize, key: Key) {
        let hub = &mut self.wires[shard].hub;
        // It may have gone again within the same bytes.
        let Some(auth) = hub.auth(key).map(str::to_owned) else { return };
        let auth: Value = serde_json::from_str(&auth).unwrap();
        let client = &mut self.clients[auth["c"].as_u64().unwrap() as usize];
        let current = client.link.as_ref().filter(|link| auth["k"] == link.serial);
        // One that its client has given up may still get an answer.
        let Some(link) = current else { return };
        client.socket = Some((shard, key));
        // What is on its way for too long is given up.
        let is_late = self.now >= link.since + 1_900;
        if hub.is_recovered(key) {
            let data = client.ids.as_ref().map(|ids| &ids.0);
            assert_eq!(hub.socket_id(key).map(|id| id.to_string()).as_ref(), data);
            let rooms: Vec<_> = hub.rooms_of(key).iter().map(|room| room.to_string()).collect();
            assert_eq!(rooms, [client.room]);
            return;
        }
        let is_taken = client.gave_up.is_some();
        let is_excused = client.ids.is_none() || client.is_excused || self.is_tight || is_late;
        client.taken += u64::from(is_taken && !is_excused);
        assert!(is_excused || is_taken, "a new session without a reason");
        client.ids = None;
        client.offset = None;
        client.own = (0, 0);
        client.seen.clone_from(&self.applied[shard]);
        assert!(hub.join(key, client.room));
    }

    fn broadcast(&mut self) {
        let sender = self.rng.usize(0..=self.shards());
        let names = |rng: &mut Rng, clients: &[Client]| match rng.u8(0..4) {
            0 => Vec::new(),
            1 => {
                let client = &clients[rng.usize(0..clients.len())];
                client.ids.iter().map(|ids| ids.0.clone()).collect()
            }
            _ => vec![rng.choice(ROOMS).unwrap().to_owned()],
        };
        let rooms = names(&mut self.rng, &self.clients);
        let except =
            if self.rng.u8(0..4) == 0 { names(&mut self.rng, &self.clients) } else { Vec::new() };
        let offset = match self.wires.get_mut(sender) {
            Some(wire) => wire.hub.next_offset().unwrap(),
            None => {
                self.counts[sender] += 1;
                Offset::new(sender as u16, self.counts[sender])
            }
        };
        let n = self.sent.len();
        let mut args = format!("\"b\",{n}").into_bytes();
        offset.append_to(&mut args);
        let text = format!("42[{}]", String::from_utf8(args).unwrap());
        let boxed = |names: &[String]| names.iter().map(|name| name.as_str().into()).collect();
        let target = Target { rooms: boxed(&rooms), except: boxed(&except), only: None };
        let flags = Flags { offset: Some(offset), ..Flags::default() };
        let encoded = Encoded { text: text.into(), attachments: Vec::new() };
        let publish = Rc::new(Publish { namespace: 0, target, flags, encoded });
        self.sent.push(Sent { sender, rooms, except });
        if sender < self.shards() {
            self.apply(sender, &publish, n);
        }
        for to in (0..self.shards()).filter(|to| *to != sender) {
            self.mail[to][sender].push_back(Mail::Publish(publish.clone(), n));
        }
        if sender < self.shards() {
            self.after(sender);
        }
    }

    fn apply(&mut self, shard: usize, publish: &Publish, n: usize) {
        if !self.strikes(Fault::LoseLog) {
            self.wires[shard].hub.publish(publish);
        }
        if self.strikes(Fault::RepeatLog) {
            self.wires[shard].hub.publish(publish);
        }
        self.applied[shard][self.sent[n].sender] = Some(n);
    }

    fn read_mail(&mut self, shard: usize, from: usize) {
        if self.mail[shard][from].len() > 1 && self.strikes(Fault::SwapMails) {
            self.mail[shard][from].swap(0, 1);
        }
        match self.mail[shard][from].pop_front() {
            Some(Mail::Publish(publish, n)) => self.apply(shard, &publish, n),
            Some(Mail::Message(message, data)) => {
                self.wires[shard].hub.handle_recovery(message, data);
            }
            None => return,
        }
        self.after(shard);
    }

    /// An event to one socket alone.
    fn emit(&mut self, at: usize) {
        let client = &mut self.clients[at];
        let Some((shard, key)) = client.socket else { return };
        let hub = &mut self.wires[shard].hub;
        if !hub.is_connected(key) {
            return;
        }
        client.own.0 += 1;
        let offset = hub.next_offset().unwrap();
        let mut args = format!("\"u\",{}", client.own.0).into_bytes();
        offset.append_to(&mut args);
        let text = format!("42[{}]", String::from_utf8(args).unwrap());
        let flags = Flags { offset: Some(offset), ..Flags::default() };
        assert!(hub.emit(key, text.as_bytes(), &[], flags));
        self.after(shard);
    }

    fn come(&mut self, at: usize) {
        let shard = self.rng.usize(0..self.shards());
        let (conn, _) = self.wires[shard].websocket(None);
        let client = &mut self.clients[at];
        client.is_excused |= self.now > client.away_since + KEPT_MS - 1_000;
        self.links += 1;
        let (serial, since) = (self.links, self.now);
        let mut auth = serde_json::json!({ "c": at, "k": serial });
        if let Some((_, pid)) = &client.ids {
            auth["pid"] = pid.as_str().into();
        }
        if let Some(offset) = &client.offset {
            auth["offset"] = offset.as_str().into();
        }
        self.holders.insert((shard, conn), serial);
        let (unread, is_joined) = (VecDeque::new(), false);
        client.link = Some(Link { shard, conn, unread, is_joined, serial, since });
        self.wires[shard].put(conn, text(&format!("40{auth}")));
        self.after(shard);
    }

    /// The connection ends, with what was not read, known to the server or not.
    fn cut(&mut self, at: usize) {
        self.let_go_of_reused(at);
        let client = &mut self.clients[at];
        let Some(link) = client.link.take() else { return };
        client.away_since = self.now;
        // A session may be with a connection whose answer was never read; a second one within the
        // same moment may find it on its way.
        client.is_excused |= !link.is_joined;
        if !link.is_joined {
            client.gave_up = Some(self.now);
        }
        if self.rng.u8(0..4) > 0 && !self.wires[link.shard].is_over(link.conn) {
            let end = if self.rng.bool() { PeerEnd::Eof } else { PeerEnd::Reset };
            self.wires[link.shard].end(link.conn, end);
            self.after(link.shard);
        }
    }

    /// The server has closed a connection unread, and its number is another client's now.
    fn let_go_of_reused(&mut self, at: usize) {
        let client = &mut self.clients[at];
        let Some(link) = &client.link else { return };
        if self.holders.get(&(link.shard, link.conn)) != Some(&link.serial) {
            (client.link, client.away_since, client.is_excused) = (None, self.now, true);
        }
    }

    fn read(&mut self, at: usize, max: usize) {
        self.let_go_of_reused(at);
        let Some(link) = &mut self.clients[at].link else { return };
        let (shard, conn) = (link.shard, link.conn);
        link.unread.extend(unframe(&self.wires[shard].got(conn)));
        for _ in 0..max {
            let Some(link) = &mut self.clients[at].link else { return };
            let Some(frame) = link.unread.pop_front() else { return };
            match frame.as_bytes() {
                b"2" => {
                    self.wires[shard].put(conn, text("3"));
                    self.after(shard);
                }
                [b'4', b'0', rest @ ..] => self.joined(at, serde_json::from_slice(rest).unwrap()),
                [b'4', b'2', rest @ ..] => self.event(at, serde_json::from_slice(rest).unwrap()),
                b"<close>" => {
                    let client = &mut self.clients[at];
                    (client.link, client.away_since) = (None, self.now);
                    client.is_excused = true;
                    return;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn joined(&mut self, at: usize, answer: Value) {
        let client = &mut self.clients[at];
        let text = |name: &str| answer[name].as_str().unwrap().to_owned();
        let ids = (text("sid"), text("pid"));
        if let Some(link) = &mut client.link {
            link.is_joined = true;
            // By then the question of the attempt it gave up has been answered.
            client.gave_up = client.gave_up.filter(|at| link.since < at + 4_000);
        }
        client.recovered += u64::from(client.ids.as_ref() == Some(&ids));
        assert!(client.ids.is_none() || client.ids.as_ref() == Some(&ids), "other ids");
        client.ids = Some(ids);
        client.is_excused = false;
    }

    fn is_for(&self, n: usize, client: &Client) -> bool {
        let Sent { rooms, except, .. } = &self.sent[n];
        let is_in = |names: &[String]| {
            let sid = client.ids.as_ref().map(|ids| &ids.0);
            names.iter().any(|name| name == client.room || Some(name) == sid)
        };
        (rooms.is_empty() || is_in(rooms)) && !is_in(except)
    }

    fn event(&mut self, at: usize, args: Value) {
        let n = args[1].as_u64().unwrap();
        self.checked += 1;
        let client = &mut self.clients[at];
        client.offset = Some(args[2].as_str().unwrap().to_owned());
        if args[0] == "u" {
            assert_eq!(n, client.own.1 + 1, "own events of client {at}");
            client.own.1 = n;
            return;
        }
        let (n, client) = (n as usize, &self.clients[at]);
        assert!(self.is_for(n, client), "{n} is not for client {at}");
        let sender = self.sent[n].sender;
        let last = client.seen[sender];
        assert!(last < Some(n), "client {at}: {n} of sender {sender} after {last:?}");
        self.nothing_between(at, sender, n);
        self.clients[at].seen[sender] = Some(n);
    }

    /// A client has missed nothing of a sender before that broadcast.
    fn nothing_between(&self, at: usize, sender: usize, before: usize) {
        let client = &self.clients[at];
        let from = client.seen[sender].map_or(0, |last| last + 1);
        for n in from..before {
            let missed = self.sent[n].sender == sender && self.is_for(n, client);
            assert!(!missed, "client {at} has missed {n} of sender {sender}");
        }
    }

    fn step(&mut self) {
        self.now += self.rng.u64(0..8);
        if self.rng.u16(0..400) == 0 {
            self.now += self.rng.u64(1_000..KEPT_MS * 2);
        }
        // As a shard does before each turn: nothing is done with a clock that stands still.
        (0..self.shards()).for_each(|shard| self.advance(shard));
        let shard = self.rng.usize(0..self.shards());
        let at = self.rng.usize(0..self.clients.len());
        match self.rng.u8(0..100) {
            0..18 => self.broadcast(),
            18..26 => self.emit(at),
            26..60 => {
                let from = self.rng.usize(0..=self.shards());
                let count = self.rng.usize(1..9);
                (0..count).for_each(|_| self.read_mail(shard, from));
            }
            60..80 => {
                let max = self.rng.usize(1..8);
                self.read(at, max);
            }
            80..92 if self.clients[at].link.is_none() => self.come(at),
            92..97 => self.cut(at),
            _ => {}
        }
    }

    /// All mail arrives, all come back and read.
    fn settle(&mut self) {
        for _ in 0..2_000 {
            self.now += 1;
            for shard in 0..self.shards() {
                self.advance(shard);
                (0..=self.shards()).for_each(|from| self.read_mail(shard, from));
            }
            for at in 0..self.clients.len() {
                if self.clients[at].link.is_none() {
                    self.come(at);
                }
                self.read(at, 100);
            }
        }
        for at in 0..self.clients.len() {
            let client = &self.clients[at];
            assert!(client.link.as_ref().is_some_and(|link| link.is_joined), "client {at}");
            assert_eq!(client.own.0, client.own.1, "own events of client {at}");
            for sender in 0..=self.shards() {
                self.nothing_between(at, sender, self.sent.len());
            }
        }
    }

    /// All leave for good; what was cut without a word times out; nothing is left.
    fn end(&mut self) {
        for at in 0..self.clients.len() {
            let Some(link) = self.clients[at].link.take() else { continue };
            if self.rng.bool() {
                self.wires[link.shard].put(link.conn, text("41"));
            }
            self.wires[link.shard].end(link.conn, PeerEnd::Eof);
            self.after(link.shard);
        }
        for _ in 0..30 {
            self.now += 5_000;
            for shard in 0..self.shards() {
                self.advance(shard);
                for from in 0..=self.shards() {
                    while !self.mail[shard][from].is_empty() {
                        self.read_mail(shard, from);
                    }
                }
            }
        }
        for wire in &self.wires {
            let gauges = wire.hub.gauges();
            assert_eq!((gauges.sockets, gauges.suspended, gauges.rooms), (0, 0, 0));
            assert_eq!(wire.hub.held().recovery, 0, "something is held for nobody");
        }
    }
}

/// One life of a world: what was checked, how often a session was restored, how often the fault
/// struck, how often an attempt that was given up took a session.
fn run(seed: u64, fault: Fault) -> (u64, u64, u64, u64) {
    let mut world = World::new(seed, fault);
    (0..1_500).for_each(|_| world.step());
    world.settle();
    let recovered = world.clients.iter().map(|client| client.recovered).sum();
    let taken = world.clients.iter().map(|client| client.taken).sum();
    world.end();
    (world.checked, recovered, world.struck, taken)
}

/// L-9, L-10 over random lives.
#[test]
fn l9_random_lives() {
    let (mut checked, mut recovered, mut taken) = (0, 0, 0);
    let seeds = match std::env::var("LIVES_SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).unwrap(),
        Err(_) => 0..150,
    };
    for seed in seeds {
        let life = catch_unwind(AssertUnwindSafe(|| run(seed, Fault::None)));
        let life = life.unwrap_or_else(|panic| {
            eprintln!("LIVES_SEED={seed} fails");
            std::panic::resume_unwind(panic);
        });
        checked += life.0;
        recovered += life.1;
        taken += life.3;
    }
    eprintln!("{checked} events, {recovered} sessions restored, {taken} taken");
    let is_one = std::env::var("LIVES_SEED").is_ok();
    assert!(is_one || (checked > 500 && recovered > 20), "{checked} events, {recovered} sessions");
    // Only within one millisecond, which these seeds do not meet.
    assert!(taken == 0 || is_one, "{taken} of {recovered} sessions were taken");
}

/// The checks notice a fault.
fn canary(fault: Fault) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = |seed| catch_unwind(AssertUnwindSafe(|| run(seed, fault)));
    let missed = (0..10).filter(|seed| outcome(*seed).is_ok_and(|life| life.2 > 0)).count();
    std::panic::set_hook(hook);
    assert!(missed <= 3, "{fault:?}: {missed} of 10 lives went on as if nothing had happened");
}

#[test]
fn canary_lose_log() {
    canary(Fault::LoseLog);
}

#[test]
fn canary_repeat_log() {
    canary(Fault::RepeatLog);
}

#[test]
fn canary_swap_mails() {
    canary(Fault::SwapMails);
}
