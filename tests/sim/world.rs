//! The driver: hubs, network and clients in one thread under one seed. It keeps the contract of the
//! hub as the shard does, and checks the hub's side of it.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use corecast::Options;
use corecast::hub::buffer::SendBuf;
use corecast::hub::id::Secrets;
use corecast::hub::{Config, Hub, Output, PeerEnd, Publish};
use fastrand::Rng;

use crate::app::App;
use crate::client::{Client, Ctx, PATH};
use crate::model::{Facts, Model};
use crate::net::{End, Net, Place, Stream};
use crate::profile::Profile;
use crate::script::SPACES;

/// A fault of the driver, put in to see whether the checks notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    PublishTwice,
    SkipPublish,
    LoseSent,
    SwapMails,
    LoseReceived,
    ForgetMember,
    ForgetClosed,
    FlipByte,
    WrongReceiver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receive {
    None,
    Once,
    Many,
}

#[derive(Debug)]
struct Flight {
    buf: SendBuf,
    at: usize,
    delay: u64,
}

/// The kernel's end of a connection.
#[derive(Debug)]
struct Link {
    stream: usize,
    receive: Receive,
    send: Option<Flight>,
    is_shut: bool,
    is_closing: bool,
}

pub enum Mail {
    Publish(Publish, u64, Vec<String>, Vec<String>),
    Stream { stream: usize, address: SocketAddr, bytes: Vec<u8> },
}

pub struct Shard {
    pub hub: Hub,
    links: HashMap<u32, Link>,
    /// By sender; the last one stands for all threads that are no shard.
    mail: Vec<VecDeque<Mail>>,
}

pub struct World {
    pub rng: Rng,
    pub profile: Profile,
    pub fault: Fault,
    pub now: u64,
    pub step: u64,
    pub shards: Vec<Shard>,
    pub net: Net,
    pub model: Model,
    pub app: App,
    pub clients: Vec<Client>,
    pub settling: bool,
    /// How often the fault was put in.
    pub faults: u64,
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

fn hub(shard: usize, profile: &Profile, seed: u64) -> Hub {
    let mut limits = Options::default().limits().expect("the defaults");
    limits.message_bytes_max = 20_000;
    let config = Config {
        shard: shard as u16,
        shards: profile.shards as u16,
        path: PATH.into(),
        polling: true,
        deflate: None,
        websocket: true,
        allow_eio3: false,
        jsonp: true,
        http_compression: Some(Default::default()),
        requests: Default::default(),
        parser: Default::default(),
        limits,
        ping_interval_ms: 800,
        ping_timeout_ms: 2_500,
        upgrade_timeout_ms: 1_500,
        connect_timeout_ms: 2_500,
        head_timeout_ms: 6_000,
        body_timeout_ms: 6_000,
        queue_bytes_max: profile.queue_bytes_max,
        shard_queue_bytes_max: profile.shard_queue_bytes_max,
        shard_incoming_bytes_max: 512 << 20,
        slow_reader: profile.slow_reader,
        connections_max: 1_000,
        entrance: Default::default(),
        namespaces_max: 100,
        rooms_max: 1_000,
        acks_max: 1_000,
        gather_bytes_max: 1 << 20,
        recovery: None,
        retain_handshake: true,
        epoch_ms: 0,
    };
    let mut rng = Rng::with_seed(seed ^ shard as u64);
    let secrets = Secrets::new(Box::new(move |bytes| rng.fill(bytes)));
    let mut hub = Hub::new(config, secrets);
    SPACES.iter().for_each(|name| {
        hub.add_namespace(name);
    });
    hub
}

impl World {
    pub fn new(seed: u64, fault: Fault) -> World {
        let mut rng = Rng::with_seed(seed);
        let profile = Profile::of(seed, &mut rng);
        let shard = |n| Shard {
            hub: hub(n, &profile, seed),
            links: HashMap::new(),
            mail: (0..=profile.shards).map(|_| VecDeque::new()).collect(),
        };
        let mut world = World {
            shards: (0..profile.shards).map(shard).collect(),
            rng,
            fault,
            now: 0,
            step: 0,
            net: Net::default(),
            model: Model::default(),
            app: App::default(),
            clients: Vec::new(),
            settling: false,
            faults: 0,
            profile,
        };
        world.model.drops = world.profile.slow_reader == corecast::SlowReader::Drop;
        world.model.has_garbage = world.profile.tempers[3].1 > 0;
        for _ in 0..world.profile.clients {
            let at = world.rng.u64(0..40);
            world.add_client(at);
        }
        world
    }

