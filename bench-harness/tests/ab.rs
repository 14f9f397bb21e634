//! `ab` and `compare` through the command line. The live tests are about CPU time: they stand a
//! busy machine, and run alone (.config/nextest.toml).

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const HARNESS: &str = env!("CARGO_BIN_EXE_bench-harness");

/// One fan-out, in windows as short as can be, so that many rounds take little time. One at a time:
/// with eight in flight wasting a tenth was seen to cost up to twice as much.
const SCENARIO: &str = "
[clients]
count = 60
[[phase]]
name = \"connect\"
settle = 0
[[phase.load]]
kind = \"connect\"
[[phase]]
name = \"fanout\"
seconds = 0.3
warmup = 0.1
[[phase.load]]
kind = \"fanout\"
";

/// Connecting sixty clients is too short to judge.
const THRESHOLDS: &str = "
[phase.connect.cpu-per-connection]
gate = false
[phase.connect.memory-per-connection]
gate = false
";

/// An empty folder of that name.
fn folder(name: &str) -> std::io::Result<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if path.exists() {
        fs::remove_dir_all(&path)?;
    }
    fs::create_dir_all(&path)?;
    Ok(path)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// CPUs that this process may use, from "0-1,4".
fn cpus() -> Vec<usize> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        first.parse().unwrap_or(0)..=last.parse().unwrap_or(0)
    };
    list.unwrap_or("0").trim().split(',').flat_map(range).collect()
}

/// Compares corecast's bench server with itself; `more` are further arguments.
fn ab(folder: &Path, more: &[&str]) -> Result<Output, Box<dyn Error>> {
    let server = Path::new(HARNESS).with_file_name("examples").join("bench_server");
    let built = "cargo build --example bench_server";
    assert!(server.exists(), "{} is not built: {built}", server.display());
    let (scenario, thresholds) = (folder.join("fanout.toml"), folder.join("thresholds.toml"));
    fs::write(&scenario, SCENARIO)?;
    fs::write(&thresholds, THRESHOLDS)?;
    let cpus = cpus();
    let (first, last) = (cpus[0].to_string(), cpus[cpus.len() - 1].to_string());
    Ok(Command::new(HARNESS)
        .arg("ab")
        .args(["--base-bin".as_ref(), server.as_os_str(), "--new-bin".as_ref(), server.as_os_str()])
        .args(["--server-cpu", &first, "--client-cpu", &last])
        .args(["--out".as_ref(), folder.join("records").as_os_str()])
        .args(["--markdown".as_ref(), folder.join("summary.md").as_os_str()])
        .args(["--html".as_ref(), folder.join("report.html").as_os_str()])
        .args(["--thresholds".as_ref(), thresholds.as_os_str()])
        .args(more)
        .arg(scenario)
        .output()?)
}

#[test]
fn live_equal_builds_pass_and_compare_reads_their_records() -> Result<(), Box<dyn Error>> {
    let folder = folder("ab-equal")?;
    let output = ab(&folder, &[])?;
    let (found, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{found}\n{error}");
    let summary = fs::read_to_string(folder.join("summary.md"))?;
    assert!(summary.starts_with("### ✅ fanout: no regression"), "{summary}");
    assert!(summary.contains("\n| fanout: CPU per delivery | "), "{summary}");
    let page = fs::read_to_string(folder.join("report.html"))?;
    assert!(page.contains("<h2>no regression"), "the verdict stands above the plots");

    let compare = |more: &[&str]| {
        Command::new(HARNESS)
            .arg("compare")
            .args([folder.join("records/base"), folder.join("records/new")])
            .args(more)
            .output()
    };
    let again = compare(&["--thresholds", folder.join("thresholds.toml").to_str().ok_or("path")?])?;
    assert!(text(&again.stdout).contains("fanout: CPU per delivery"), "{again:?}");
    assert_ne!(again.status.code(), Some(2), "{again:?}");
    // Five rounds are too few for any rate of false alarms, all the more for a millionth.
    let thresholds = folder.join("strict.toml");
    fs::write(&thresholds, "false-alarms = 0.000001")?;
    for number in 6..=160 {
        let _ = fs::remove_file(folder.join(format!("records/new/{number}.json")));
    }
    let few = compare(&["--thresholds", thresholds.to_str().ok_or("path")?])?;
    assert_eq!(few.status.code(), Some(2), "{few:?}");
    assert!(text(&few.stderr).contains("5 rounds are too few for a verdict"), "{few:?}");
    Ok(())
}

#[test]
fn live_a_build_that_wastes_a_tenth_is_caught() -> Result<(), Box<dyn Error>> {
    let folder = folder("ab-slower")?;
    let output = ab(&folder, &["--max-rounds", "160", "--new-args", "--handicap 10"])?;
    let (found, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{found}\n{error}");
    let summary = fs::read_to_string(folder.join("summary.md"))?;
    assert!(summary.starts_with("### ❌ fanout: regression: 1 of 1 gates worse"), "{summary}");
    Ok(())
}

#[test]
fn mistakes_are_told_and_are_no_verdict() -> Result<(), Box<dyn Error>> {
    let empty = folder("ab-empty")?;
    let file = empty.join("thresholds.toml");
    fs::write(&file, "[metric.p98]\ngate = true")?;
    let (empty, file) = (empty.to_str().ok_or("path")?, file.to_str().ok_or("path")?);
    for (arguments, part) in [
        (&["compare", empty, empty][..], "no records in"),
        (&["compare", "/nowhere/1.json", "/nowhere/2.json"], "read /nowhere/1.json"),
        (&["compare", empty, empty, "--thresholds", file], "p98"),
        (&["ab", "--base-bin", "/nowhere/a", "--new-bin", HARNESS, "echo"], "build it first"),
        (&["ab", "--base-bin", HARNESS, "--new-bin", HARNESS, "/nowhere.toml"], "/nowhere.toml"),
    ] {
        let output = Command::new(HARNESS).args(arguments).current_dir(empty).output()?;
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    Ok(())
}
