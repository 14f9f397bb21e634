//! What becomes of a small record that was made by hand, in each of its forms.

use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;

use super::*;
use crate::record::{Distribution, FORMAT, Interval, Kind, Load, Phase, Sample, Usage};

const MS: u64 = 1_000_000;

fn interval(start: f64, values: impl IntoIterator<Item = u64>) -> Interval {
    let mut latency = Distribution::default();
    values.into_iter().for_each(|value| latency.record(value));
    Interval { start, seconds: 0.5, latency }
}

fn load(name: &str, kind: Kind, intervals: Vec<Interval>) -> Load {
    let receipts = intervals.iter().map(|interval| interval.latency.0.len()).sum();
    Load {
        name: name.into(),
        kind,
        payload: 128,
        rate: (kind == Kind::Fanout).then_some(12.5),
        in_flight: Some(8),
        finished: receipts,
        deliveries: receipts,
        all_sent: receipts,
        all_due: receipts,
        all_received: receipts,
        intervals,
    }
}

/// A second of a fan-out with an echo beside it: 2,000 latencies of 1 to 1,000 ms, then two echoes.
fn record(server: &str) -> Record {
    let all = (1..=1000).map(|value| value * MS);
    let fanout = vec![interval(0.0, all.clone()), interval(0.5, all)];
    let echo = vec![interval(0.0, [3 * MS]), interval(0.5, [5 * MS])];
    let sample = |at| Sample {
        at,
        seconds: 0.5,
        server_cpu_seconds: 0.25,
        server_resident: 5_000_000,
        client_cpu_seconds: 0.5,
        connections: 7,
    };
    let phase = Phase {
        name: "chat".into(),
        start: 3.0,
        seconds: 1.0,
        connections: 7,
        server: Some(Usage { cpu_seconds: 0.5, resident_before: 0, resident_after: 5_000_000 }),
        client: Usage::default(),
        samples: vec![sample(0.5), sample(1.0)],
        loads: vec![load("all", Kind::Fanout, fanout), load("echo", Kind::Echo, echo)],
    };
    Record {
        format: FORMAT,
        scenario: "a </script><!-- scenario".into(),
        server: server.into(),
        began: 1_795_793_520.25,
        complete: true,
        harness: "0".into(),
        host: "here".into(),
        connections: 7,
        processes: 1,
        phases: vec![phase],
        stalled: None,
    }
}

