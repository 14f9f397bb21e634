//! The simulated application: handlers that do what the scripts of the clients ask for, and note in
//! the model what everybody is owed for it.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use corecast::hub::fanout::Encoded;
use corecast::hub::slab::Key;
use corecast::hub::{AckLost, Arguments, Event, Flags, Publish, Target};
use serde_json::{Value, json};

use crate::codec;
use crate::model::{Facts, Message, What};
use crate::script::{self, SPACES};
use crate::world::{Fault, Mail, World};

#[derive(Debug)]
pub enum Job {
    Decide(Key, u64),
    Acknowledge { key: Key, namespace: u64, id: u64 },
    Remove(Key),
}

#[derive(Debug)]
struct Question {
    sid: String,
    shard: usize,
    n: u64,
    deadline: Option<u64>,
}

#[derive(Debug, Default)]
pub struct App {
    /// What handlers do later: when, on which shard.
    pub jobs: Vec<(u64, usize, Job)>,
    /// Clients that wait for a decision.
    pending: HashSet<(usize, Key)>,
    questions: HashMap<u64, Question>,
    next_token: u64,
}

impl App {
    pub fn open_questions(&self) -> usize {
        self.questions.len()
    }

    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Whether a question of a shard should have timed out by now; a tick is 32 ms.
    pub fn is_overdue(&self, shard: usize, now: u64) -> bool {
        let is_late = |q: &Question| q.deadline.is_some_and(|deadline| deadline + 32 <= now);
        self.questions.values().any(|question| question.shard == shard && is_late(question))
    }
}

impl World {
    pub fn event(&mut self, s: usize, event: Event) {
        match event {
            Event::Connect { member, namespace } => {
                assert!(self.app.pending.insert((s, member)), "asked twice");
                self.later(s, Job::Decide(member, namespace));
            }
            Event::Unknown(member) => match self.shards[s].hub.namespace_name(member) {
                Some(_) => self.shards[s].hub.refuse_member(member, "Invalid namespace", None),
                // Gone in the same turn, which comes as an abort.
                None => assert!(self.app.pending.insert((s, member))),
            },
            Event::Empty(_)
            | Event::Room { .. }
            | Event::Sent { .. }
            | Event::UnexpectedAck { .. } => panic!("nobody has asked for it"),
            Event::Upgraded(_) | Event::Unkept(_) => {}
            Event::ConnectAborted(member) => {
                assert!(self.app.pending.remove(&(s, member)), "no decision was open");
            }
            Event::Packet { member, namespace, arguments } => {
                self.packet(s, member, namespace, &arguments);
            }
            Event::Ack { token, outcome } => self.answered(token, outcome),
            Event::Answers { .. } => unreachable!("nobody is asked"),
            Event::Error { member, message } => {
                let sid = &self.model.by_key[&(s, member)];
                let client = self.model.ledgers[sid].client;
                let facts = client.map(|client| self.model.facts[client]);
                // A clock that jumped leaves no time for attachments.
                let is_late = message == "attachments did not come in time";
                let is_known = |f: Facts| f.garbage || (f.excused && is_late);
                assert!(facts.is_none_or(is_known), "{client:?}: {message}");
            }
            Event::Endpoint { .. } => unreachable!("there are no endpoints"),
            Event::Request { .. } | Event::RequestGone(_) | Event::Refused(_) => {
                unreachable!("there are no hooks")
            }
            Event::Closing { member, reason } => {
                self.model.close(s, member, reason);
                if !self.strikes(Fault::ForgetMember) {
                    self.later(s, Job::Remove(member));
                }
            }
        }
    }

    /// Does a job now or in a later turn.
    fn later(&mut self, s: usize, job: Job) {
        if self.rng.bool() {
            return self.run(s, job);
        }
        let at = self.step + self.rng.u64(0..self.profile.delay * 2);
        self.app.jobs.push((at, s, job));
    }

    pub fn run_jobs(&mut self, s: usize) {
        let step = self.step;
        let is_due = |(at, shard, _): &(u64, usize, Job)| *at <= step && *shard == s;
        while let Some(at) = self.app.jobs.iter().position(is_due) {
            let (_, _, job) = self.app.jobs.remove(at);
            self.run(s, job);
            self.drain(s);
        }
    }

