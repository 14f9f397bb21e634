//! More to send than can be sent: who waits for whom, what is kept, and what is counted.

use corecast::SlowReader;
use corecast::hub::buffer::SendBuf;
use corecast::hub::{Config, Flags};

use crate::wire::{Wire, config, text, unframe};

/// Clients in `/` and their kernel, which takes sends when it is told to.
struct Crowd {
    wire: Wire,
    conns: Vec<u32>,
    /// How many of them, the first ones, take nothing, and what was sent to these.
    stalled: usize,
    stuck: Vec<SendBuf>,
    published: usize,
}

impl Crowd {
    fn new(config: Config, count: usize, stalled: usize) -> Crowd {
        let mut wire = Wire::with(Config { connections_max: 10_000, ..config });
        let conns = (0..count).map(|_| wire.joined()).collect();
        wire.holds = true;
        Crowd { wire, conns, stalled, stuck: Vec::new(), published: 0 }
    }

    /// A broadcast to all with about this many bytes, and its number.
    fn publish(&mut self, bytes: usize, volatile: bool) {
        let text = format!("42[\"msg\",{},\"{}\"]", self.published, "x".repeat(bytes));
        self.published += 1;
        self.wire.publish(text, Flags { volatile, ..Flags::default() }, Vec::new());
    }

    /// Sends up to `budget` times; what was sent to whom.
    fn flush(&mut self, budget: usize) -> Vec<(u32, Vec<u8>)> {
        let mut sends = Vec::new();
        self.wire.hub.flush(budget, |conn, buf| sends.push((conn, buf)));
        self.wire.run();
        let bytes = sends.iter().map(|(conn, buf)| (*conn, buf.to_vec())).collect();
        for (conn, buf) in sends {
            if self.conns[..self.stalled].contains(&conn) {
                self.stuck.push(buf);
                continue;
            }
            drop(buf);
            self.wire.hub.handle_sent(conn, true);
        }
        bytes
    }
}

/// Numbers of the broadcasts in what was sent to a connection.
fn numbers(sends: &[(u32, Vec<u8>)], conn: u32) -> Vec<usize> {
    let own = sends.iter().filter(|(to, _)| *to == conn);
    let bytes: Vec<u8> = own.flat_map(|(_, bytes)| bytes.clone()).collect();
    let number = |text: &String| text.split(',').nth(1)?.parse().ok();
    unframe(&bytes).iter().filter_map(number).collect()
}

#[test]
fn what_waits_together_leaves_together_and_is_counted() {
    let mut crowd = Crowd::new(config(), 10, 2);
    let before = crowd.wire.hub.stats();
    (0..5).for_each(|_| crowd.publish(10, false));
    let gauges = crowd.wire.hub.gauges();
    assert_eq!((gauges.waiting, gauges.sending, gauges.queue_bytes), (10, 0, 0));
    assert_eq!(crowd.flush(4).len(), 4);
    let gauges = crowd.wire.hub.gauges();
    assert_eq!((gauges.waiting, gauges.sending), (6, 2), "two of the four are stalled");
    let sends = crowd.flush(100);
    assert_eq!(numbers(&sends, crowd.conns[9]), [0, 1, 2, 3, 4]);
    let (stats, gauges) = (crowd.wire.hub.stats(), crowd.wire.hub.gauges());
    assert_eq!((stats.staged - before.staged, stats.sends - before.sends), (50, 10));
    assert_eq!((gauges.waiting, gauges.sending), (0, 2));
    crowd.conns[..2].iter().for_each(|conn| crowd.wire.hub.handle_closed(*conn));
    assert_eq!(crowd.wire.hub.gauges().sending, 0);
}

#[test]
fn a_shard_that_is_behind_goes_on_when_what_waits_has_left() {
    let mut crowd = Crowd::new(config(), 200, 0);
    while !crowd.wire.hub.should_flush() {
        crowd.publish(1_000, false);
    }
    // As much as one send carries, and one packet more; a sixteenth of what may be queued.
    assert_eq!(crowd.published, 65);
    assert_eq!(crowd.wire.hub.gauges().queue_bytes, 64 << 10, "one chunk for all of them");
    let mut sends = Vec::new();
    for _ in 0..2 {
        assert!(crowd.wire.hub.should_flush());
        sends.extend(crowd.flush(100));
    }
    assert!(!crowd.wire.hub.should_flush());
    sends.extend(crowd.flush(1_000));
    // What has piled up left in one send for each chunk that it lies in, and nobody was taken for
    // slow.
    let all: Vec<usize> = (0..crowd.published).collect();
    assert!(crowd.conns.iter().all(|conn| numbers(&sends, *conn) == all));
    assert_eq!(sends.len(), 2 * 200);
    let stats = crowd.wire.hub.stats();
    assert_eq!((stats.pauses, stats.slow_closed, stats.slow_dropped), (1, 0, 0));
}

