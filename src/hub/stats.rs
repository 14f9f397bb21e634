//! What a shard counts, and how much it holds.

use crate::error::Reason;
use crate::histograms::QueueLengths;

/// Counters of one shard; plain numbers, merged when somebody asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Connections refused because there are too many, of everybody or of one address; also
    /// requests that a trusted proxy brings for such an address.
    pub refused: u64,
    /// Of these, those of an address with too many (`max_connections_per_ip`).
    pub refused_per_ip: u64,
    /// Sessions, raw websockets and TLS handshakes refused because of `max_handshakes_per_ip`.
    pub refused_handshakes: u64,
    /// Connections closed because they did not begin with a header of the PROXY protocol, or came
    /// from nobody who may send one.
    pub bad_proxies: u64,
    /// TLS handshakes completed.
    pub tls_handshakes: u64,
    /// TLS connections that ended before the handshake was complete, or that broke the protocol.
    pub tls_failures: u64,
    /// Connections taken over from another shard.
    pub migrated: u64,
    /// Sessions opened since the start.
    pub sessions: u64,
    /// Requests answered with a status of 400 or more.
    pub bad_requests: u64,
    /// Connections closed because of a websocket violation.
    pub bad_frames: u64,
    /// Sessions closed because of an invalid Engine.IO or Socket.IO packet.
    pub bad_packets: u64,
    /// Events received.
    pub events: u64,
    /// Acknowledgements received that nobody awaited.
    pub unexpected_acks: u64,
    /// Packets staged for a socket.
    pub staged: u64,
    /// Sends given to the kernel: what was staged for a socket meanwhile leaves in one.
    pub sends: u64,
    /// How often reading stopped until what waited had been sent.
    pub pauses: u64,
    /// Items of mail that a shard did not get, its mailbox being full.
    pub mail_refused: u64,
    /// Engine.IO packets with data that clients have sent; attachments count as packets.
    pub packets_in: u64,
    /// Bytes of that data, without framing.
    pub bytes_in: u64,
    /// Engine.IO packets with data that were staged for clients.
    pub packets_out: u64,
    /// Bytes of that data, before compression and without framing.
    pub bytes_out: u64,
    /// Sessions closed since the start, by reason; see [`Stats::closed`].
    pub(super) closed: [u64; Reason::COUNT],
    /// Volatile packets dropped because the socket was not ready.
    pub volatile_dropped: u64,
    /// Packets dropped by [`SlowReader::Drop`](crate::SlowReader::Drop).
    pub slow_dropped: u64,
    /// Connections closed by [`SlowReader::Disconnect`](crate::SlowReader::Disconnect).
    pub slow_closed: u64,
    /// What waited for a client, in front of each packet of a broadcast to it: how far behind
    /// clients are. Packets that were dropped or closed the connection count as well.
    pub fan_out_queues: QueueLengths,
    /// Requests answered 503 and sessions closed as too much was unfinished; see
    /// [`Options::max_shard_incoming_bytes`](crate::Options::max_shard_incoming_bytes).
    pub incoming_refused: u64,
    /// Pings that clients have answered.
    pub pongs: u64,
    /// Sessions closed because a ping was not answered.
    pub ping_timeouts: u64,
}

impl Stats {
    /// Sessions that were closed for this reason.
    pub fn closed(&self, reason: Reason) -> u64 {
        self.closed[reason.index()]
    }

    pub(super) fn delivered(&mut self, packets: u64, bytes: u64) {
        self.staged += 1;
        self.packets_out += packets;
        self.bytes_out += bytes;
    }

    pub(super) fn received(&mut self, bytes: usize) {
        self.packets_in += u64::from(bytes > 0);
        self.bytes_in += bytes as u64;
    }

    /// Adds those of another shard.
    pub fn add(&mut self, other: &Stats) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.refused_per_ip += other.refused_per_ip;
        self.refused_handshakes += other.refused_handshakes;
        self.bad_proxies += other.bad_proxies;
        self.tls_handshakes += other.tls_handshakes;
        self.tls_failures += other.tls_failures;
        self.migrated += other.migrated;
        self.sessions += other.sessions;
        self.bad_requests += other.bad_requests;
        self.bad_frames += other.bad_frames;
        self.bad_packets += other.bad_packets;
        self.events += other.events;
        self.unexpected_acks += other.unexpected_acks;
        self.staged += other.staged;
        self.sends += other.sends;
        self.pauses += other.pauses;
        self.mail_refused += other.mail_refused;
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        for (own, other) in self.closed.iter_mut().zip(other.closed) {
            *own += other;
        }
        self.volatile_dropped += other.volatile_dropped;
        self.slow_dropped += other.slow_dropped;
        self.slow_closed += other.slow_closed;
        self.fan_out_queues.add(&other.fan_out_queues);
        self.incoming_refused += other.incoming_refused;
        self.pongs += other.pongs;
        self.ping_timeouts += other.ping_timeouts;
    }
}

/// How much a hub holds right now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gauges {
    /// Connections, being closed included.
    pub connections: usize,
    /// Engine.IO sessions.
    pub sessions: usize,
    /// Of these, those on polling.
    pub polling_sessions: usize,
    /// Socket.IO sockets, being connected included.
    pub sockets: usize,
    /// Rooms with members, each shard's own.
    pub rooms: usize,
    /// Dynamic namespaces, as many times as there are shards that know them.
    pub namespaces: usize,
    /// Sockets whose clients are away and may come back (connection-state recovery).
    pub suspended: usize,
    /// Bytes of memory that hold what is to be sent, beside 128 KiB that each shard always has; see
    /// [`Options::max_shard_queue_bytes`](crate::Options::max_shard_queue_bytes).
    pub queue_bytes: usize,
    /// Memory of requests, messages and packets that are not complete, and of what is read behind a
    /// request in hand.
    pub incoming_bytes: usize,
    /// Connections whose next send waits for its shard.
    pub waiting: usize,
    /// Connections with a send that the kernel has not taken whole: most of these peers do not
    /// read.
    pub sending: usize,
    /// Items of mail that wait for their shards.
    pub mail: usize,
}

impl Gauges {
    /// Adds those of another shard.
    pub fn add(&mut self, other: &Gauges) {
        let Gauges {
            connections,
            sessions,
            polling_sessions,
            sockets,
            rooms,
            namespaces,
            suspended,
            queue_bytes,
            incoming_bytes,
            waiting,
            sending,
            mail,
        } = other;
        self.connections += connections;
        self.sessions += sessions;
        self.polling_sessions += polling_sessions;
        self.sockets += sockets;
        self.rooms += rooms;
        self.namespaces += namespaces;
        self.suspended += suspended;
        self.queue_bytes += queue_bytes;
        self.incoming_bytes += incoming_bytes;
        self.waiting += waiting;
        self.sending += sending;
        self.mail += mail;
    }
}
