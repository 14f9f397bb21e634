//! A scripted client, Engine.IO half: its connections, long-polling, websocket and the way from one
//! to the other. What it says over them is in `script.rs`.

use std::collections::VecDeque;

use fastrand::Rng;

use crate::codec::{self, Pkt};
use crate::model::Model;
use crate::net::{End, Net};
use crate::profile::Profile;
use crate::script::Script;

pub const PATH: &str = "/socket.io/";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Polling,
    WebSocket,
    Upgrade,
}

/// What is wrong with a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temper {
    Healthy,
    /// Stops reading for a while, again and again.
    Stalling,
    /// Breaks connections at any moment.
    Breaking,
    /// Stops answering pings.
    Muted,
    /// Sends bytes that are wrong.
    Garbage,
    /// Joins no namespace, or asks for what is never answered.
    Lazy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Comes at this step.
    Fresh(u64),
    Opening,
    Open,
    Done,
}

/// A keep-alive connection for requests.
#[derive(Debug, Default)]
struct Requests {
    stream: Option<usize>,
    busy: bool,
    used_at: u64,
}

#[derive(Debug)]
struct Probe {
    stream: usize,
    is_open: bool,
    is_probed: bool,
    /// Gives up at this step, in whatever state it is.
    aborts_at: Option<u64>,
    /// Never sends its `5`, and goes on polling.
    is_fake: bool,
    /// Too late for a `5` then: the server may just be giving up.
    until: u64,
}

pub struct Ctx<'a> {
    pub net: &'a mut Net,
    pub model: &'a mut Model,
    pub rng: &'a mut Rng,
    pub profile: &'a Profile,
    pub now: u64,
    pub step: u64,
    /// No new actions.
    pub settling: bool,
}

impl Ctx<'_> {
    pub fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    fn open(&mut self) -> usize {
        let shard = self.rng.usize(0..self.profile.shards);
        self.net.open(shard)
    }
}

#[derive(Debug)]
pub struct Client {
    pub id: usize,
    pub mode: Mode,
    pub temper: Temper,
    pub state: State,
    pub script: Script,
    get: Requests,
    post: Requests,
    ws: Option<usize>,
    ws_open: bool,
    probe: Option<Probe>,
    upgrades_left: u32,
    sid: String,
    pub queue: VecDeque<Pkt>,
    /// Packets to be sent at a later step.
    pub later: Vec<(u64, Pkt)>,
}

impl Client {
    pub fn new(id: usize, mode: Mode, temper: Temper, at: u64, rng: &mut Rng) -> Client {
        Client {
            id,
            mode,
            temper,
            state: State::Fresh(at),
            script: Script::new(id, temper, rng),
            get: Requests::default(),
            post: Requests::default(),
            ws: None,
            ws_open: false,
            probe: None,
            upgrades_left: 4,
            sid: String::new(),
            queue: VecDeque::new(),
            later: Vec::new(),
        }
    }

    /// Nothing is on its way to the server.
    pub fn is_quiet(&self) -> bool {
        self.queue.is_empty() && self.later.is_empty() && !self.post.busy && self.probe.is_none()
    }

    pub fn is_healthy(&self, model: &Model) -> bool {
        let facts = model.facts[self.id];
        let calm = matches!(self.temper, Temper::Healthy | Temper::Lazy);
        calm && !facts.left && !facts.excused && !facts.lazy
    }

    pub fn step(&mut self, ctx: &mut Ctx<'_>) {
        match self.state {
            State::Fresh(at) if at <= ctx.step && !ctx.settling => self.open(ctx),
            State::Fresh(_) | State::Done => return,
            State::Opening | State::Open => {}
        }
        self.read(ctx);
        if self.state == State::Open {
            self.misbehave(ctx);
            let due = self.later.iter().position(|(at, _)| *at <= ctx.step || ctx.settling);
            if let Some(at) = due {
                let packet = self.later.remove(at).1;
                self.queue.push_back(packet);
            }
            self.script.act(&mut self.queue, ctx);
            if matches!(self.mode, Mode::Upgrade) {
                self.upgrade(ctx);
            }
            self.write(ctx);
        }
    }

    fn open(&mut self, ctx: &mut Ctx<'_>) {
        self.state = State::Opening;
        let stream = ctx.open();
        if self.mode == Mode::WebSocket {
            self.ws = Some(stream);
            self.send(ctx, stream, &codec::handshake(PATH, None));
            if self.temper == Temper::Healthy && ctx.chance(20) {
                // Frames together with the request (W-22).
                self.script.connect(0, &mut self.queue, ctx);
                self.write_frames(ctx, stream);
            }
        } else {
            self.get = Requests { stream: Some(stream), busy: true, used_at: ctx.step };
            self.send(ctx, stream, &codec::get(PATH, "transport=polling", ""));
        }
    }

