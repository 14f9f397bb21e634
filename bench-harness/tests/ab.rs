//! `ab` and `compare` through the command line. The live tests are about CPU time: they stand a
//! busy machine, and run alone (.config/nextest.toml).

mod floor;

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use floor::{HARNESS, signal};

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

/// The floor beside itself, in rounds that are over soon.
const SHORT: &str = "
[clients]
count = 3
wait = \"block\"
[[phase]]
settle = 0
load = [{ kind = \"connect\" }]
[[phase]]
seconds = 0.05
load = [{ kind = \"echo\" }]
";

/// One gate and many false alarms: six rounds are enough for a verdict.
const LAX: &str = "
false-alarms = 0.2
[metric.cpu-per-connection]
gate = false
[metric.memory-per-connection]
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

/// `ab` of a program with itself, of a scenario in the file `name` and under these thresholds, with
/// its records and its summary in `folder`.
fn command(
    folder: &Path,
    program: &Path,
    name: &str,
    texts: [&str; 2],
) -> std::io::Result<Command> {
    let (scenario, thresholds) = (folder.join(name), folder.join("thresholds.toml"));
    fs::write(&scenario, texts[0])?;
    fs::write(&thresholds, texts[1])?;
    let (records, summary) = (folder.join("records"), folder.join("summary.md"));
    let mut command = Command::new(HARNESS);
    command.arg("ab").arg(scenario).arg("--base-bin").arg(program).arg("--new-bin").arg(program);
    command.arg("--out").arg(records).arg("--markdown").arg(summary);
    command.arg("--thresholds").arg(thresholds);
    Ok(command)
}

/// Compares corecast's bench server with itself; `more` are further arguments.
fn ab(folder: &Path, more: &[&str]) -> Result<Output, Box<dyn Error>> {
    let server = Path::new(HARNESS).with_file_name("examples").join("bench_server");
    let built = "cargo build --example bench_server";
    assert!(server.exists(), "{} is not built: {built}", server.display());
    let cpus = cpus();
    let (first, last) = (cpus[0].to_string(), cpus[cpus.len() - 1].to_string());
    Ok(command(folder, &server, "fanout.toml", [SCENARIO, THRESHOLDS])?
        .args(["--server-cpu", &first, "--client-cpu", &last])
        .args(["--html".as_ref(), folder.join("report.html").as_os_str()])
        .args(more)
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
    // `ab` takes three looks. The one of `compare`, with the false alarms of one of them, sees what
    // the last one saw.
    let thresholds = folder.join("look.toml");
    fs::write(&thresholds, format!("false-alarms = {}\n{THRESHOLDS}", 0.01 / 3.0))?;
    let again = compare(&["--thresholds", thresholds.to_str().ok_or("path")?])?;
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    assert_eq!(text(&again.stdout), found);
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
    let file = |name: &str, text: &str| -> Result<String, Box<dyn Error>> {
        let path = empty.join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let metric = &file("metric.toml", "[metric.p98]\ngate = true")?;
    let phase = &file("phase.toml", "[phase.echoo.p50]\ngate = true")?;
    let gateless = format!("{LAX}[metric.cpu-per-delivery]\ngate = false");
    let gateless = &file("gateless.toml", &gateless)?;
    let empty = empty.to_str().ok_or("path")?;
    // The harness without arguments is no server: these mistakes are found before it is started.
    let itself = ["ab", "--base-bin", HARNESS, "--new-bin", HARNESS, "echo"];
    for (arguments, part) in [
        (&["compare", empty, empty][..], "no records in"),
        (&["compare", "/nowhere/1.json", "/nowhere/2.json"], "read /nowhere/1.json"),
        (&["compare", empty, empty, "--thresholds", metric], "p98"),
        (&["ab", "--base-bin", "/nowhere/a", "--new-bin", HARNESS, "echo"], "build it first"),
        (&["ab", "--base-bin", HARNESS, "--new-bin", HARNESS, "/nowhere.toml"], "/nowhere.toml"),
        (&[&itself[..], &["--thresholds", phase]].concat(), "a phase echoo; the scenario has"),
        (&[&itself[..], &["--thresholds", gateless]].concat(), "nothing gates"),
    ] {
        let output = Command::new(HARNESS).args(arguments).current_dir(empty).output()?;
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    Ok(())
}

#[test]
fn a_build_named_without_its_folder_is_the_file_in_this_one() -> Result<(), Box<dyn Error>> {
    let folder = folder("ab-bare")?;
    for name in ["base-server", "new-server"] {
        let path = folder.join(name);
        fs::write(&path, "#!/bin/sh\nexit 3\n")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let output = Command::new(HARNESS)
        .args(["ab", "--base-bin", "base-server", "--new-bin", "new-server", "echo"])
        .current_dir(&folder)
        .output()?;
    let error = text(&output.stderr);
    assert!(error.contains("base-server ended (exit status: 3)"), "{error}");
    Ok(())
}

/// Compares the floor with itself, and interrupts that as soon as `record` is there.
fn interrupted(folder: &Path, record: &str) -> Result<Output, Box<dyn Error>> {
    let mut child = command(folder, Path::new(HARNESS), "short.toml", [SHORT, LAX])?
        .args(["--args", "floor --listen {address}", "--rounds", "99", "--max-rounds", "99"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let record = folder.join("records").join(record);
    while !record.exists() && child.try_wait()?.is_none() {
        std::thread::sleep(Duration::from_millis(10));
    }
    signal(child.id(), "INT")?;
    Ok(child.wait_with_output()?)
}

#[test]
fn an_interruption_gives_the_verdict_of_the_complete_rounds() -> Result<(), Box<dyn Error>> {
    let folder = folder("ab-interrupted")?;
    // In even rounds the base comes second.
    let output = interrupted(&folder, "base/6.json")?;
    let (found, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(130), "{found}\n{error}");
    assert!(found.contains("\ninterrupted after ") && !found.contains("too few"), "{found}");
    assert!(error.contains("interrupted; `compare "), "{error}");
    let summary = fs::read_to_string(folder.join("summary.md"))?;
    assert!(summary.contains(" short: interrupted after "), "{summary}");
    Ok(())
}

#[test]
fn an_interruption_after_few_rounds_gives_what_is_there() -> Result<(), Box<dyn Error>> {
    let folder = folder("ab-few")?;
    let output = interrupted(&folder, "base/2.json")?;
    let (found, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(130), "{found}\n{error}");
    assert!(found.contains("echo: CPU per delivery"), "{found}");
    assert!(found.contains("no verdict: ") && found.contains("rounds are too few"), "{found}");
    assert!(error.contains("takes 6 rounds"), "{error}");
    Ok(())
}

#[test]
fn an_interruption_of_the_first_round_leaves_nothing_to_judge() -> Result<(), Box<dyn Error>> {
    let folder = folder("ab-first")?;
    let output = interrupted(&folder, "base/1.json")?;
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{error}");
    assert!(error.contains("interrupted before the first round was complete"), "{error}");
    assert!(!folder.join("summary.md").exists());
    Ok(())
}