/// With frames that have a send each, no more comes in than leaves.
#[test]
fn large_frames_wait_for_their_turn_however_many_there_are() {
    let mut crowd = Crowd::new(config(), 10, 0);
    let mut sends = Vec::new();
    for _ in 0..300 {
        if !crowd.wire.hub.should_flush() {
            crowd.publish(30_000, false);
        }
        sends.extend(crowd.flush(4));
        assert!(crowd.wire.hub.held().queued <= 10 * 150_000);
    }
    assert!((110..=125).contains(&crowd.published), "{}", crowd.published);
    sends.extend(crowd.flush(1_000));
    while crowd.wire.hub.gauges().waiting > 0 {
        sends.extend(crowd.flush(1_000));
    }
    let all: Vec<usize> = (0..crowd.published).collect();
    assert!(crowd.conns.iter().all(|conn| numbers(&sends, *conn) == all));
    assert_eq!(crowd.wire.hub.gauges().queue_bytes, 0);
}

/// Who does not read is not waited for.
#[test]
fn a_stalled_peer_is_no_reason_to_be_behind() {
    let mut crowd = Crowd::new(config(), 10, 10);
    crowd.publish(10, false);
    crowd.flush(100);
    for _ in 0..900 {
        crowd.publish(1_000, false);
        assert!(!crowd.wire.hub.should_flush());
        crowd.flush(100);
    }
    assert_eq!(crowd.wire.hub.stats().pauses, 0);
}

/// Ten who read and ten who do not, under this policy and a bound for all of them that is less than
/// what they might have alone.
fn stalled(policy: SlowReader) {
    const BOUND: usize = 1 << 20;
    let own = Config { slow_reader: policy, shard_queue_bytes_max: BOUND, ..config() };
    let mut crowd = Crowd::new(own, 20, 10);
    let good = crowd.conns[10..].to_vec();
    let mut got = vec![Vec::new(); good.len()];
    let (mut most, before) = (0, crowd.wire.hub.stats());
    for _ in 0..2_000 {
        crowd.publish(1_000, false);
        most = most.max(crowd.wire.hub.gauges().queue_bytes);
        let sends = crowd.flush(100);
        for (got, conn) in got.iter_mut().zip(&good) {
            got.extend(numbers(&sends, *conn));
        }
    }
    assert!(got.iter().all(|got| *got == (0..2_000).collect::<Vec<_>>()), "all, in order");
    assert!((BOUND / 3..BOUND * 7 / 8).contains(&most), "{most} bytes");
    let (stats, gauges) = (crowd.wire.hub.stats(), crowd.wire.hub.gauges());
    let to_slow = (stats.staged - before.staged) as usize - 10 * 2_000;
    if policy == SlowReader::Drop {
        assert_eq!((stats.slow_closed, gauges.sockets, gauges.sending), (0, 20, 10));
        assert_eq!(stats.slow_dropped as usize + to_slow, 10 * 2_000);
        let queued = crowd.wire.members[..10].iter().map(|key| crowd.wire.hub.queued(*key));
        let queued: Vec<usize> = queued.collect();
        assert!(queued.iter().all(|bytes| (20_000..80_000).contains(bytes)), "{queued:?}");
        return;
    }
    assert_eq!((stats.slow_closed, stats.slow_dropped, gauges.sockets), (10, 0, 10));
    crowd.stuck.clear();
    let gauges = crowd.wire.hub.gauges();
    assert_eq!((gauges.queue_bytes, gauges.waiting, gauges.sending), (0, 0, 0));
}

#[test]
fn those_who_do_not_read_share_a_bound_and_miss_events() {
    stalled(SlowReader::Drop);
}

#[test]
fn those_who_do_not_read_share_a_bound_and_are_disconnected() {
    stalled(SlowReader::Disconnect);
}

/// Peers that stop reading one after the other hold what they were sent, and not what lies beside
/// it in memory.
#[test]
fn who_stops_reading_does_not_hold_what_others_were_sent() {
    const BOUND: usize = 1 << 20;
    let own = Config { slow_reader: SlowReader::Drop, shard_queue_bytes_max: BOUND, ..config() };
    let mut crowd = Crowd::new(own, 40, 0);
    let mut got = Vec::new();
    for stalled in 0..40 {
        crowd.stalled = stalled;
        for _ in 0..20 {
            crowd.publish(4_000, false);
            let sends = crowd.flush(100);
            got.extend(numbers(&sends, crowd.conns[39]));
            let queue_bytes = crowd.wire.hub.gauges().queue_bytes;
            assert!(queue_bytes < BOUND, "{queue_bytes} bytes with {stalled} stalled");
        }
    }
    assert_eq!(got, (0..800).collect::<Vec<_>>(), "all, in order");
}

