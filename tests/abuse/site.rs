//! A server in this process with healthy clients on it, and what must still hold after an attack.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use corecast::preflight::allowed_cpus;
use corecast::{Event, Options, Running, Server, Socket, Stats};

use crate::peer::{Frame, PATIENCE, POLLING, Peer, WEBSOCKET, get, post};

/// Healthy clients of a site; with two shards, both have some.
const HEALTHY: usize = 4;
/// Servers share the machine's cores, and some tests count what this process holds.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub struct Site {
    pub server: Server,
    pub address: SocketAddr,
    pub shards: usize,
    running: Option<Running>,
    healthy: Vec<Peer>,
    /// Sockets that have gone since the start, by the application's count.
    gone: Arc<AtomicUsize>,
    /// Counters when the attack began.
    before: Stats,
    echoes: u64,
    descriptors: usize,
    _alone: MutexGuard<'static, ()>,
}

/// Runs `attack` against a server with one shard and one with two, then checks both.
pub fn attack(change: impl Fn(&mut Options), attack: impl Fn(&mut Site)) {
    let cpus = allowed_cpus();
    for shards in 1..=cpus.len().min(2) {
        let mut site = Site::new(|options| {
            options.cpus = cpus[..shards].to_vec();
            change(options);
        });
        attack(&mut site);
        site.check();
    }
}

/// Counters of now.
pub fn fresh(server: &Server) -> Stats {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let held = runtime.block_on(server.fetch_held()).expect("the server runs");
    assert!(held.is_complete);
    server.stats()
}

/// The usual options.
pub fn usual(_: &mut Options) {}

impl Site {
    pub fn new(change: impl Fn(&mut Options)) -> Site {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut options = Options::default();
        change(&mut options);
        let shards = options.cpus.len().max(1);
        let server = Server::new(options).unwrap();
        let gone = Arc::new(AtomicUsize::new(0));
        register(&server, &gone);
        let running = server.listen("127.0.0.1:0").expect("listens");
        let address = running.addresses()[0];
        let healthy = (0..HEALTHY).map(|_| joined(address)).collect();
        let mut site = Site {
            server,
            address,
            shards,
            running: Some(running),
            healthy,
            gone,
            before: Stats::default(),
            echoes: 0,
            descriptors: 0,
            _alone: alone,
        };
        site.wait("the healthy clients", |stats| stats.gauges.sockets == HEALTHY);
        site.before = site.stats();
        site.descriptors = descriptors();
        site
    }

    pub fn peer(&self) -> Peer {
        Peer::connect(self.address)
    }

    /// A websocket session that has joined no namespace yet.
    pub fn opened(&self) -> Peer {
        let mut peer = self.peer();
        peer.upgrade(WEBSOCKET);
        assert!(matches!(peer.frame(), Frame::Text(open) if open.starts_with("0{\"sid\":")));
        peer
    }

    /// A websocket session in `/`.
    pub fn joined(&self) -> Peer {
        joined(self.address)
    }

    /// A polling session: its id.
    pub fn polling(&self) -> String {
        let response = self.peer().ask(get(POLLING));
        assert_eq!(response.status, 200);
        response.body[9..29].to_string()
    }

    /// A polling session in `/`: the query of its requests.
    pub fn joined_polling(&self) -> String {
        let query = format!("{POLLING}&sid={}", self.polling());
        self.peer().ask(post(&query, "40")).is(200, "ok");
        assert!(self.peer().ask(get(&query)).body.starts_with("40{\"sid\":"));
        query
    }

    /// Counters of now: those that shards leave by themselves may be of before an attack.
    pub fn stats(&self) -> Stats {
        fresh(&self.server)
    }

