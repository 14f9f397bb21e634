//! What a run puts the weight on. A seed names its profile: `seed % 8`.

use corecast::SlowReader;
use fastrand::Rng;

use crate::client::{Mode, Temper};

#[derive(Debug, Clone)]
pub struct Profile {
    pub shards: usize,
    pub clients: usize,
    pub steps: u64,
    /// Percent of clients: polling, websocket; the rest upgrades.
    pub modes: (u32, u32),
    /// Percent of clients of each temper; the rest is healthy.
    pub tempers: [(Temper, u32); 5],
    /// Percent chance of a deed per client and step.
    pub activity: u32,
    /// Percent of deeds that are leaving the namespace.
    pub leaving: u32,
    /// Weights of join, leave, pub, echo, ask, askme, kick.
    pub deeds: [u32; 7],
    /// Percent chance per client and step that it leaves and another comes.
    pub churn: u32,
    /// Per mille chance per step that the clock jumps.
    pub jumps: u32,
    /// Largest message.
    pub large: usize,
    pub queue_bytes_max: usize,
    pub shard_queue_bytes_max: usize,
    pub slow_reader: SlowReader,
    /// Largest number of turns that a send, a decision or a mail takes.
    pub delay: u64,
}

pub const NAMES: [&str; 8] =
    ["polling", "upgrade", "slow", "churn", "garbage", "shards", "acks", "everything"];

impl Profile {
    pub fn of(seed: u64, rng: &mut Rng) -> Profile {
        let base = Profile {
            shards: 1,
            clients: rng.usize(2..7),
            steps: 250,
            modes: (34, 33),
            tempers: tempers(0, 0, 0, 0, 0),
            activity: 25,
            leaving: 2,
            deeds: [20, 10, 40, 15, 10, 5, 0],
            churn: 0,
            jumps: 0,
            large: 3_000,
            queue_bytes_max: 1 << 20,
            shard_queue_bytes_max: 512 << 20,
            slow_reader: SlowReader::Disconnect,
            delay: rng.u64(1..12),
        };
        match NAMES[(seed % 8) as usize] {
            "polling" => Profile { modes: (100, 0), shards: rng.usize(1..3), ..base },
            "upgrade" => Profile { modes: (0, 0), shards: rng.usize(1..4), ..base },
            "slow" => Profile {
                tempers: tempers(50, 10, 0, 0, 0),
                queue_bytes_max: rng.usize(8..30) << 10,
                // Some have less than they would have alone.
                shard_queue_bytes_max: rng.usize(300..600) << 10,
                slow_reader: match rng.bool() {
                    true => SlowReader::Disconnect,
                    false => SlowReader::Drop,
                },
                large: 1_000,
                deeds: [20, 5, 50, 25, 5, 5, 0],
                delay: rng.u64(1..4),
                ..base
            },
            "churn" => Profile {
                churn: 1,
                leaving: 10,
                tempers: tempers(0, 30, 10, 0, 10),
                deeds: [20, 10, 40, 10, 10, 5, 5],
                ..base
            },
            "garbage" => Profile { tempers: tempers(0, 0, 0, 45, 0), clients: 6, ..base },
            "shards" => Profile {
                shards: rng.usize(2..4),
                clients: rng.usize(4..10),
                deeds: [20, 10, 60, 10, 5, 5, 0],
                ..base
            },
            "acks" => Profile {
                deeds: [5, 2, 10, 10, 40, 40, 2],
                leaving: rng.u32(0..2) * 4,
                tempers: tempers(0, 10, 5, 0, 0),
                ..base
            },
            _ => Profile {
                shards: rng.usize(1..4),
                clients: rng.usize(3..10),
                tempers: tempers(12, 12, 6, 10, 6),
                churn: u32::from(rng.bool()),
                jumps: rng.u32(0..3),
                leaving: 5,
                deeds: [20, 10, 40, 10, 10, 8, 2],
                queue_bytes_max: rng.usize(16..200) << 10,
                ..base
            },
        }
    }

    pub fn mode(&self, rng: &mut Rng) -> Mode {
        let roll = rng.u32(0..100);
        match self.modes {
            (polling, _) if roll < polling => Mode::Polling,
            (polling, websocket) if roll < polling + websocket => Mode::WebSocket,
            _ => Mode::Upgrade,
        }
    }

    pub fn temper(&self, rng: &mut Rng) -> Temper {
        let mut roll = rng.u32(0..100);
        for (temper, percent) in self.tempers {
            if roll < percent {
                return temper;
            }
            roll -= percent;
        }
        Temper::Healthy
    }
}

fn tempers(
    stalling: u32,
    breaking: u32,
    muted: u32,
    garbage: u32,
    lazy: u32,
) -> [(Temper, u32); 5] {
    [
        (Temper::Stalling, stalling),
        (Temper::Breaking, breaking),
        (Temper::Muted, muted),
        (Temper::Garbage, garbage),
        (Temper::Lazy, lazy),
    ]
}
