//! The client against the floor, through the command line: counts, never times.

mod floor;

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use floor::{Floor, HARNESS, file, found, phases, scenario};

#[test]
fn every_load_accounts_for_every_message() -> Result<(), Box<dyn Error>> {
    let floor = Floor::start(&[])?;
    let record = found(&floor, "all", &["all", "--count", "50", "--seconds", "0.3"])?;
    let phases = phases(&record);
    assert_eq!(phases[0]["connections"], 50);
    assert_eq!(phases.len(), 5, "connect, idle and three loads");
    for (phase, receivers) in [&phases[..1], &phases[2..]].concat().iter().zip([1, 50, 50, 1]) {
        let load = &phase["loads"][0];
        let count = |name: &str| load[name].as_u64().unwrap_or(0);
        assert!(count("finished") > 0, "{load}");
        assert_eq!(count("all_received"), count("all_sent") * receivers, "{load}");
        assert!(count("all_sent") >= count("finished"), "{load}");
        assert!(count("deliveries") <= count("all_received"), "{load}");
    }
    Ok(())
}

#[test]
fn what_was_written_reads_as_it_was_found() -> Result<(), Box<dyn Error>> {
    let floor = Floor::start(&[])?;
    let path = file("written.json");
    let json = path.to_str().ok_or("path")?;
    let output = floor.run(&["echo", "--count", "5", "--seconds", "0.1", "--json", json])?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = Command::new(HARNESS).args(["report", json]).output()?;
    assert!(report.status.success(), "{}", String::from_utf8_lossy(&report.stderr));
    assert_eq!(report.stdout, output.stdout);
    Ok(())
}

#[test]
fn a_rate_sets_the_number_of_messages() -> Result<(), Box<dyn Error>> {
    let floor = Floor::start(&[])?;
    let plan = scenario(
        "rate",
        "[clients]\ncount = 20\n[[phase]]\nseconds = 0.3\n\
         load = [{ kind = \"echo\", rate = 1000, payload = 32 }]\n",
    )?;
    let record = found(&floor, "rate", &[&plan])?;
    let sent = phases(&record)[1]["loads"][0]["all_sent"].as_f64().ok_or("messages")?;
    // The schedule has 1,000 a second, and warm-up and measured part last 0.36 s.
    assert!((300.0..=360.0).contains(&sent), "{sent}");
    Ok(())
}

#[test]
fn peers_takes_the_floor_alone_and_the_rows_that_are_asked_for() -> Result<(), Box<dyn Error>> {
    let peers = |rows: &str| {
        Command::new(HARNESS)
            .args(["peers", "--rounds", "2", "--engines", "floor", "--seconds", "0.2"])
            .args(["--connections", "100", "--rows", rows])
            .output()
    };
    let output = peers("connect,fanout-8,heartbeat")?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
    // A heading, and two rows for the fan-out.
    assert_eq!(rows.len(), 5, "{text}");
    for (row, unit) in rows[1..].iter().zip(["µs (", "µs (", "k/s (", "µs ("]) {
        assert!(row.contains(unit), "{row}");
    }
    let output = peers("fanout-9")?;
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr)?;
    assert!(error.contains("no row fanout-9") && error.contains("fanout-8"), "{error}");
    Ok(())
}

/// A client of the floor: text in, text out, heartbeats counted.
struct Raw {
    stream: TcpStream,
    pings: usize,
}

impl Raw {
    fn open(address: &str) -> Result<Self, Box<dyn Error>> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let mut raw = Self { stream, pings: 0 };
        assert!(raw.read()?.starts_with('0'));
        raw.send("40")?;
        assert!(raw.read()?.starts_with("40"));
        Ok(raw)
    }

    fn send(&mut self, text: &str) -> std::io::Result<()> {
        let mask = [0; 4];
        self.stream
            .write_all(&[&[0x81, 0x80 | text.len() as u8], &mask[..], text.as_bytes()].concat())
    }

    /// The next packet that is no ping.
    fn read(&mut self) -> Result<String, Box<dyn Error>> {
        loop {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head)?;
            let mut text = vec![0; head[1].into()];
            self.stream.read_exact(&mut text)?;
            if text != b"2" {
                return Ok(String::from_utf8(text)?);
            }
            self.pings += 1;
            self.send("3")?;
        }
    }
}

#[test]
fn the_floor_keeps_rooms_and_pings() -> Result<(), Box<dyn Error>> {
    let floor = Floor::start(&["--ping-interval", "50"])?;
    let (mut one, mut other) = (Raw::open(&floor.address)?, Raw::open(&floor.address)?);
    one.send(r#"4207["join","red"]"#)?;
    assert_eq!(one.read()?, "4307[]");
    other.send(r#"42["to","red","first"]"#)?;
    assert_eq!(one.read()?, r#"42["msg","first"]"#);
    one.send(r#"421["leave","red"]"#)?;
    assert_eq!(one.read()?, "431[]");
    other.send(r#"42["to","red","second"]"#)?;
    other.send(r#"42["pub","third"]"#)?;
    assert_eq!(one.read()?, r#"42["msg","third"]"#, "and not the second");
    assert_eq!(other.read()?, r#"42["msg","third"]"#);
    // Broadcasts keep coming, so that the test waits for pings in the course of reading.
    while one.pings < 3 || other.pings < 3 {
        other.send(r#"42["pub","again"]"#)?;
        assert_eq!(one.read()?, other.read()?);
    }
    Ok(())
}
