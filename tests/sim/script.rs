//! A scripted client, Socket.IO half: what it asks for and how it takes what comes.

use std::collections::VecDeque;

use fastrand::Rng;
use serde_json::json;

use crate::client::{Ctx, Temper};
use crate::codec::{self, Pkt, Sio};
use crate::model::What;

pub const SPACES: [&str; 3] = ["/", "/a", "/b"];
pub const ROOMS: [&str; 4] = ["r0", "r1", "r2", "röm 3"];

#[derive(Debug, Default)]
struct Space {
    /// CONNECT was sent and not answered.
    asked: bool,
    /// The socket, while it is connected.
    sid: Option<String>,
    /// 41 was sent; what is still on its way is of no interest.
    left: bool,
    seq: u64,
    next_ack: u64,
    /// The application may disconnect this socket: packets to it would end the connection (I-14).
    doomed: bool,
}

#[derive(Debug)]
pub struct Script {
    id: usize,
    temper: Temper,
    pub token: u64,
    spaces: [Space; 3],
    /// A packet whose attachments are arriving.
    partial: Option<(Sio, Vec<Vec<u8>>)>,
    pings: VecDeque<Vec<u8>>,
    /// Socket ids seen, to aim at.
    seen: Vec<String>,
}

/// Filler of a message, so that lengths vary and content can be checked.
pub fn pad(n: u64, len: usize) -> String {
    (0..len).map(|at| char::from(b'a' + ((n as usize * 7 + at) % 26) as u8)).collect()
}

pub fn attachment(n: u64, at: usize) -> Vec<u8> {
    (0..(n as usize * 13 + at * 5) % 90).map(|byte| (byte as u64 * 31 + n) as u8).collect()
}

impl Script {
    pub fn new(id: usize, temper: Temper, rng: &mut Rng) -> Script {
        Script {
            id,
            temper,
            token: rng.u64(..) >> 12,
            spaces: Default::default(),
            partial: None,
            pings: VecDeque::new(),
            seen: Vec::new(),
        }
    }

    /// Sockets that are connected as far as the client knows, with the number of events it sent.
    pub fn sockets(&self) -> impl Iterator<Item = (&str, u64)> {
        self.spaces
            .iter()
            .filter(|s| !s.left && !s.asked)
            .filter_map(|space| space.sid.as_deref().map(|sid| (sid, space.seq)))
    }

    /// Whether an answer to CONNECT is due.
    pub fn is_waiting(&self) -> bool {
        self.spaces.iter().any(|space| space.asked) || !self.pings.is_empty()
    }

    pub fn connect(&mut self, at: usize, queue: &mut VecDeque<Pkt>, ctx: &mut Ctx<'_>) {
        let decision = match ctx.rng.u8(0..10) {
            0 => "no",
            1 if self.temper == Temper::Lazy => "never",
            _ => "yes",
        };
        if decision == "never" {
            ctx.model.facts[self.id].lazy = true;
        }
        let auth = json!({"c": self.id, "t": self.token, "d": decision}).to_string();
        queue.push_back(Pkt::Text(codec::sio("0", SPACES[at], None, &auth)));
        self.spaces[at] = Space { asked: true, ..Space::default() };
    }

    /// A random deed.
    pub fn act(&mut self, queue: &mut VecDeque<Pkt>, ctx: &mut Ctx<'_>) {
        if ctx.settling || !ctx.chance(ctx.profile.activity) {
            return;
        }
        let at = if ctx.chance(60) { 0 } else { ctx.rng.usize(0..SPACES.len()) };
        let space = &self.spaces[at];
        if space.asked {
            return;
        }
        if space.sid.is_none() || space.left {
            if self.temper == Temper::Lazy && ctx.chance(80) {
                ctx.model.facts[self.id].lazy |= self.spaces.iter().all(|s| s.sid.is_none());
                return;
            }
            return self.connect(at, queue, ctx);
        }
        if space.doomed {
            return;
        }
        if ctx.chance(ctx.profile.leaving) {
            ctx.model.facts[self.id].left_namespace = true;
            queue.push_back(Pkt::Text(codec::sio("1", SPACES[at], None, "")));
            self.spaces[at].left = true;
            if ctx.chance(50) {
                self.connect(at, queue, ctx);
            }
            return;
        }
        let (event, extra, ack) = self.deed(ctx);
        self.event(at, event, extra, ack, queue, ctx);
    }