    fn run(&mut self, s: usize, job: Job) {
        match job {
            Job::Decide(key, namespace) => self.decide(s, key, namespace),
            Job::Remove(key) => self.shards[s].hub.remove_member(key),
            Job::Acknowledge { key, namespace, id } => {
                let sid = self.model.by_key[&(s, key)].clone();
                let is_gone = self.model.ledgers[&sid].closed.is_some();
                let json = id.to_string();
                let hub = &mut self.shards[s].hub;
                let Some(session) = hub.session_of(key).filter(|_| !is_gone) else { return };
                let name = SPACES[namespace as usize];
                if hub.acknowledge(session, name, id, json.as_bytes(), &[]) == Ok(true) {
                    self.model.owe(&sid, What::Ack(id), false);
                }
            }
        }
    }

    fn decide(&mut self, s: usize, key: Key, namespace: u64) {
        if !self.app.pending.contains(&(s, key)) {
            return;
        }
        let hub = &mut self.shards[s].hub;
        let Some(id) = hub.socket_id(key) else { return };
        let auth: Value = serde_json::from_str(hub.auth(key).unwrap_or("")).unwrap_or(Value::Null);
        let client = auth["c"].as_u64().map(|c| c as usize).filter(|client| {
            let client = self.clients.get(*client);
            client.is_some_and(|client| auth["t"] == json!(client.script.token))
        });
        match auth["d"].as_str() {
            Some("never") => {}
            Some("no") => {
                self.app.pending.remove(&(s, key));
                hub.refuse_member(key, "no", Some("{\"why\":1}"));
            }
            _ => {
                if hub.accept_member(key) {
                    self.app.pending.remove(&(s, key));
                    self.model.accept(id.to_string(), s, key, namespace, client);
                }
            }
        }
    }

    fn packet(&mut self, s: usize, key: Key, namespace: u64, arguments: &Arguments) {
        let sid = self.model.by_key.get(&(s, key)).expect("an event of an accepted socket").clone();
        let ledger = self.model.ledgers.get_mut(&sid).expect("a ledger");
        assert!(ledger.closed.is_none(), "an event after the end");
        assert_eq!(ledger.namespace, namespace);
        let json = format!("[{}]", std::str::from_utf8(&arguments.json).expect("UTF-8"));
        let args: Value = serde_json::from_str(&json).expect("valid JSON");
        let facts = ledger.client.map(|client| self.model.facts[client]);
        if facts.is_some_and(|facts| !facts.garbage) {
            ledger.in_seq += 1;
            assert_eq!(args[0]["s"], json!(ledger.in_seq), "order of events of {sid}");
            for (at, bytes) in arguments.attachments.iter().enumerate() {
                let expected = script::attachment(ledger.in_seq, at);
                assert_eq!(bytes, &expected, "attachment of {sid}");
            }
        }
        self.deed(s, key, &sid, arguments, &args[0]);
    }

    fn deed(&mut self, s: usize, key: Key, sid: &str, arguments: &Arguments, args: &Value) {
        let namespace = self.model.ledgers[sid].namespace;
        let names = |name: &str| -> Vec<String> {
            let list = args[name].as_array().cloned().unwrap_or_default();
            list.iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect()
        };
        let number = |name: &str| args[name].as_u64().unwrap_or(0).min(2_000) as usize;
        let first = names("r").first().cloned().unwrap_or_default();
        match &*arguments.name {
            "join" => self.join(s, key, sid, &first),
            "leave" => self.leave(s, key, sid, &first),
            "pub" => {
                let mut except = names("x");
                if args["self"] == json!(false) {
                    except.push(sid.into());
                }
                let volatile = args["v"] == json!(true);
                let (size, bin) = (number("size"), number("bin").min(5));
                self.publish(s, namespace, names("r"), except, volatile, (size, bin));
            }
            "echo" => {
                let (size, bin) = (number("size"), number("bin").min(5));
                let (n, encoded) = self.message(s, namespace, None, size, bin);
                let hub = &mut self.shards[s].hub;
                let is_open = hub.is_connected(key);
                let sent = hub.emit(key, &encoded.text, &encoded.attachments, Flags::default());
                assert_eq!(sent, is_open, "emit");
                if sent {
                    self.model.owe(sid, What::Message(n), false);
                }
            }
            "ask" => {
                if let Some(id) = arguments.ack {
                    self.later(s, Job::Acknowledge { key, namespace, id });
                }
            }
            "askme" => self.ask(s, key, sid, args["timeout"] == json!(true)),
            "kick" => {
                let how = args["how"].as_u64().unwrap_or(0);
                self.kick(s, key, &first, how, args["all"] == json!(true));
            }
            _ => {}
        }
    }

