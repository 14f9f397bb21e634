//! What is packaged: the Debian package, the unit of systemd, the seccomp profile, and the script
//! that prepares a machine.

use std::path::Path;
use std::process::{Command, Output};

use super::rig::Folder;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn run(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program);
    command.current_dir(ROOT).args(arguments).envs(variables.iter().copied());
    command.output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn good(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = run(program, arguments, variables);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Whether a tool is there. What is no part of every Linux is used where it is.
fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

#[test]
fn the_package_has_what_it_says_and_can_be_installed() {
    if !has("dpkg-deb") {
        return;
    }
    let folder = Folder::new();
    let binary = env!("CARGO_BIN_EXE_corecast");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let package = good("scripts/deb.sh", &["--binary", binary, "--output", &path("out")], &[]);
    let package = package.trim();
    let about = good("dpkg-deb", &["-I", package], &[]);
    let version = env!("CARGO_PKG_VERSION");
    for line in ["Package: corecast", &format!("Version: {version}"), "Depends: libc6"] {
        assert!(about.contains(line), "{line}\n{about}");
    }
    let listed = good("dpkg-deb", &["-c", package], &[]);
    for (mode, path) in [
        ("-rwxr-xr-x root/root", "./usr/bin/corecast"),
        ("-rw-r--r-- root/root", "./usr/lib/systemd/system/corecast.service"),
        ("-rw-r--r-- root/root", "./etc/corecast/corecast.toml"),
        ("-rw-r--r-- root/root", "./usr/share/doc/corecast/copyright"),
    ] {
        let is_there = |line: &str| line.starts_with(mode) && line.ends_with(path);
        assert!(listed.lines().any(is_there), "{mode} {path}\n{listed}");
    }
    // Installed as dpkg does, below a root of its own, where nothing else is.
    let root = path("root");
    std::fs::create_dir_all(format!("{root}/var/lib/dpkg/info")).expect("a folder");
    std::fs::create_dir_all(format!("{root}/var/lib/dpkg/updates")).expect("a folder");
    std::fs::write(format!("{root}/var/lib/dpkg/status"), "").expect("a file");
    let rooted = format!("--root={root}");
    let forced = ["--force-not-root", "--force-depends", "--force-script-chrootless"];
    let mut arguments = vec![rooted.as_str()];
    arguments.extend(forced);
    arguments.extend(["--log=/dev/null", "--install", package]);
    good("dpkg", &arguments, &[]);
    let installed = format!("{root}/usr/bin/corecast");
    assert!(good(&installed, &["--version"], &[]).contains(version));
    let file = format!("{root}/etc/corecast/corecast.toml");
    good(&installed, &["config", "check", "--config", &file], &[]);
    let conffiles = good("dpkg", &[&rooted, "--status", "corecast"], &[]);
    assert!(conffiles.contains("/etc/corecast/corecast.toml"), "{conffiles}");
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let unit =
        std::fs::read_to_string(format!("{ROOT}/packaging/corecast.service")).expect("a unit");
    for line in [
        "Type=notify",
        "LimitNOFILE=1048576",
        "LimitMEMLOCK=8M",
        "NoNewPrivileges=yes",
        "User=corecast",
    ] {
        assert!(unit.lines().any(|there| there == line), "{line}");
    }
    // A user that comes and goes could be given no file to read.
    assert!(!unit.contains("DynamicUser"));
    let script = std::fs::read_to_string(format!("{ROOT}/packaging/deb/postinst")).expect("it");
    assert!(script.contains("useradd --system") && script.contains("chmod 640"), "{script}");
    // A file with a mistake fails the reload, rather than that nobody hears of it.
    let reload: Vec<&str> =
        unit.lines().filter_map(|line| line.strip_prefix("ExecReload=")).collect();
    assert!(matches!(reload[..], [check, kill]
        if check.contains("config check") && kill.ends_with("-HUP $MAINPID")));
    if !has("systemd-analyze") {
        return;
    }
    let folder = Folder::new();
    let unit = unit.replace("/usr/bin/corecast", env!("CARGO_BIN_EXE_corecast"));
    let unit = folder.write("corecast.service", &unit).display().to_string();
    let output =
        run("systemd-analyze", &["verify", "--man=no", "--recursive-errors=no", &unit], &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    let about: Vec<&str> = said.lines().filter(|line| line.contains("corecast.service")).collect();
    assert!(output.status.success() && about.is_empty(), "{said}");
}

#[test]
fn the_seccomp_profile_allows_io_uring_and_little_else() {
    let text = std::fs::read_to_string(format!("{ROOT}/packaging/seccomp.json")).expect("a file");
    let profile: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let allowed: Vec<&str> = profile["syscalls"]
        .as_array()
        .expect("rules")
        .iter()
        .filter(|rule| rule["action"] == "SCMP_ACT_ALLOW")
        .flat_map(|rule| rule["names"].as_array().expect("names"))
        .filter_map(|name| name.as_str())
        .collect();
    for name in ["io_uring_setup", "io_uring_enter", "io_uring_register", "eventfd2", "membarrier"]
    {
        assert!(allowed.contains(&name), "{name}");
    }
    for name in ["mount", "ptrace", "bpf", "unshare", "setns", "keyctl", "init_module", "reboot"] {
        assert!(!allowed.contains(&name), "{name}");
    }
}

#[test]
fn the_image_does_not_run_as_root() {
    let text = std::fs::read_to_string(format!("{ROOT}/packaging/Dockerfile")).expect("a file");
    let last_stage = text.rsplit("\nFROM ").next().expect("a stage");
    for line in ["USER corecast", "STOPSIGNAL SIGTERM", "ENTRYPOINT [\"corecast\"]"] {
        assert!(last_stage.lines().any(|there| there == line), "{line}");
    }
    assert!(last_stage.contains("HEALTHCHECK"));
    // What is copied from the source has to be there.
    for line in last_stage.lines().filter(|line| line.starts_with("COPY packaging/")) {
        let file = line.split(' ').nth(1).expect("a file");
        assert!(Path::new(ROOT).join(file).is_file(), "{file}");
    }
}

#[test]
fn the_image_is_not_built_of_what_lies_around() {
    let text = std::fs::read_to_string(format!("{ROOT}/packaging/Dockerfile.dockerignore"));
    let text = text.expect("it stands beside the Dockerfile");
    let ignored: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for line in [".git", "**/target", "**/node_modules", "artifacts"] {
        assert!(ignored.contains(&line), "{line}");
    }
    // What the build needs is sent.
    for part in ["src", "vendor", "Cargo", "packaging", "demo", "docs"] {
        assert!(!ignored.iter().any(|line| line.starts_with(part)), "{part}");
    }
}

#[test]
fn the_script_of_doctor_can_be_run_again() {
    let folder = Folder::new();
    let corecast = env!("CARGO_BIN_EXE_corecast");
    let arguments = ["doctor", "--fix-script", "--connections", "50000"];
    let script = folder.write("fix.sh", &good(corecast, &arguments, &[])).display().to_string();
    good("bash", &["-n", &script], &[]);
    if has("shellcheck") {
        good("shellcheck", &[&script], &[]);
    }
    let root = folder.path().join("root").display().to_string();
    let run = |arguments: &[&str]| {
        let all: Vec<&str> = [script.as_str()].iter().chain(arguments).copied().collect();
        good("sh", &all, &[("ROOT", &root)])
    };
    assert!(run(&["--dry-run"]).contains("nothing was changed"));
    assert!(!Path::new(&root).exists(), "a dry run writes nothing");
    let first = run(&[]);
    let limits = format!("{root}/etc/security/limits.d/90-corecast.conf");
    let settings = format!("{root}/etc/sysctl.d/90-corecast.conf");
    assert!(first.contains(&format!("{limits}: is written")), "{first}");
    let read = |path: &str| std::fs::read_to_string(path).expect("it was written");
    let (limits_text, settings_text) = (read(&limits), read(&settings));
    assert!(limits_text.contains("* hard nofile 54096"), "{limits_text}");
    assert!(settings_text.contains("net.core.somaxconn = "), "{settings_text}");
    // What is higher already stays so.
    let lowered = "ulimit -S -n 64; ulimit -H -n 64; sh \"$0\"";
    good("sh", &["-c", lowered, &script], &[("ROOT", &root)]);
    assert_eq!(read(&limits), limits_text, "64 is less than what is wanted");
    let few = good(corecast, &["doctor", "--fix-script", "--connections", "10"], &[]);
    let few = folder.write("few.sh", &few).display().to_string();
    good("sh", &["-c", "ulimit -S -n 64; ulimit -H -n 9000; sh \"$0\"", &few], &[("ROOT", &root)]);
    assert!(read(&limits).contains("* hard nofile 9000"), "{}", read(&limits));
    assert!(read(&limits).contains("* soft nofile 4106"), "{}", read(&limits));
    run(&[]);
    let second = run(&[]);
    assert!(second.contains(&format!("{limits}: is right")), "{second}");
    assert!(second.contains(&format!("{settings}: is right")), "{second}");
    assert_eq!((read(&limits), read(&settings)), (limits_text, settings_text));
}
