//! Broadcasts whose receivers are to answer (L-3): one record here for all that were asked, one
//! pending acknowledgement with each of them.

use rustc_hash::FxHashMap;

use super::command::Publish;
use super::deliver::{Frame, Urgency};
use super::id::SocketId;
use super::namespace::{PendingAck, Waiter};
use super::slab::Key;
use super::wheel::{Alarm, Tick, Timer};
use super::{Arguments, Event, Hub};
use crate::histograms::QueueLengths;
use crate::proto::value;

/// The ids of asks are from here on, for all sockets the same, given out by the server. Those of
/// single sockets are below, given out by each shard. All fit into 31 bits, which is what clients
/// in other languages read them into.
pub const FIRST_ASK: u64 = 1 << 30;

/// What came of an ask on this shard.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// The first argument of each acknowledgement, in the order in which they came.
    pub responses: Vec<Arguments>,
    /// Sockets that were sent the event.
    pub asked: usize,
    /// Of these, who did not answer in time,
    pub timed_out: usize,
    /// who left before they had answered,
    pub disconnected: usize,
    /// of whom no more answers were awaited already (`Config::acks_max`),
    pub unawaited: usize,
    /// and whose answers there was no room for (`Config::gather_bytes_max`).
    pub oversized: usize,
    /// Who has given each of the responses; empty unless `Flags::named` asks for it.
    pub answered: Vec<SocketId>,
    /// Who has given none, whatever the reason; as `answered`.
    pub unanswered: Vec<SocketId>,
}

/// An ask that is not over.
#[derive(Debug)]
pub(super) struct Ask {
    id: u64,
    alarm: Alarm,
    /// Who was asked.
    members: Vec<Key>,
    /// How many of them may still answer.
    waiting: usize,
    answers: Answers,
    /// Bytes of the responses.
    bytes: usize,
    /// Who has not answered yet, by their places, if somebody wants to know.
    names: FxHashMap<u32, SocketId>,
}

impl Hub {
    /// Publishes an event that was encoded with this id, and collects the acknowledgements. The
    /// outcome comes as [`Event::Answers`], always: when all have answered or gone, or at the
    /// timeout.
    pub fn ask(&mut self, publish: &Publish, id: u64, timeout_ms: u64) -> Key {
        let Publish { namespace, target, flags, encoded } = publish;
        let mut members = self.selected(*namespace, target);
        let answers = Answers { asked: members.len(), ..Answers::default() };
        let name = |key: &Key| Some((key.index, self.socket_id(*key)?));
        let names = members.iter().filter(|_| flags.named).filter_map(name).collect();
        let (alarm, bytes, waiting) = (Alarm::default(), 0, 0);
        let ask = Ask { id, alarm, members: Vec::new(), waiting, answers, bytes, names };
        let ask = self.asks.insert(ask);
        let mut frame = Frame::new(&encoded.text, &encoded.attachments);
        frame.compress = flags.compress;
        let urgency = if flags.volatile { Urgency::Volatile } else { Urgency::Many };
        let mut queues = QueueLengths::default();
        members.retain(|key| {
            let Some(member) = self.members.get_mut(*key) else { return false };
            let acks = &mut member.rare_mut().acks;
            let is_awaited = acks.len() < self.config.acks_max;
            if is_awaited {
                acks.push(PendingAck { id, deadline: None, waiter: Waiter::Ask(ask) });
            }
            let waiting = self.links.deliver(member.session, &mut frame, urgency);
            if let Some(bytes) = waiting {
                queues.observe(bytes);
            }
            is_awaited
        });
        self.note_queues(*namespace, &queues);
        let (now, now_ms) = (self.now, self.now_ms);
        if let Some(record) = self.asks.get_mut(ask) {
            record.waiting = members.len();
            record.answers.unawaited = record.answers.asked - members.len();
            record.members = members;
            let at = record.alarm.set(Some(Tick::after(now_ms, timeout_ms)), now);
            self.watch(at, Timer::Ask, ask.index);
        }
        self.finish_ask(ask);
        ask
    }

    /// Ends an ask for whose answers nobody waits any more. No event comes.
    pub fn cancel_ask(&mut self, ask: Key) {
        if self.asks.get(ask).is_some() {
            self.withdraw(ask);
            self.asks.remove(ask.index);
        }
    }

    /// One of those asked, at this place, has answered with the arguments of its acknowledgement.
    pub(super) fn ask_answered(&mut self, ask: Key, member: u32, mut arguments: Arguments) {
        let bytes_max = self.config.gather_bytes_max;
        let Some(record) = self.asks.get_mut(ask) else { return };
        record.waiting -= 1;
        let json = std::str::from_utf8(&arguments.json).unwrap_or_default();
        let first = value::split_args(json, 1).0.len();
        arguments.json.truncate(first);
        record.bytes += size_of::<Arguments>() + arguments.bytes();
        if record.bytes <= bytes_max {
            record.answers.responses.push(arguments);
            record.answers.answered.extend(record.names.remove(&member));
        } else {
            record.bytes -= size_of::<Arguments>() + arguments.bytes();
            record.answers.oversized += 1;
        }
        self.finish_ask(ask);
    }

    /// One of those asked has gone.
    pub(super) fn ask_lost(&mut self, ask: Key) {
        let Some(record) = self.asks.get_mut(ask) else { return };
        record.waiting -= 1;
        record.answers.disconnected += 1;
        self.finish_ask(ask);
    }

    pub(super) fn ask_due(&mut self, index: u32) {
        let now = self.now;
        let Some(ask) = self.asks.key_at(index) else { return };
        let Some(record) = self.asks.get_mut(ask) else { return };
        match record.alarm.due(now) {
            Err(at) => return self.watch(Some(at), Timer::Ask, index),
            Ok(false) => return,
            Ok(true) => {}
        }
        let withdrawn = self.withdraw(ask);
        if let Some(record) = self.asks.get_mut(ask) {
            record.answers.timed_out += withdrawn;
            record.waiting = 0;
        }
        self.finish_ask(ask);
    }

    /// Bytes of the answers that wait for others. O(broadcasts).
    pub(super) fn answer_bytes(&self) -> usize {
        let asks = self.asks.indices().filter_map(|index| self.asks.at(index));
        asks.map(|ask| ask.bytes).sum()
    }

    /// Awaits no more answers to it; returns how many were outstanding.
    fn withdraw(&mut self, ask: Key) -> usize {
        let members = self.asks.get_mut(ask).map(|record| std::mem::take(&mut record.members));
        let mut withdrawn = 0;
        for key in members.unwrap_or_default() {
            let Some(member) = self.members.get_mut(key) else { continue };
            let acks = &mut member.rare_mut().acks;
            if let Some(at) = acks.iter().position(|ack| ack.waiter == Waiter::Ask(ask)) {
                acks.swap_remove(at);
                withdrawn += 1;
            }
        }
        withdrawn
    }

    /// Tells what came of it, if all have answered, have gone, or were given up.
    fn finish_ask(&mut self, ask: Key) {
        if self.asks.get(ask).is_some_and(|record| record.waiting == 0)
            && let Some(Ask { id, mut answers, names, .. }) = self.asks.remove(ask.index)
        {
            answers.unanswered = names.into_values().collect();
            self.events.push_back(Event::Answers { id, answers });
        }
    }
}
