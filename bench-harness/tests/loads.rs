//! Every kind of load against the floor: how much of what is sent, due and received. Counts, never
//! times, but for one: what a stopped server costs must show.

mod floor;

use std::error::Error;

use floor::{Floor, HARNESS, file, found, phases, scenario};
use serde_json::Value;

type Test = Result<(), Box<dyn Error>>;

/// The load `name` of the phase `phase`.
fn load<'a>(record: &'a Value, phase: &str, name: &str) -> Result<&'a Value, Box<dyn Error>> {
    phases(record)
        .iter()
        .filter(|found| found["name"] == phase)
        .flat_map(|found| found["loads"].as_array().into_iter().flatten())
        .find(|load| load["name"] == name)
        .ok_or_else(|| format!("no load {name} in phase {phase}").into())
}

fn count(load: &Value, name: &str) -> u64 {
    load[name].as_u64().unwrap_or(u64::MAX)
}

#[test]
fn processes_share_the_clients_and_their_windows() -> Test {
    let floor = Floor::start(&[])?;
    let plan = scenario(
        "processes",
        "[clients]\ncount = 31\nprocesses = 3\n\
         [[phase]]\nname = \"one\"\nseconds = 0.3\nload = [{ kind = \"fanout\" }]\n\
         [[phase]]\nname = \"eight\"\nseconds = 0.3\n\
         load = [{ kind = \"fanout\", in_flight = 8 }, { kind = \"echo\", in_flight = 7 }]\n\
         [[phase]]\nname = \"rate\"\nseconds = 0.3\nwarmup = 0\n\
         load = [{ kind = \"fanout\", rate = 200 }]\n",
    )?;
    let record = found(&floor, "processes", &[&plan])?;
    assert_eq!((count(&record, "connections"), count(&record, "processes")), (31, 3));
    assert_eq!(count(&phases(&record)[0], "connections"), 31);
    assert_eq!(count(load(&record, "connect", "connect")?, "all_received"), 31);
    for (phase, name, receivers) in [
        ("one", "fanout", 31),
        ("eight", "fanout", 31),
        ("eight", "echo", 1),
        ("rate", "fanout", 31),
    ] {
        let load = load(&record, phase, name)?;
        assert!(count(load, "finished") > 0, "{phase}: {load}");
        assert_eq!(count(load, "all_due"), count(load, "all_sent") * receivers, "{phase}");
        assert_eq!(count(load, "all_received"), count(load, "all_due"), "{phase}");
    }
    // The schedule has 60 in 0.3 s, whoever sends them.
    let sent = count(load(&record, "rate", "fanout")?, "all_sent");
    assert!((50..=60).contains(&sent), "{sent}");
    Ok(())
}

#[test]
fn a_room_gets_what_is_sent_to_it() -> Test {
    let floor = Floor::start(&[])?;
    let plan = scenario(
        "rooms",
        "[clients]\ncount = 23\nprocesses = 2\n[[phase]]\nname = \"rooms\"\nseconds = 0.3\n\
         [[phase.load]]\nkind = \"fanout\"\nname = \"tens\"\nroom_size = 10\nin_flight = 4\n\
         [[phase.load]]\nkind = \"fanout\"\nname = \"ones\"\nroom_size = 1\nrate = 300\n\
         [[phase.load]]\nkind = \"fanout\"\nname = \"all\"\n",
    )?;
    let record = found(&floor, "rooms", &[&plan])?;
    let [tens, ones, all] =
        ["tens", "ones", "all"].map(|name| load(&record, "rooms", name).cloned());
    let (tens, ones, all) = (tens?, ones?, all?);
    // Rooms of 10, 10 and 3 take turns.
    let sent = count(&tens, "all_sent");
    let turns = sent / 3 * 23 + [0, 10, 20][(sent % 3) as usize];
    assert_eq!((count(&tens, "all_due"), count(&tens, "all_received")), (turns, turns));
    assert!(sent > 3, "{sent}");
    assert_eq!(count(&ones, "all_received"), count(&ones, "all_sent"));
    assert_eq!(count(&all, "all_received"), count(&all, "all_sent") * 23);
    Ok(())
}