    /// Waits until the counters say so.
    pub fn wait(&self, what: &str, holds: impl Fn(&Stats) -> bool) -> Stats {
        let start = Instant::now();
        loop {
            let stats = self.server.stats();
            if holds(&stats) {
                let stats = self.stats();
                if holds(&stats) {
                    return stats;
                }
            }
            assert!(start.elapsed() < PATIENCE, "waited for {what}: {stats:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A counter has moved by exactly this since the attack began.
    pub fn moved(&self, what: &str, by: u64, read: impl Fn(&Stats) -> u64) {
        let before = read(&self.before);
        let stats = self.wait(what, |stats| read(stats) >= before + by);
        assert_eq!(read(&stats), before + by, "{what}");
    }

    pub fn bad_requests(&self, by: u64) {
        self.moved("bad requests", by, |stats| stats.totals.bad_requests);
    }

    pub fn bad_frames(&self, by: u64) {
        self.moved("bad frames", by, |stats| stats.totals.bad_frames);
    }

    pub fn bad_packets(&self, by: u64) {
        self.moved("bad packets", by, |stats| stats.totals.bad_packets);
    }

    /// Only the healthy clients are left, and nothing of what came with the others.
    pub fn is_quiet(&self) {
        self.wait("the server to be quiet", |stats| {
            let held = &stats.gauges;
            (held.connections, held.sessions, held.sockets, held.rooms)
                == (HEALTHY, HEALTHY, HEALTHY, 0)
        });
    }

    /// The healthy clients are served, each in its place.
    pub fn check_healthy(&mut self) {
        for peer in &mut self.healthy {
            self.echoes += 1;
            echo(peer, self.echoes);
        }
    }

    /// Each healthy client hears this next.
    pub fn drain_healthy(&mut self, text: &str) {
        self.healthy.iter_mut().for_each(|peer| assert_eq!(peer.text(), text));
    }

    /// What holds after every attack: old clients have noticed nothing, new ones are served.
    fn check(mut self) {
        self.check_healthy();
        let mut fresh = self.joined();
        echo(&mut fresh, 0);
        let query = self.joined_polling();
        self.peer().ask(post(&query, "421[\"echo\",2]")).is(200, "ok");
        self.peer().ask(get(&query)).is(200, "431[2]");
        self.peer().ask(post(&query, "1")).is(200, "ok");
        drop(fresh);
        self.is_quiet();
    }

    /// Each healthy client says something, and all hear it, next and once.
    pub fn chat(&mut self, round: u64) {
        for speaker in 0..self.healthy.len() {
            let line = format!("\"{round} {speaker}\"");
            self.healthy[speaker].say(&format!("42[\"say\",{line}]"));
            self.drain_healthy(&format!("42[\"said\",{line}]"));
        }
    }

    /// As many descriptors as when the healthy clients had come.
    pub fn check_descriptors(&mut self) {
        let start = Instant::now();
        while descriptors() > self.descriptors {
            assert!(start.elapsed() < PATIENCE, "{} more", descriptors() - self.descriptors);
            self.check_healthy();
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// As [`Site::check`], where pings are frequent.
    pub fn finish(mut self) {
        let start = Instant::now();
        let baseline = |held: &corecast::Stats| {
            let held = &held.gauges;
            (held.connections, held.sessions, held.sockets, held.rooms)
                == (HEALTHY, HEALTHY, HEALTHY, 0)
        };
        while !baseline(&self.stats()) {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.server.stats());
            self.check_healthy();
            std::thread::sleep(Duration::from_millis(20));
        }
        self.check();
    }

    /// Sockets that have gone since the start.
    pub fn gone(&self) -> usize {
        self.gone.load(Ordering::SeqCst)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.healthy.clear();
        self.server.shutdown();
        if let Some(running) = self.running.take()
            && let Err(error) = running.join()
            && !std::thread::panicking()
        {
            panic!("{error}");
        }
    }
}

/// Open descriptors of this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

pub fn joined(address: SocketAddr) -> Peer {
    let mut peer = Peer::connect(address);
    peer.upgrade(WEBSOCKET);
    assert!(peer.text().starts_with("0{\"sid\":"));
    peer.say("40");
    assert!(peer.text().starts_with("40{\"sid\":"));
    peer
}

/// One question and its answer.
pub fn echo(peer: &mut Peer, number: u64) {
    peer.say(&format!("42{number}[\"echo\",{number}]"));
    assert_eq!(peer.text(), format!("43{number}[{number}]"));
}

/// What the application does. Nothing here is careful; the server has to be.
fn register(server: &Server, gone: &Arc<AtomicUsize>) {
    let gone = gone.clone();
    server
        .on("echo", |_: Socket, event: Event| async move {
            let _ = event.ack(event.raw());
        })
        // Typed, in and out.
        .on("copy", |socket: Socket, event: Event| async move {
            if let Ok(files) = event.data::<Vec<corecast::Binary>>() {
                let _ = socket.emit("copy", &files);
            }
        })
        // `["flood", packets, bytes]`: that much comes back at once.
        .on("flood", |socket: Socket, event: Event| async move {
            let (packets, bytes) = event.args::<(usize, usize)>().unwrap_or_default();
            for _ in 0..packets {
                let _ = socket.emit("flood", "x".repeat(bytes));
            }
        })
        .on("join", |socket: Socket, event: Event| async move {
            for room in event.args::<Vec<String>>().unwrap_or_default() {
                socket.join(room);
            }
            let _ = event.ack(socket.rooms().len());
        })
        .on("say", |socket: Socket, event: Event| async move {
            let _ = socket.server().emit("said", event.raw());
        })
        // A question, and a wait for the answer.
        .on("ask", |socket: Socket, _: Event| async move {
            let _ = socket.emit_with_ack("question", 1).await;
        })
        .on("wait", |_: Socket, _: Event| async move {
            corecast::sleep(Duration::from_secs(3_600)).await;
        })
        .on_disconnect(move |_: Socket, _| {
            gone.fetch_add(1, Ordering::SeqCst);
            async {}
        });
    for number in 0..8 {
        server.of(&format!("/n{number}"));
    }
    // A pattern on which engines that go back take for ever.
    server.of_pattern("^/dyn-|^/(a+)+$").unwrap().on(
        "echo",
        |_: Socket, event: Event| async move {
            let _ = event.ack(event.raw());
        },
    );
    server.of("/never").middleware(|_: Socket| async move {
        corecast::sleep(Duration::from_secs(3_600)).await;
        Ok(())
    });
}