    fn deed(&mut self, ctx: &mut Ctx<'_>) -> (&'static str, serde_json::Value, bool) {
        let names = |max: usize, ctx: &mut Ctx<'_>| -> Vec<String> {
            let n = ctx.rng.usize(0..=max);
            let pick = |ctx: &mut Ctx<'_>| match ctx.rng.choice(&self.seen) {
                Some(sid) if ctx.rng.u8(..) < 40 => sid.clone(),
                _ => ctx.rng.choice(ROOMS).unwrap_or_default().into(),
            };
            (0..n).map(|_| pick(ctx)).collect()
        };
        let weights = ctx.profile.deeds;
        let mut roll = ctx.rng.u32(0..weights.iter().sum());
        let kind = weights.iter().position(|weight| {
            let hit = roll < *weight;
            roll = roll.saturating_sub(*weight);
            hit
        });
        let size = match ctx.rng.u8(..) < 6 {
            true => ctx.rng.usize(0..ctx.profile.large),
            false => ctx.rng.usize(0..60),
        };
        let bin = if ctx.chance(15) { ctx.rng.usize(1..4) } else { 0 };
        let room = ctx.rng.choice(ROOMS).unwrap_or_default();
        match kind.unwrap_or_default() {
            0 => ("join", json!({"r": [room]}), false),
            1 => ("leave", json!({"r": [room]}), false),
            2 => {
                let (rooms, except) = (names(2, ctx), names(1, ctx));
                let volatile = ctx.chance(10);
                let extra = json!({"r": rooms, "x": except, "v": volatile, "size": size,
                    "bin": bin, "self": ctx.chance(50)});
                ("pub", extra, false)
            }
            3 => ("echo", json!({"size": size, "bin": bin}), false),
            4 => ("ask", json!({}), true),
            5 => ("askme", json!({"timeout": ctx.chance(70)}), false),
            _ => {
                let who = names(1, ctx);
                ("kick", json!({"all": ctx.chance(50), "how": ctx.rng.u8(0..10), "r": who}), false)
            }
        }
    }

    fn event(
        &mut self,
        at: usize,
        event: &str,
        mut extra: serde_json::Value,
        ack: bool,
        queue: &mut VecDeque<Pkt>,
        ctx: &mut Ctx<'_>,
    ) {
        let space = &mut self.spaces[at];
        if event == "kick" {
            ctx.model.facts[self.id].excused = true;
            space.doomed = true;
        }
        space.seq += 1;
        extra["s"] = space.seq.into();
        let id = ack.then(|| {
            space.next_ack += 1;
            space.next_ack
        });
        let name = SPACES[at];
        if !ctx.chance(15) {
            let json = json!([event, extra]).to_string();
            return queue.push_back(Pkt::Text(codec::sio("2", name, id, &json)));
        }
        let count = ctx.rng.usize(1..=3);
        let mut args = vec![json!(event), extra];
        args.extend((0..count).map(|n| json!({"_placeholder": true, "num": n})));
        let json = serde_json::Value::from(args).to_string();
        queue.push_back(Pkt::Text(codec::sio(&format!("5{count}-"), name, id, &json)));
        let seq = space.seq;
        queue.extend((0..count).map(|n| Pkt::Bin(attachment(seq, n))));
    }

    /// A message of the session.
    pub fn received(
        &mut self,
        packet: Pkt,
        queue: &mut VecDeque<Pkt>,
        later: &mut Vec<(u64, Pkt)>,
        ctx: &mut Ctx<'_>,
    ) {
        let (sio, attachments) = match packet {
            Pkt::Text(text) => {
                assert!(self.partial.is_none(), "a packet among the attachments of another");
                let sio = codec::read_sio(&text[1..]);
                if sio.attachments > 0 {
                    self.partial = Some((sio, Vec::new()));
                    return;
                }
                (sio, Vec::new())
            }
            Pkt::Bin(bytes) => {
                let (sio, mut attachments) = self.partial.take().expect("attachments are due");
                attachments.push(bytes);
                if attachments.len() < sio.attachments {
                    self.partial = Some((sio, attachments));
                    return;
                }
                (sio, attachments)
            }
        };
        self.packet(&sio, &attachments, queue, later, ctx);
    }

    fn packet(
        &mut self,
        sio: &Sio,
        attachments: &[Vec<u8>],
        queue: &mut VecDeque<Pkt>,
        later: &mut Vec<(u64, Pkt)>,
        ctx: &mut Ctx<'_>,
    ) {
        let at = SPACES.iter().position(|name| *name == sio.namespace);
        let Some(at) = at else {
            assert_eq!((sio.kind, self.temper), (4, Temper::Garbage), "a foreign namespace");
            return;
        };
        let space = &mut self.spaces[at];
        match sio.kind {
            0 => {
                let sid = sio.json["sid"].as_str().expect("a sid").to_owned();
                assert!(space.asked || self.temper == Temper::Garbage, "not asked for");
                ctx.model.receive(&sid, &What::Connect);
                self.seen.push(sid.clone());
                *space = Space { sid: Some(sid), ..Space::default() };
            }
            4 => {
                assert!(space.asked || self.temper == Temper::Garbage, "not asked for");
                *space = Space::default();
            }
            // What was on its way to a socket that has left.
            _ if space.left || space.asked => {}
            1 => {
                let sid = space.sid.take().expect("a connected socket is disconnected");
                ctx.model.receive(&sid, &What::Disconnect);
            }
            2 | 5 => {
                let sid = space.sid.clone().expect("an event for a connected socket");
                let n = sio.json[1].as_u64().expect("a number");
                self.check_message(n, sio, attachments, ctx);
                ctx.model.receive(&sid, &What::Message(n));
                if let Some(id) = sio.id {
                    self.answer(at, id, n, queue, later, ctx);
                }
            }
            3 | 6 => {
                if let Some(sid) = space.sid.clone() {
                    let id = sio.id.expect("an ack has an id");
                    assert_eq!(sio.json[0], json!(id), "the ack's content");
                    ctx.model.receive(&sid, &What::Ack(id));
                }
            }
            kind => panic!("kind {kind}"),
        }
    }

    fn check_message(&self, n: u64, sio: &Sio, attachments: &[Vec<u8>], ctx: &Ctx<'_>) {
        let message = ctx.model.messages[n as usize];
        assert_eq!(sio.json[2], json!(pad(n, message.pad)), "content of {n}");
        assert_eq!(attachments.len(), message.attachments, "attachments of {n}");
        for (at, bytes) in attachments.iter().enumerate() {
            assert_eq!(bytes, &attachment(n, at), "attachment {at} of {n}");
        }
    }

    /// Answers a question of the server: at once, later, or never.
    fn answer(
        &mut self,
        at: usize,
        id: u64,
        n: u64,
        queue: &mut VecDeque<Pkt>,
        later: &mut Vec<(u64, Pkt)>,
        ctx: &mut Ctx<'_>,
    ) {
        if self.spaces[at].doomed {
            return;
        }
        let reply = Pkt::Text(codec::sio("3", SPACES[at], Some(id), &json!([n]).to_string()));
        match ctx.rng.u8(0..4) {
            0 => {}
            // Later would be too late for a socket that has left by then (I-14).
            1 if ctx.profile.leaving == 0 && ctx.profile.deeds[6] == 0 => {
                later.push((ctx.step + ctx.rng.u64(1..60), reply));
            }
            _ => queue.push_back(reply),
        }
    }

    /// Data for a websocket ping.
    pub fn ping(&mut self, rng: &mut Rng) -> Vec<u8> {
        let data: Vec<u8> = (0..rng.usize(0..126)).map(|_| rng.u8(..)).collect();
        self.pings.push_back(data.clone());
        data
    }

    pub fn pong(&mut self, data: &[u8]) {
        let due = self.pings.pop_front();
        let fits = due.as_deref() == Some(data) || self.temper == Temper::Garbage;
        assert!(fits, "pong {data:?} for {due:?}");
    }
}