#[test]
fn those_that_come_and_go_do_not_disturb_the_others() -> Test {
    let floor = Floor::start(&[])?;
    let plan = scenario(
        "coming",
        "[clients]\ncount = 20\nprocesses = 2\nleaving = 0.3\n\
         [[phase]]\nname = \"churn\"\nseconds = 0.5\n\
         [[phase.load]]\nkind = \"churn\"\nname = \"back\"\nwhat = \"reconnect\"\nrate = 100\n\
         [[phase.load]]\nkind = \"churn\"\nname = \"rooms\"\nin_flight = 3\n\
         [[phase.load]]\nkind = \"fanout\"\nin_flight = 2\n",
    )?;
    let record = found(&floor, "coming", &[&plan])?;
    for (name, receivers) in [("back", 1), ("rooms", 1), ("fanout", 14)] {
        let load = load(&record, "churn", name)?;
        assert!(count(load, "finished") > 1, "{name}: {load}");
        assert_eq!(count(load, "all_received"), count(load, "all_sent") * receivers, "{name}");
    }
    assert_eq!(count(&phases(&record)[1], "connections"), 20, "all are back");
    Ok(())
}

#[test]
fn clients_come_and_leave_phase_by_phase() -> Test {
    let floor = Floor::start(&[])?;
    let plan = scenario(
        "growth",
        "[clients]\ncount = 40\nprocesses = 2\n\
         [[phase]]\nname = \"ten\"\nsettle = 0\nload = [{ kind = \"connect\", count = 10 }]\n\
         [[phase]]\nname = \"of ten\"\nseconds = 0.1\nload = [{ kind = \"fanout\" }]\n\
         [[phase]]\nname = \"forty\"\nsettle = 0\nload = [{ kind = \"connect\", rate = 500 }]\n\
         [[phase]]\nname = \"of forty\"\nseconds = 0.1\nload = [{ kind = \"fanout\" }]\n\
         [[phase]]\nname = \"five\"\nsettle = 0\nload = [{ kind = \"connect\", count = 5 }]\n\
         [[phase]]\nname = \"of five\"\nseconds = 0.1\nload = [{ kind = \"fanout\" }]\n",
    )?;
    let record = found(&floor, "growth", &[&plan])?;
    let connections: Vec<u64> =
        phases(&record).iter().map(|phase| count(phase, "connections")).collect();
    assert_eq!(connections, [10, 10, 40, 40, 5, 5]);
    for (phase, joined) in [("ten", 10), ("forty", 30), ("five", 0)] {
        assert_eq!(count(load(&record, phase, "connect")?, "all_received"), joined, "{phase}");
    }
    for (phase, receivers) in [("of ten", 10), ("of forty", 40), ("of five", 5)] {
        let load = load(&record, phase, "fanout")?;
        assert_eq!(count(load, "all_received"), count(load, "all_sent") * receivers, "{phase}");
    }
    Ok(())
}

#[test]
fn whoever_comes_later_is_in_its_room_as_well() -> Test {
    let floor = Floor::start(&[])?;
    let connected = [15, 40, 0, 33];
    let mut text = "[clients]\ncount = 40\nprocesses = 2\npatience = 2\n".to_owned();
    for count in connected {
        text += &format!(
            "[[phase]]\nsettle = 0\nload = [{{ kind = \"connect\", count = {count} }}]\n\
             [[phase]]\nseconds = 0.1\n\
             load = [{{ kind = \"fanout\", room_size = 10, in_flight = 4 }}]\n"
        );
    }
    let record = found(&floor, "later", &[&scenario("later", &text)?])?;
    let fanouts = phases(&record).iter().skip(1).step_by(2);
    for (load, count) in fanouts.map(|phase| &phase["loads"][0]).zip(connected) {
        // Each of four rooms had one.
        assert_eq!(load["finished"].as_u64() > Some(4), count > 0, "{count} clients: {load}");
        assert_eq!(load["all_received"], load["all_due"], "{count} clients");
    }
    Ok(())
}

#[test]
fn heartbeats_are_counted_and_their_lateness_kept() -> Test {
    let floor = Floor::start(&["--ping-interval", "50"])?;
    let plan = scenario(
        "heartbeats",
        "[clients]\ncount = 10\n[[phase]]\nname = \"idle\"\nseconds = 1\nwarmup = 0.1\n\
         load = [{ kind = \"idle\" }]\n",
    )?;
    let record = found(&floor, "heartbeats", &[&plan])?;
    let idle = load(&record, "idle", "idle")?;
    assert_eq!(count(idle, "all_sent"), 0);
    assert!(count(idle, "deliveries") >= 10, "{idle}");
    assert_eq!(count(idle, "all_received"), count(idle, "all_due"));
    assert!(idle["intervals"].as_array().is_some_and(|intervals| intervals.len() == 10), "{idle}");
    Ok(())
}