    pub fn add_client(&mut self, at: u64) {
        let (mode, temper) = (self.profile.mode(&mut self.rng), self.profile.temper(&mut self.rng));
        let garbage = temper == crate::client::Temper::Garbage;
        self.model.facts.push(Facts { garbage, ..Facts::default() });
        self.clients.push(Client::new(self.clients.len(), mode, temper, at, &mut self.rng));
    }

    /// Whether to put the fault in now.
    pub fn strikes(&mut self, fault: Fault) -> bool {
        let hit = self.fault == fault && self.step > 60 && self.rng.u8(0..4) == 0;
        self.faults += u64::from(hit);
        hit
    }

    /// Everybody gets a turn, in any order.
    pub fn step(&mut self, elapsed_ms: u64) {
        self.step += 1;
        crate::STEP.set(self.step);
        self.now += elapsed_ms;
        let mut order: Vec<usize> = (0..self.shards.len()).collect();
        self.rng.shuffle(&mut order);
        for shard in order {
            if self.rng.u8(..) > 30 {
                self.turn(shard);
            }
        }
        for at in 0..self.clients.len() {
            self.with_client(at, |client, ctx| client.step(ctx));
        }
    }

    pub fn with_client(&mut self, at: usize, act: impl FnOnce(&mut Client, &mut Ctx<'_>)) {
        let mut ctx = Ctx {
            net: &mut self.net,
            model: &mut self.model,
            rng: &mut self.rng,
            profile: &self.profile,
            now: self.now,
            step: self.step,
            settling: self.settling,
        };
        act(&mut self.clients[at], &mut ctx);
    }

    pub fn turn(&mut self, s: usize) {
        self.shards[s].hub.handle_time(self.now);
        self.drain(s);
        assert!(!self.app.is_overdue(s, self.now), "a question has not timed out");
        self.accept(s);
        let mut conns: Vec<u32> = self.shards[s].links.keys().copied().collect();
        conns.sort_unstable();
        self.rng.shuffle(&mut conns);
        for conn in conns {
            if self.rng.u8(..) > 50 {
                self.advance_send(s, conn);
            }
            if self.rng.u8(..) > 50 {
                self.advance_receive(s, conn);
            }
            if self.rng.u8(..) > 100 {
                self.advance_close(s, conn);
            }
        }
        self.read_mail(s);
        self.run_jobs(s);
        self.flush(s);
        self.drain(s);
        self.check_queues(s);
    }

    fn accept(&mut self, s: usize) {
        for stream in 0..self.net.streams.len() {
            if self.net.streams[stream].place != Place::Backlog(s) || self.rng.bool() {
                continue;
            }
            match self.shards[s].hub.handle_accepted(address()) {
                Some(conn) => self.place(s, conn, stream),
                None => {
                    assert!(self.model.is_over, "refused though there is room");
                    let stream = &mut self.net.streams[stream];
                    (stream.place, stream.down_end) = (Place::Gone, End::Eof);
                }
            }
            self.drain(s);
        }
    }

    fn place(&mut self, s: usize, conn: u32, stream: usize) {
        let link =
            Link { stream, receive: Receive::None, send: None, is_shut: false, is_closing: false };
        let old = self.shards[s].links.insert(conn, link);
        assert!(old.is_none(), "connection {conn} given out twice");
        self.net.streams[stream].place = Place::At(s, conn);
    }

    /// To be called after each input and each command.
    pub fn drain(&mut self, s: usize) {
        loop {
            let outputs_first = self.rng.bool();
            let output = if outputs_first { self.shards[s].hub.poll_output() } else { None };
            if let Some(output) = output {
                self.output(s, output);
                continue;
            }
            if let Some(event) = self.shards[s].hub.poll_event() {
                self.event(s, event);
                continue;
            }
            match self.shards[s].hub.poll_output() {
                Some(output) => self.output(s, output),
                None => return,
            }
        }
    }

    fn output(&mut self, s: usize, output: Output) {
        let links = &mut self.shards[s].links;
        let (conn, receive) = match output {
            Output::ReceiveOnce(conn) => (conn, Receive::Once),
            Output::ReceiveMany(conn) => (conn, Receive::Many),
            Output::ShutdownWrite(conn) => {
                let link = links.get_mut(&conn).expect("ShutdownWrite for a connection");
                assert!(!link.is_shut && !link.is_closing, "ShutdownWrite twice or late: {link:?}");
                assert!(link.send.is_none(), "ShutdownWrite with a send in flight");
                link.is_shut = true;
                self.net.streams[link.stream].down_end = End::Eof;
                return;
            }
            Output::Close(conn) => {
                let link = links.get_mut(&conn).expect("Close for a connection");
                assert!(!link.is_closing, "closed twice");
                link.is_closing = true;
                return;
            }
            Output::Recover { .. } => panic!("recovery is off here; see tests/hub_bytes/lives.rs"),
            Output::Migrate { conn, shard, peer, bytes } => {
                let link = links.remove(&conn).expect("Migrate for a connection");
                let idle = link.receive == Receive::None && link.send.is_none();
                assert!(idle && !link.is_closing, "migrated while busy: {link:?}");
                let stream = link.stream;
                self.net.streams[stream].place = Place::Moving;
                let mail = Mail::Stream { stream, address: peer.address, bytes };
                self.shards[usize::from(shard)].mail[s].push_back(mail);
                return;
            }
        };
        let link = links.get_mut(&conn).expect("receive for a connection");
        assert!(!link.is_closing, "receive after Close");
        assert_eq!(link.receive, Receive::None, "a second receive was asked for");
        link.receive = receive;
    }

    fn advance_receive(&mut self, s: usize, conn: u32) {
        let Some(link) = self.shards[s].links.get_mut(&conn) else { return };
        if link.receive == Receive::None || (link.is_closing && self.rng.bool()) {
            return;
        }
        let stream = &mut self.net.streams[link.stream];
        let end = match stream.up_end {
            End::Reset if stream.up.is_empty() || self.rng.bool() => Some(PeerEnd::Reset),
            End::Eof if stream.up.is_empty() => Some(PeerEnd::Eof),
            _ if stream.up.is_empty() => return,
            _ => None,
        };
        if let Some(end) = end {
            link.receive = Receive::None;
            self.shards[s].hub.handle_peer_closed(conn, end);
            return self.drain(s);
        }
        if link.receive == Receive::Once {
            link.receive = Receive::None;
        }
        let max = match self.rng.u8(0..10) {
            0 => 1,
            1..4 => self.rng.usize(1..100),
            _ => 2_048,
        };
        let n = stream.up.len().min(max);
        let mut bytes: Vec<u8> = stream.up.drain(..n).collect();
        if self.strikes(Fault::LoseReceived) {
            bytes.pop();
        }
        self.shards[s].hub.handle_received(conn, &mut bytes);
        self.drain(s);
    }

    fn advance_send(&mut self, s: usize, conn: u32) {
        let Some(link) = self.shards[s].links.get_mut(&conn) else { return };
        let (Some(flight), closing) = (&mut link.send, link.is_closing) else { return };
        let to = link.stream;
        let stream = &self.net.streams[to];
        let is_broken = stream.up_end == End::Reset || (stream.closed && self.rng.bool());
        if is_broken {
            link.send = None;
            if !closing {
                self.shards[s].hub.handle_sent(conn, false);
                self.drain(s);
            }
            return;
        }
        if flight.delay > 0 {
            flight.delay -= 1;
            return;
        }
        if flight.at < flight.buf.len() {
            if !self.net.takes(to) {
                return;
            }
            let left = flight.buf.len() - flight.at;
            let n = if self.rng.u8(..) > 60 { left } else { self.rng.usize(1..=left) };
            // The bytes are read now: they must not have changed since the flush.
            let mut bytes = flight.buf.to_vec()[flight.at..flight.at + n].to_vec();
            flight.at += n;
            if self.strikes(Fault::FlipByte) {
                bytes[0] ^= 1;
            }
            self.net.streams[to].down.extend(bytes);
            return;
        }
        let is_lost = self.strikes(Fault::LoseSent);
        let Some(link) = self.shards[s].links.get_mut(&conn) else { return };
        link.send = None;
        if !closing && !is_lost {
            self.shards[s].hub.handle_sent(conn, true);
            self.drain(s);
        }
    }

    fn advance_close(&mut self, s: usize, conn: u32) {
        let Some(link) = self.shards[s].links.get(&conn).filter(|link| link.is_closing) else {
            return;
        };
        let is_cut = link.send.is_some();
        if is_cut && self.rng.u8(..) > 100 {
            return;
        }
        let stream = &mut self.net.streams[link.stream];
        stream.place = Place::Gone;
        stream.down_end = if is_cut { End::Reset } else { End::Eof };
        self.shards[s].links.remove(&conn);
        if self.strikes(Fault::ForgetClosed) {
            return;
        }
        self.shards[s].hub.handle_closed(conn);
        self.drain(s);
    }

    fn read_mail(&mut self, s: usize) {
        for from in 0..self.shards[s].mail.len() {
            if self.shards[s].mail[from].len() > 1 && self.strikes(Fault::SwapMails) {
                self.shards[s].mail[from].swap(0, 1);
            }
            if self.rng.u64(0..=self.profile.delay) > 2 {
                continue;
            }
            while !self.shards[s].mail[from].is_empty() && self.rng.u8(..) > 30 {
                match self.shards[s].mail[from].pop_front() {
                    Some(Mail::Publish(publish, n, rooms, except)) => {
                        self.apply(s, &publish, n, &rooms, &except);
                    }
                    Some(Mail::Stream { stream, address, bytes }) => {
                        let conn = self.shards[s].hub.handle_migrated(address.into(), bytes);
                        self.place(s, conn.expect("room for a connection"), stream);
                    }
                    None => {}
                }
                self.drain(s);
            }
        }
    }

    pub fn post(&mut self, from: usize, to: usize, mail: Mail) {
        self.shards[to].mail[from].push_back(mail);
    }

    fn flush(&mut self, s: usize) {
        let budget = if self.rng.u8(..) < 40 { self.rng.usize(0..3) } else { 256 };
        let mut sends = Vec::new();
        let count = self.shards[s].hub.flush(budget, |conn, buf| sends.push((conn, buf)));
        assert_eq!(count, sends.len());
        assert!(count <= budget, "over the budget");
        if sends.len() > 1 && self.strikes(Fault::WrongReceiver) {
            let first = sends[0].0;
            sends[0].0 = sends[1].0;
            sends[1].0 = first;
        }
        for (conn, buf) in sends {
            let link = self.shards[s].links.get_mut(&conn).expect("a send for a connection");
            assert!(!link.is_closing && !link.is_shut, "a send after the end: {link:?}");
            assert!(link.send.is_none(), "two sends in flight");
            assert!(!buf.is_empty(), "an empty send");
            let delay = self.rng.u64(0..self.profile.delay);
            link.send = Some(Flight { buf, at: 0, delay });
        }
    }

    fn check_queues(&mut self, s: usize) {
        let shard = &self.shards[s];
        let per_conn = self.profile.queue_bytes_max + 2 * self.profile.large + 30_000;
        let queued = shard.hub.held().queued;
        // A socket's queue, or an outbox, and an answer on its way beside it.
        let queues = shard.links.len() + shard.hub.gauges().sessions;
        assert!(queued <= queues * per_conn, "{queued} bytes queued");
        let gauges = shard.hub.gauges();
        // Beside it: answers that have left their outbox, and what nobody is asked about.
        let memory = self.profile.shard_queue_bytes_max + queues * 30_000;
        assert!(gauges.queue_bytes <= memory, "{} bytes of memory", gauges.queue_bytes);
        let incoming = shard.hub.held().incoming();
        assert_eq!(gauges.incoming_bytes, incoming, "bytes of what is not complete");
        let sending = shard.links.values().filter(|link| link.send.is_some()).count();
        assert!((sending..=shard.links.len()).contains(&gauges.sending), "{}", gauges.sending);
        assert_eq!(shard.hub.connection_count(), shard.links.len(), "connections");
    }

    /// Milliseconds until a timer of a hub has something to do, if only timers can go on.
    pub fn until_next_timer(&self) -> Option<u64> {
        let busy = |stream: &Stream| {
            stream.place != Place::Gone && (stream.up_end != End::Open || !stream.up.is_empty())
        };
        if !self.is_quiet() || self.net.streams.iter().any(busy) {
            return None;
        }
        self.shards.iter().filter_map(|shard| shard.hub.next_timeout_ms()).min()
    }

    /// Nothing is in the hands of the kernel or between the shards.
    pub fn is_quiet(&self) -> bool {
        // A peer that has vanished takes nothing more.
        let is_vain = |link: &Link| self.net.streams[link.stream].stalled;
        let idle = |shard: &Shard| {
            shard.links.values().all(|link| link.send.is_none() || is_vain(link))
                && shard.mail.iter().all(VecDeque::is_empty)
                && !shard.hub.has_work()
        };
        self.shards.iter().all(idle) && self.app.jobs.is_empty()
    }
}