    fn join(&mut self, s: usize, key: Key, sid: &str, room: &str) {
        let hub = &mut self.shards[s].hub;
        let is_open = hub.is_connected(key);
        let joined = hub.join(key, room);
        let ledger = self.model.ledgers.get_mut(sid).expect("a ledger");
        let expected = is_open && room != sid && ledger.rooms.insert(room.into());
        assert_eq!(joined, expected, "join of {room}");
        let mut rooms: Vec<String> = hub.rooms_of(key).iter().map(|r| r.to_string()).collect();
        rooms.sort_unstable();
        if is_open {
            assert!(rooms.iter().eq(ledger.rooms.iter()), "{rooms:?} {:?}", ledger.rooms);
        }
    }

    fn leave(&mut self, s: usize, key: Key, sid: &str, room: &str) {
        let left = self.shards[s].hub.leave(key, room);
        let ledger = self.model.ledgers.get_mut(sid).expect("a ledger");
        assert_eq!(left, ledger.rooms.remove(room), "leave of {room}");
    }

    fn message(
        &mut self,
        s: usize,
        namespace: u64,
        id: Option<u64>,
        size: usize,
        attachments: usize,
    ) -> (u64, Encoded) {
        let n = self.model.messages.len() as u64;
        self.model.messages.push(Message { sender: s as u64, pad: size, attachments });
        let mut args = vec![json!("m"), json!(n), json!(script::pad(n, size))];
        args.extend((0..attachments).map(|num| json!({"_placeholder": true, "num": num})));
        let kind = if attachments > 0 { format!("5{attachments}-") } else { "2".into() };
        let namespace = SPACES[namespace as usize];
        let text = codec::sio(&kind, namespace, id, &Value::from(args).to_string());
        let attachments = (0..attachments).map(|at| script::attachment(n, at).into()).collect();
        (n, Encoded { text: Bytes::from(text), attachments })
    }

    fn publish(
        &mut self,
        s: usize,
        namespace: u64,
        rooms: Vec<String>,
        except: Vec<String>,
        volatile: bool,
        size: (usize, usize),
    ) {
        let (n, encoded) = self.message(s, namespace, None, size.0, size.1);
        let boxed = |names: &[String]| names.iter().map(|name| name.as_str().into()).collect();
        let target = Target { rooms: boxed(&rooms), except: boxed(&except), only: None };
        let flags = Flags { volatile, ..Flags::default() };
        let publish = Publish { namespace, target, flags, encoded };
        for other in (0..self.shards.len()).filter(|other| *other != s) {
            let mail = Mail::Publish(publish.clone(), n, rooms.clone(), except.clone());
            self.post(s, other, mail);
        }
        if s < self.shards.len() {
            self.apply(s, &publish, n, &rooms, &except);
        }
    }

    /// A publish from a thread that is no shard.
    pub fn publish_from_outside(&mut self) {
        let namespace = self.rng.u64(0..SPACES.len() as u64);
        let room = self.rng.choice(script::ROOMS).unwrap_or_default();
        let rooms = if self.rng.bool() { Vec::new() } else { vec![room.to_owned()] };
        let size = self.rng.usize(0..100);
        self.publish(self.shards.len(), namespace, rooms, Vec::new(), false, (size, 0));
    }