/// Frames that nobody shares, for clients that only wait for this shard: reading stops long before
/// anything is lost, and what is emitted all the same is bounded too.
#[test]
fn copies_that_wait_for_this_shard_alone_are_bounded() {
    const BOUND: usize = 1 << 20;
    let own = Config { slow_reader: SlowReader::Drop, shard_queue_bytes_max: BOUND, ..config() };
    let mut crowd = Crowd::new(own, 50, 0);
    let packet = format!("42[\"{}\"]", "x".repeat(1_000));
    let mut emitted = 0;
    while !crowd.wire.hub.should_flush() {
        assert!(crowd.wire.emit(emitted % 50, &packet));
        emitted += 1;
    }
    let gauges = crowd.wire.hub.gauges();
    assert!((BOUND / 2..BOUND * 7 / 8).contains(&gauges.queue_bytes), "{}", gauges.queue_bytes);
    assert_eq!(crowd.wire.hub.stats().slow_dropped, 0);
    for count in 0..5_000 {
        crowd.wire.emit(count % 50, &packet);
    }
    let queue_bytes = crowd.wire.hub.gauges().queue_bytes;
    assert!(queue_bytes <= BOUND, "{queue_bytes} bytes");
    assert!(crowd.wire.hub.stats().slow_dropped > 4_000);
    while crowd.wire.hub.gauges().waiting > 0 {
        crowd.flush(64);
    }
    assert_eq!(crowd.wire.hub.gauges().queue_bytes, 0);
    assert!(!crowd.wire.hub.should_flush());
}

#[test]
fn volatile_events_pass_over_those_who_do_not_read() {
    let mut crowd = Crowd::new(config(), 3, 1);
    crowd.publish(10, false);
    crowd.flush(10);
    for number in 1..=100 {
        crowd.publish(10, true);
        let sends = crowd.flush(10);
        assert_eq!(numbers(&sends, crowd.conns[2]), [number]);
    }
    let stats = crowd.wire.hub.stats();
    assert_eq!((stats.volatile_dropped, stats.slow_dropped, stats.slow_closed), (100, 0, 0));
}

#[test]
fn polls_that_do_not_come_share_the_bound() {
    let own = Config { shard_queue_bytes_max: 1 << 20, ..config() };
    let mut crowd = Crowd::new(Config { slow_reader: SlowReader::Drop, ..own }, 0, 0);
    crowd.wire.holds = false;
    let sids: Vec<String> = (0..10).map(|_| crowd.wire.joined_polling()).collect();
    for _ in 0..2_000 {
        crowd.publish(1_000, false);
        crowd.wire.run();
        assert!(crowd.wire.hub.gauges().queue_bytes < 7 << 17);
    }
    assert!(crowd.wire.hub.stats().slow_dropped > 10 * 1_900);
    for sid in sids {
        let conn = crowd.wire.poll(&sid);
        assert!(crowd.wire.reply(conn).body.starts_with("42[\"msg\",0,"));
    }
    assert_eq!(crowd.wire.hub.gauges().queue_bytes, 0);
}

/// A pong that lies unread while the shard is busy is not the client's fault.
#[test]
fn e6_who_has_answered_in_time_is_not_closed_because_nobody_read_it() {
    let mut wire = Wire::new();
    let (late, silent) = (wire.joined(), wire.joined());
    wire.at(10_000);
    wire.hub.handle_all_read();
    wire.at(25_100);
    assert_eq!((wire.said(late), wire.said(silent)), (vec!["2".into()], vec!["2".into()]));
    // The shard was stalled over the deadline, at 45,000, and looks at its timers first.
    wire.stalled_until(46_000);
    assert_eq!(wire.heard(), [""; 0]);
    wire.put(late, text("3"));
    wire.hub.handle_all_read();
    wire.at(46_100);
    assert_eq!((wire.heard(), wire.is_over(silent)), (vec!["ping timeout".to_string()], true));
    assert!(!wire.is_over(late));
    // One that never catches up believes it after as long again.
    wire.at(71_200);
    assert_eq!(wire.said(late), ["2"]);
    wire.stalled_until(110_900);
    assert_eq!(wire.heard(), [""; 0]);
    wire.at(111_200);
    assert_eq!(wire.heard(), ["ping timeout"]);
}