    /// All bytes pass here, so that some clients can spoil them.
    fn send(&mut self, ctx: &mut Ctx<'_>, stream: usize, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        if self.temper == Temper::Garbage && ctx.chance(12) {
            spoil(&mut bytes, ctx.rng);
        }
        ctx.net.write(stream, &bytes);
    }

    fn read(&mut self, ctx: &mut Ctx<'_>) {
        let probe = self.probe.as_ref().map(|probe| probe.stream);
        let mine = [self.get.stream, self.post.stream, self.ws, probe];
        for stream in mine.into_iter().flatten() {
            let max = if ctx.chance(70) { usize::MAX } else { ctx.rng.usize(1..200) };
            let more = ctx.net.read(stream, max);
            self.understand(stream, ctx);
            if !more && self.state != State::Done {
                self.ended(stream, ctx);
            }
        }
    }

    fn understand(&mut self, stream: usize, ctx: &mut Ctx<'_>) {
        let mut inbox = std::mem::take(&mut ctx.net.streams[stream].inbox);
        while self.state != State::Done && !inbox.is_empty() {
            let is_ws = self.ws == Some(stream) && self.ws_open;
            let probe = self.probe.as_mut().filter(|probe| probe.stream == stream);
            if is_ws || probe.as_ref().is_some_and(|probe| probe.is_open) {
                let Some((opcode, payload)) = codec::read_frame(&mut inbox) else { break };
                self.frame(stream, opcode, payload, ctx);
                continue;
            }
            let Some(reply) = codec::read_reply(&mut inbox) else { break };
            if reply.status == 100 {
                continue;
            }
            match probe {
                Some(probe) if reply.status == 101 => {
                    probe.is_open = true;
                    let bytes = codec::frames(&Pkt::Text("2probe".into()), ctx.rng);
                    self.send(ctx, stream, &bytes);
                }
                Some(_) => self.probe_ended(ctx),
                None if self.ws == Some(stream) && reply.status == 101 => self.ws_open = true,
                None => self.reply(stream, reply, ctx),
            }
        }
        ctx.net.streams[stream].inbox = inbox;
    }

    fn reply(&mut self, stream: usize, reply: codec::Reply, ctx: &mut Ctx<'_>) {
        let is_get = self.get.stream == Some(stream);
        let requests = if is_get { &mut self.get } else { &mut self.post };
        requests.busy = false;
        requests.used_at = ctx.step;
        if reply.close {
            requests.stream = None;
            ctx.net.close(stream);
        }
        if reply.status != 200 {
            return self.lost(&format!("status {} {:?}", reply.status, reply.body), ctx);
        }
        if is_get {
            for packet in codec::read_payload(&reply.body) {
                self.packet(packet, ctx);
            }
        } else if reply.body != b"ok" {
            self.lost("a POST was not ok", ctx);
        }
    }

    fn frame(&mut self, stream: usize, opcode: u8, payload: Vec<u8>, ctx: &mut Ctx<'_>) {
        if self.ws != Some(stream) {
            let Some(probe) = &mut self.probe else { return };
            match (opcode, payload.as_slice()) {
                (1, b"3probe") => probe.is_probed = true,
                (8, _) => self.probe_ended(ctx),
                other => panic!("a probe got {other:?}"),
            }
            return;
        }
        match opcode {
            1 => {
                let text = String::from_utf8(payload).expect("text");
                self.packet(codec::read_text(text), ctx);
            }
            2 => self.packet(Pkt::Bin(payload), ctx),
            8 => self.lost("a close frame", ctx),
            10 => self.script.pong(&payload),
            other => panic!("opcode {other}"),
        }
    }

    /// An Engine.IO packet of the session.
    fn packet(&mut self, packet: Pkt, ctx: &mut Ctx<'_>) {
        let Pkt::Text(text) = &packet else {
            return self.script.received(packet, &mut self.queue, &mut self.later, ctx);
        };
        match text.as_bytes().first() {
            Some(b'0') => {
                let open: serde_json::Value = serde_json::from_str(&text[1..]).expect("open");
                if self.state == State::Open && self.temper == Temper::Garbage {
                    return self.lost("its sid was spoilt", ctx);
                }
                self.sid = open["sid"].as_str().expect("a sid").into();
                assert_eq!(self.state, State::Opening, "opened twice");
                self.state = State::Open;
            }
            Some(b'1') => self.lost("a close packet", ctx),
            Some(b'2') if self.temper == Temper::Muted && ctx.model.facts[self.id].muted => {}
            Some(b'2') => {
                let late = ctx.rng.u64(0..10);
                self.later.push((ctx.step + late, Pkt::Text("3".into())));
            }
            Some(b'4') => self.script.received(packet, &mut self.queue, &mut self.later, ctx),
            Some(b'6') => {}
            _ => panic!("packet {text:?}"),
        }
    }

    /// The server has closed a connection.
    fn ended(&mut self, stream: usize, ctx: &mut Ctx<'_>) {
        let was_reset = ctx.net.streams[stream].down_end == End::Reset;
        ctx.net.close(stream);
        if self.probe.as_ref().is_some_and(|probe| probe.stream == stream) {
            return self.probe_ended(ctx);
        }
        let requests = [&mut self.get, &mut self.post];
        let found = requests.into_iter().find(|requests| requests.stream == Some(stream));
        let is_lost = match found {
            Some(requests) => {
                requests.stream = None;
                requests.busy
            }
            // Or a connection for requests, whose last answer has just been read.
            None => self.ws == Some(stream),
        };
        if is_lost {
            self.lost(&format!("connection {stream} ended, reset: {was_reset}"), ctx);
        }
    }

    /// The session is over, and not by this client's wish.
    fn lost(&mut self, why: &str, ctx: &mut Ctx<'_>) {
        if self.state == State::Done {
            return;
        }
        let healthy = self.is_healthy(ctx.model);
        assert!(!healthy, "client {} {:?} lost its session: {why}", self.id, self.mode);
        self.let_go(ctx);
    }

    /// Closes all connections.
    pub fn let_go(&mut self, ctx: &mut Ctx<'_>) {
        self.state = State::Done;
        ctx.model.facts[self.id].left = true;
        let probe = self.probe.take().map(|probe| probe.stream);
        let mine = [self.get.stream.take(), self.post.stream.take(), self.ws.take(), probe];
        for stream in mine.into_iter().flatten() {
            ctx.net.close(stream);
        }
    }

    /// Leaves in one of many ways.
    pub fn leave(&mut self, ctx: &mut Ctx<'_>) {
        ctx.model.facts[self.id].left = true;
        let stream = self.ws.filter(|_| self.ws_open);
        match ctx.rng.u8(0..6) {
            0 if self.state == State::Open => {
                self.queue.push_back(Pkt::Text("1".into()));
                self.write(ctx);
            }
            1 if stream.is_some() => {
                let mut close = Vec::new();
                codec::frame(0x88, &1000u16.to_be_bytes(), ctx.rng, &mut close);
                stream.into_iter().for_each(|stream| ctx.net.write(stream, &close));
            }
            2 => {
                let loses = ctx.chance(50);
                let mine = [self.get.stream, self.post.stream, self.ws];
                mine.into_iter().flatten().for_each(|stream| ctx.net.reset(stream, loses));
            }
            3 => {
                // Vanishes without a word: neither reads nor writes, nor is there a FIN.
                self.state = State::Done;
                let probe = self.probe.as_ref().map(|probe| probe.stream);
                let mine = [self.get.stream, self.post.stream, self.ws, probe];
                for stream in mine.into_iter().flatten() {
                    ctx.net.streams[stream].stalled = true;
                }
                return;
            }
            4 => {
                let mine = [self.get.stream, self.post.stream, self.ws];
                mine.into_iter().flatten().for_each(|stream| ctx.net.half_close(stream));
            }
            _ => {}
        }
        self.let_go(ctx);
    }

    fn misbehave(&mut self, ctx: &mut Ctx<'_>) {
        let mine = [self.get.stream, self.post.stream, self.ws];
        let streams = mine.into_iter().flatten();
        if ctx.settling {
            streams.for_each(|stream| ctx.net.streams[stream].stalled = false);
            return;
        }
        match self.temper {
            Temper::Stalling if ctx.chance(3) => {
                ctx.model.facts[self.id].stalled = true;
                let stalled = ctx.chance(60);
                streams.for_each(|stream| ctx.net.streams[stream].stalled = stalled);
            }
            Temper::Breaking if ctx.chance(1) => {
                ctx.model.facts[self.id].broke = true;
                let streams: Vec<usize> = streams.collect();
                let Some(stream) = ctx.rng.choice(streams) else { return };
                let loses = ctx.chance(50);
                match ctx.chance(50) {
                    true => ctx.net.reset(stream, loses),
                    false => ctx.net.half_close(stream),
                }
            }
            Temper::Muted if ctx.chance(2) => ctx.model.facts[self.id].muted = true,
            _ => {}
        }
    }

    fn upgrade(&mut self, ctx: &mut Ctx<'_>) {
        let Some(probe) = &self.probe else {
            let wants = self.upgrades_left > 0 && self.ws.is_none() && !ctx.settling;
            if wants && ctx.chance(4) {
                self.upgrades_left -= 1;
                let stream = ctx.open();
                let aborts_at = (self.upgrades_left > 0 && ctx.chance(25))
                    .then(|| ctx.step + ctx.rng.u64(0..30));
                let is_fake = self.upgrades_left > 0 && ctx.chance(20);
                let (is_open, is_probed) = (false, false);
                let until = ctx.now + 1_000;
                let probe = Probe { stream, is_open, is_probed, aborts_at, is_fake, until };
                self.probe = Some(probe);
                let bytes = codec::handshake(PATH, Some(&self.sid));
                self.send(ctx, stream, &bytes);
            }
            return;
        };
        let stream = probe.stream;
        let is_late = probe.until <= ctx.now && !probe.is_fake;
        if is_late || probe.aborts_at.is_some_and(|at| at <= ctx.step) {
            match ctx.rng.u8(0..4) {
                0 => ctx.net.reset(stream, true),
                1 => ctx.net.half_close(stream),
                2 => ctx.net.write(stream, &codec::frames(&Pkt::Text("4no".into()), ctx.rng)),
                _ => {}
            }
            ctx.net.close(stream);
            return self.probe_ended(ctx);
        }
        if probe.is_probed && !probe.is_fake && !self.get.busy && !self.post.busy {
            let bytes = codec::frames(&Pkt::Text("5".into()), ctx.rng);
            self.send(ctx, stream, &bytes);
            (self.ws, self.ws_open, self.probe) = (Some(stream), true, None);
            for requests in [&mut self.get, &mut self.post] {
                requests.stream.take().into_iter().for_each(|stream| ctx.net.close(stream));
            }
        }
    }

    fn probe_ended(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(probe) = self.probe.take() {
            ctx.net.close(probe.stream);
        }
    }

    /// Requests pause once the probe was answered, until the upgrade is complete (D-7).
    fn is_paused(&self) -> bool {
        self.probe.as_ref().is_some_and(|probe| probe.is_probed && !probe.is_fake)
    }

    fn write(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(stream) = self.ws {
            return self.write_frames(ctx, stream);
        }
        if self.is_paused() {
            return;
        }
        if !self.get.busy {
            let stream = self.request_stream(true, ctx);
            let query = format!("transport=polling&sid={}", self.sid);
            let close = if ctx.chance(10) { "Connection: close\r\n" } else { "" };
            self.send(ctx, stream, &codec::get(PATH, &query, close));
        }
        if !self.post.busy && !self.queue.is_empty() {
            let stream = self.request_stream(false, ctx);
            let n = ctx.rng.usize(1..=self.queue.len());
            let packets: Vec<Pkt> = self.queue.drain(..n).collect();
            let last = ctx.chance(10);
            let more = if last { "Connection: close\r\n" } else { "" };
            let bytes = codec::post(PATH, &self.sid, &packets, more, ctx.rng);
            self.send(ctx, stream, &bytes);
            if last && ctx.chance(50) && self.temper == Temper::Healthy {
                // A request and FIN: the answer still comes.
                ctx.net.half_close(stream);
            }
        }
    }

    fn request_stream(&mut self, is_get: bool, ctx: &mut Ctx<'_>) -> usize {
        let requests = if is_get { &mut self.get } else { &mut self.post };
        requests.busy = true;
        // The server lets go of a connection that was idle too long; this side does so earlier.
        let is_fresh = requests.used_at + 60 > ctx.step;
        if let Some(stream) = requests.stream {
            if is_fresh && !ctx.chance(5) {
                requests.used_at = ctx.step;
                return stream;
            }
            ctx.net.close(stream);
        }
        requests.used_at = ctx.step;
        let stream = ctx.open();
        requests.stream = Some(stream);
        stream
    }

    fn write_frames(&mut self, ctx: &mut Ctx<'_>, stream: usize) {
        let mut out = Vec::new();
        while let Some(packet) = self.queue.pop_front() {
            out.extend(codec::frames(&packet, ctx.rng));
        }
        if self.ws_open && ctx.chance(4) && !ctx.settling {
            let data = self.script.ping(ctx.rng);
            codec::frame(0x89, &data, ctx.rng, &mut out);
        }
        if !out.is_empty() {
            self.send(ctx, stream, &out);
        }
    }
}

/// What a broken or hostile peer makes of bytes.
fn spoil(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.usize(0..bytes.len());
    match rng.u8(0..6) {
        0 => bytes[at] ^= 1 << rng.u8(0..8),
        1 => bytes.truncate(at),
        2 => bytes.insert(at, rng.u8(..)),
        3 => {
            bytes.remove(at);
        }
        4 => {
            let again = bytes[at..].to_vec();
            bytes.extend(again);
        }
        _ => {
            let n = rng.usize(1..300);
            *bytes = (0..n).map(|_| rng.u8(..)).collect();
        }
    }
}