#[test]
fn a_row_says_what_a_load_found() {
    let mut record = record("ours");
    record.phases.push(Phase { name: "rest".into(), loads: vec![], ..record.phases[0].clone() });
    let table = figures::table(&[Labelled { label: "ours", record: &record }]);
    let text = text::markdown(&table);
    let expected = [
        "| phase | load | offered | per second | p50 | p90 | p99 | p99.9 | max | CPU each | busy | \
         memory |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| chat | all | 12.5/s | 2,000 | 500 ms | 900 ms | 990 ms | 999 ms | 1.00 s | 250 µs | \
         50.0 % | 5.00 MB |",
        "| chat | echo | 8 at a time | 2 | 3.00 ms | 5.00 ms | 5.00 ms | 5.00 ms | 5.00 ms | – | – \
         | – |",
        "| rest | – | – | – | – | – | – | – | – | – | 50.0 % | 5.00 MB |",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn records_of_several_servers_stand_below_each_other() {
    let (one, mut two) = (record("one"), record("two"));
    two.phases[0].loads.remove(0);
    two.phases[0].server = None;
    let both = [Labelled { label: "a", record: &one }, Labelled { label: "b", record: &two }];
    let table = figures::table(&both);
    let names: Vec<&[String]> = table.rows.iter().map(|row| &row[..3]).collect();
    assert_eq!(names, [["chat", "all", "a"], ["chat", "echo", "a"], ["chat", "echo", "b"]]);
    assert_eq!(table.rows[2].len(), table.heads.len());
}

#[test]
fn phases_and_loads_of_the_same_name_are_told_apart() {
    let mut record = record("ours");
    record.phases.push(record.phases[0].clone());
    record.phases[1].loads[1].name = "all".into();
    record.phases[1].loads[1].deliveries = 77;
    let table = figures::table(&[Labelled { label: "ours", record: &record }]);
    let names: Vec<&[String]> = table.rows.iter().map(|row| &row[..2]).collect();
    let expected = [["chat", "all"], ["chat", "echo"], ["chat 2", "all"], ["chat 2", "all 2"]];
    assert_eq!(names, expected);
    assert_eq!(table.rows[3][3], "77");
}

#[test]
fn records_are_called_by_their_servers_or_their_files() {
    let paths = ["x/one.json", "x/two.json", "x/three.json"].map(PathBuf::from);
    let records = [record("ours"), record("ours"), record("floor")];
    assert_eq!(labels(&paths, &records), ["one", "two", "floor"]);
}

#[test]
fn files_of_one_name_are_called_by_as_much_of_their_paths_as_tells_them_apart() {
    let of = |paths: &[&str], servers: &[&str]| -> Vec<String> {
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        labels(&paths, &servers.iter().map(|server| record(server)).collect::<Vec<_>>())
    };
    let ours = ["ours"; 3];
    assert_eq!(of(&["mon/run.json", "tue/run.json"], &ours[1..]), ["mon/run", "tue/run"]);
    let deep = ["a/x/run.json", "b/x/run.json", "b/x/other.json"];
    assert_eq!(of(&deep, &ours), ["a/x/run", "b/x/run", "other"]);
    assert_eq!(of(&["run.json", "/a/run.json"], &ours[1..]), ["run", "a/run"]);
    assert_eq!(of(&["run.json", "run.old"], &ours[1..]), ["run.json", "run.old"]);
    // A server may be called like a file.
    assert_eq!(of(&["a/x.json", "a/y.json", "z.json"], &["ours", "ours", "x"])[0], "a/x");
    assert_eq!(of(&["run.json", "run.json"], &ours[1..]), ["run", "run"], "twice the same");
}

#[test]
fn rounds_share_a_heading_which_names_what_is_missing() {
    let (one, mut two) = (record("ours"), record("floor"));
    two.phases[0].loads[0].all_due += 5;
    two.complete = false;
    let [a, b] = [("base", &one), ("new", &two)].map(|(label, record)| Labelled { label, record });
    let headings = figures::headings(&[a, b, a]);
    let name = "a </script><!-- scenario";
    let expected = [
        format!(
            "base: {name} against ours, 2026-11-27 15:32 UTC, 2 rounds\n7 connections from 1 \
             process, here, bench-harness 0\n4,004 operations, 4,004 receipts, each exactly once"
        ),
        format!(
            "new: {name} against floor, 2026-11-27 15:32 UTC, INTERRUPTED\n7 connections from 1 \
             process, here, bench-harness 0\n2,002 operations, 2,002 receipts of 2,007 due, each \
             exactly once"
        ),
    ];
    assert_eq!(headings, expected);
}

/// The data in the page, as its script reads it.
fn data(page: &str) -> Option<Value> {
    let (_, rest) = page.split_once("<script type=\"application/json\" id=\"data\">")?;
    serde_json::from_str(rest.split_once("</script>")?.0).ok()
}

fn page(records: &[Labelled<'_>]) -> Result<String> {
    Page { title: &records[0].record.scenario, lead: "<p id=lead>", records }.html()
}

#[test]
fn a_page_holds_the_curve_and_the_course_of_each_load() -> Result<()> {
    let record = record("ours");
    let text = page(&[Labelled { label: "ours", record: &record }])?;
    let data = data(&text).context("data")?;
    let phase = &data["records"][0]["phases"][0];
    let load = &phase["loads"][0];
    assert_eq!(load["count"], 2000);
    // log10(2000) is 3.3: 67 quantiles below it, and the maximum.
    let curve = load["curve"].as_array().context("curve")?;
    let near = |index: usize| curve[index].as_u64().unwrap_or(0).div_ceil(MS);
    assert_eq!([curve.len(), 1], [68, 1]);
    assert_eq!([0, 20, 40, 60, 67].map(near), [1, 901, 991, 1000, 1001]);
    let times = load["times"].as_array().context("times")?;
    assert_eq!((times.len(), &times[1]["at"], &times[1]["count"]), (2, &0.75.into(), &1000.into()));
    let heat = times[0]["heat"].as_object().context("heat")?;
    let sum: u64 = heat.values().filter_map(Value::as_u64).sum();
    assert_eq!((sum, &heat["60"]), (1000, &1.into()), "row 60 begins with 1 ms");
    // Both loads count as receipts of a sample.
    assert_eq!(phase["samples"][1]["receipts"], 1001.0);
    assert_eq!(phase["samples"][1]["at"], 0.75);
    Ok(())
}

#[test]
fn names_cannot_break_out_of_a_page() -> Result<()> {
    let record = record("<b>&\"");
    let text = page(&[Labelled { label: "</script>", record: &record }])?;
    assert!(text.contains("<title>a &lt;/script&gt;&lt;!-- scenario"), "title");
    assert!(text.contains("<p id=lead>"), "the lead is markup");
    assert!(text.contains("&lt;b&gt;&amp;&quot;"), "server");
    assert_eq!(data(&text).context("data")?["labels"][0], "</script>");
    assert_eq!(text.matches("</script>").count(), 2);
    Ok(())
}

#[test]
fn a_page_asks_nobody_for_anything() -> Result<()> {
    let record = record("ours");
    let text = page(&[Labelled { label: "ours", record: &record }])?;
    assert!(text.contains("default-src 'none'"));
    for reference in ["src=", "@import", "url(", "fetch(", "href=\"http"] {
        assert!(!text.contains(reference), "{reference}");
    }
    Ok(())
}

#[test]
fn rounds_of_one_thing_share_a_label_and_need_no_heat_map() -> Result<()> {
    let (one, two) = (record("one"), record("two"));
    let labelled = |label, record| Labelled { label, record };
    let text = page(&[labelled("base", &one), labelled("new", &two), labelled("base", &one)])?;
    let data = data(&text).context("data")?;
    assert_eq!(data["labels"], serde_json::json!(["base", "new"]));
    assert!(text.contains("<details><summary>Each round"));
    assert_eq!(data["records"][2]["label"], 0);
    let heat = &data["records"][2]["phases"][0]["loads"][0]["times"][0]["heat"];
    assert_eq!(heat.as_object().map(serde_json::Map::len), Some(0));
    Ok(())
}

#[test]
fn a_long_run_is_shown_in_fewer_steps() -> Result<()> {
    let mut record = record("ours");
    let intervals = (0..1000).map(|index| interval(f64::from(index) * 0.5, [MS]));
    record.phases[0].loads[0].intervals = intervals.collect();
    let text = page(&[Labelled { label: "ours", record: &record }])?;
    let data = data(&text).context("data")?;
    let times = data["records"][0]["phases"][0]["loads"][0]["times"].as_array().context("times")?;
    assert_eq!(times.len(), 112, "nine intervals each");
    assert_eq!((&times[0]["seconds"], &times[111]["seconds"]), (&4.5.into(), &0.5.into()));
    assert_eq!(times[111]["at"], 499.75);
    Ok(())
}

#[test]
fn labels_that_are_alike_as_file_names_have_logs_of_their_own() -> Result<()> {
    let (one, two) = (record("one"), record("two"));
    let folder = std::env::temp_dir().join(format!("hlogs-{}", std::process::id()));
    let labelled = |label, record| Labelled { label, record };
    hlog::write(&folder, &[labelled("mon/run", &one), labelled("mon-run", &two)])?;
    let text = |name: &str| std::fs::read_to_string(folder.join(name));
    let logs = [text("mon-run.01-chat.all.hlog")?, text("mon-run.01-chat.all-2.hlog")?];
    std::fs::remove_dir_all(&folder)?;
    assert!(logs[0].contains("against one") && logs[1].contains("against two"), "{logs:?}");
    Ok(())
}

#[test]
fn an_interval_log_gives_the_histograms_back() -> Result<()> {
    let record = record("ours: 1");
    let folder = std::env::temp_dir().join(format!("hlog-{}", std::process::id()));
    hlog::write(&folder, &[Labelled { label: "ours: 1", record: &record }])?;
    let bytes = std::fs::read(folder.join("ours--1.01-chat.all.hlog"))?;
    assert!(folder.join("ours--1.01-chat.echo.hlog").exists());
    std::fs::remove_dir_all(&folder)?;
    let text = String::from_utf8(bytes.clone())?;
    assert!(text.starts_with("#[Histogram log format version 1.3]\n"), "{text}");
    let mut starts = Vec::new();
    for entry in IntervalLogIterator::new(&bytes) {
        match entry.map_err(|error| anyhow::anyhow!("{error:?}"))? {
            LogEntry::StartTime(time) => assert_eq!(time.as_secs_f64(), 1_795_793_523.25),
            LogEntry::BaseTime(time) => assert_eq!(time.as_secs_f64(), 1_795_793_523.25),
            LogEntry::Interval(found) => {
                let bytes = base64::Engine::decode(
                    &base64::engine::general_purpose::STANDARD,
                    found.encoded_histogram(),
                )?;
                let histogram: hdrhistogram::Histogram<u64> =
                    Deserializer::new().deserialize(&mut bytes.as_slice())?;
                let all = &record.phases[0].loads[0].intervals[starts.len()];
                assert_eq!(histogram, all.latency.0);
                starts.push(found.start_timestamp().as_secs_f64());
            }
        }
    }
    assert_eq!(starts, [0.0, 0.5]);
    Ok(())
}