#[test]
fn the_scenario_starts_its_server() -> Test {
    let path = file("own.json");
    let plan = scenario(
        "own",
        &format!(
            "[server]\ncommand = [\"{HARNESS}\", \"floor\", \"--listen\", \"{{address}}\"]\n\
             label = \"the floor\"\n[clients]\ncount = 5\nwait = \"block\"\n[[phase]]\n\
             seconds = 0.1\nload = [{{ kind = \"echo\" }}]\n"
        ),
    )?;
    let output =
        std::process::Command::new(HARNESS).args(["run", &plan, "--json"]).arg(&path).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let record: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    assert_eq!(record["server"], "the floor");
    assert_eq!(record["complete"], true);
    let used = &phases(&record)[1]["server"];
    assert!(used["cpu_seconds"].as_f64().is_some_and(|cpu| cpu > 0.0), "{used}");
    Ok(())
}

/// The latencies in nanoseconds of a load that has one interval.
fn latencies(load: &Value) -> Result<hdrhistogram::Histogram<u64>, Box<dyn Error>> {
    use base64::Engine as _;
    let text = load["intervals"][0]["latency"].as_str().ok_or("no histogram")?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text)?;
    let mut reader = hdrhistogram::serialization::Deserializer::new();
    Ok(reader.deserialize(&mut bytes.as_slice())?)
}

#[test]
fn the_schedule_ends_with_the_last_connection() -> Test {
    let floor = Floor::start(&[])?;
    let plan = scenario(
        "dialled",
        "[clients]\ncount = 20\n[[phase]]\ninterval = 60\n\
         load = [{ kind = \"connect\", rate = 1000 }]\n",
    )?;
    let path = file("dialled.json");
    floor.signal("STOP")?;
    let mut run = floor.command(&floor.address).args([&plan, "--json"]).arg(&path).spawn()?;
    // All have begun and wait; meanwhile the rate would have had hundreds more.
    std::thread::sleep(std::time::Duration::from_millis(700));
    floor.signal("CONT")?;
    assert!(run.wait()?.success());
    let record: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let connect = load(&record, "connect", "connect")?;
    assert_eq!((count(connect, "all_sent"), latencies(connect)?.len()), (20, 20));
    Ok(())
}

#[test]
fn a_server_that_stops_shows_in_the_latency_of_what_was_due() -> Test {
    let floor = Floor::start(&[])?;
    let plan = scenario(
        "stopped",
        "[clients]\ncount = 4\n[[phase]]\nname = \"stopped\"\nseconds = 3\ninterval = 3\n\
         warmup = 0\nload = [{ kind = \"echo\", rate = 100 }]\n",
    )?;
    let path = file("stopped.json");
    let mut run = floor.command(&floor.address).args([&plan, "--json"]).arg(&path).spawn()?;
    // Every other 300 ms nothing is answered, as long as it takes.
    while run.try_wait()?.is_none() {
        floor.signal("STOP")?;
        std::thread::sleep(std::time::Duration::from_millis(300));
        floor.signal("CONT")?;
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    assert!(run.wait()?.success());
    let record: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let echo = load(&record, "stopped", "echo")?;
    // Half of all echoes fall into a stop, evenly: a tenth of all waits for 240 ms or more. Four
    // clients can only have asked four times in each stop; the others count from when they should.
    let latencies = latencies(echo)?;
    let slow = latencies.value_at_quantile(0.9);
    assert!(slow > 200_000_000, "{slow} ns");
    // Whatever was due in these 3 s has its latency, also if it came late or was never sent.
    assert!(latencies.len() >= 300, "{} of 300", latencies.len());
    Ok(())
}

#[test]
fn those_that_ask_are_more_and_take_part_in_nothing_else() -> Test {
    let floor = Floor::start(&[])?;
    let plan = scenario(
        "asking",
        "[clients]\ncount = 30\nprocesses = 2\nasking = 3\n[[phase]]\nname = \"beside\"\n\
         seconds = 0.5\nload = [{ kind = \"fanout\", in_flight = 2 }, { kind = \"echo\" }]\n\
         [[phase]]\nname = \"alone\"\nseconds = 0.2\nload = [{ kind = \"fanout\" }]\n",
    )?;
    let record = found(&floor, "asking", &[&plan])?;
    assert_eq!(count(&record, "connections"), 33);
    let broadcasts = load(&record, "beside", "fanout")?;
    assert_eq!(count(broadcasts, "all_received"), 30 * count(broadcasts, "all_sent"));
    let echo = load(&record, "beside", "echo")?;
    assert!(count(echo, "finished") > 10, "{echo}");
    assert_eq!(count(echo, "all_received"), count(echo, "all_sent"));
    assert!(count(load(&record, "alone", "fanout")?, "finished") > 0);
    Ok(())
}