    pub fn apply(
        &mut self,
        s: usize,
        publish: &Publish,
        n: u64,
        rooms: &[String],
        except: &[String],
    ) {
        let owed = self.model.select(s, publish.namespace, rooms, except);
        let hub = &mut self.shards[s].hub;
        let open: Vec<&String> =
            owed.iter().filter(|sid| hub.is_connected(self.model.ledgers[*sid].key)).collect();
        let mut selected: Vec<String> = hub
            .selected(publish.namespace, &publish.target)
            .iter()
            .filter_map(|key| Some(hub.socket_id(*key)?.to_string()))
            .collect();
        selected.sort_unstable();
        assert!(selected.iter().eq(open), "selection of {n}");
        if self.strikes(Fault::SkipPublish) {
            owed.iter()
                .for_each(|sid| self.model.owe(sid, What::Message(n), publish.flags.volatile));
            return;
        }
        self.shards[s].hub.publish(publish);
        if self.strikes(Fault::PublishTwice) {
            self.shards[s].hub.publish(publish);
        }
        owed.iter().for_each(|sid| self.model.owe(sid, What::Message(n), publish.flags.volatile));
    }

    fn ask(&mut self, s: usize, key: Key, sid: &str, has_timeout: bool) {
        let namespace = self.model.ledgers[sid].namespace;
        let timeout = has_timeout.then(|| self.rng.u64(1..700));
        let token = self.app.next_token;
        self.app.next_token += 1;
        let is_open = self.shards[s].hub.is_connected(key);
        let id = self.shards[s].hub.await_ack(key, timeout, token);
        assert_eq!(id.is_some(), is_open, "await_ack");
        let Some(id) = id else { return };
        let (n, encoded) = self.message(s, namespace, Some(id), 5, 0);
        let deadline = timeout.map(|timeout| self.now + timeout);
        self.app.questions.insert(token, Question { sid: sid.into(), shard: s, n, deadline });
        assert!(self.shards[s].hub.emit(key, &encoded.text, &[], Flags::default()));
        self.model.owe(sid, What::Message(n), false);
    }

    fn answered(&mut self, token: u64, outcome: Result<Arguments, AckLost>) {
        let question = self.app.questions.remove(&token).expect("one answer per question");
        let ledger = &self.model.ledgers[&question.sid];
        match outcome {
            Ok(arguments) => {
                let garbage = ledger.client.is_none_or(|client| self.model.facts[client].garbage);
                let fits = arguments.json == question.n.to_string();
                assert!(fits || garbage, "answer to {}: {arguments:?}", question.n);
            }
            Err(AckLost::TimedOut) => {
                let deadline = question.deadline.expect("a timeout was given");
                assert!(deadline <= self.now, "timed out too early");
            }
            Err(AckLost::Disconnected) => assert!(ledger.closed.is_some(), "not disconnected"),
        }
    }

    /// Ends a socket: that of the client who asks, or another one of this shard.
    fn kick(&mut self, s: usize, asking: Key, other: &str, how: u64, all: bool) {
        let other = self.model.ledgers.get(other).filter(|ledger| ledger.shard == s);
        let other = other.filter(|ledger| ledger.closed.is_none()).map(|ledger| ledger.key);
        let key = other.unwrap_or(asking);
        let sid = self.model.by_key[&(s, key)].clone();
        if let Some(client) = self.model.ledgers[&sid].client {
            self.model.facts[client].excused = true;
        }
        let hub = &mut self.shards[s].hub;
        match how {
            0 => return hub.abort(key),
            1 => return hub.close_connection(key),
            _ => {}
        }
        let client = hub.client_id(key);
        let is_sibling = |other: &str, k: Key| (all && hub.client_id(k) == client) || other == sid;
        let ledgers = self.model.ledgers.iter().filter(|(other, ledger)| {
            ledger.shard == s && hub.is_connected(ledger.key) && is_sibling(other, ledger.key)
        });
        let gone: Vec<String> = ledgers.map(|(sid, _)| sid.clone()).collect();
        for sid in gone {
            self.model.owe(&sid, What::Disconnect, false);
            self.model.ledgers.get_mut(&sid).expect("a ledger").kicked = true;
        }
        hub.disconnect(key, all);
    }
}
