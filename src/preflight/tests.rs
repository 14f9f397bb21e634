//! Every check is made to fail from texts; one test looks at the machine it runs on.

use std::net::{Ipv4Addr, TcpListener};

use super::*;

/// A process without capabilities under no filter.
const PLAIN: &str = "Name:\tcorecast\nCapEff:\t0000000000000000\nSeccomp:\t0\n";
const FILTERED: &str = "Name:\tcorecast\nCapEff:\t0000000000000000\nSeccomp:\t2\n";
const ROOT: &str = "Name:\tcorecast\nCapEff:\t000001fffeffffff\nSeccomp:\t2\n";

fn sysctls(disabled: &str) -> Sysctls {
    Sysctls { disabled: disabled.into(), group: "-1\n".into() }
}

fn refused(errno: i32, disabled: &str, status: &str) -> Check {
    check_ring(&Trial::Refused { step: "io_uring_setup", errno }, &sysctls(disabled), status)
}

#[track_caller]
fn expect(check: &Check, status: Status, found: &str, fix: &str) {
    assert_eq!(check.status, status, "{check:?}");
    assert!(check.found.contains(found), "{check:?}");
    assert!(check.fix.as_deref().unwrap_or("").contains(fix), "{check:?}");
}

#[test]
fn kernels() {
    for new in ["6.1.0-31-amd64\n", "6.18.44-cloud", "7.0-rc1", "10.2"] {
        assert_eq!(check_kernel(new).status, Status::Ok, "{new}");
    }
    for old in ["6.0.19", "5.15.0-1053-aws", "4.18.0-553.el8.x86_64"] {
        expect(&check_kernel(old), Status::Failed, "older than 6.1", "boot Linux 6.1");
    }
    assert_eq!(check_kernel("").status, Status::Warning);
}

#[test]
fn a_ring_that_works() {
    let check = check_ring(&Trial::Works { missing: vec![] }, &sysctls("0"), PLAIN);
    assert_eq!(check.status, Status::Ok);
    let check = check_ring(&Trial::Works { missing: vec!["RECV", "SEND"] }, &sysctls("0"), PLAIN);
    expect(&check, Status::Failed, "RECV, SEND", "6.1");
}

#[test]
fn each_cause_of_a_refused_ring_is_named() {
    let mend = "sysctl -w kernel.io_uring_disabled=0";
    expect(&refused(libc::EPERM, "2\n", ROOT), Status::Failed, "io_uring_disabled=2", mend);
    expect(&refused(libc::EPERM, "1\n", PLAIN), Status::Failed, "io_uring_group=-1", mend);
    expect(&refused(libc::EPERM, "1\n", ROOT), Status::Failed, "seccomp", "--security-opt");
    expect(&refused(libc::EPERM, "0\n", FILTERED), Status::Failed, "seccomp", "io_uring_enter");
    expect(&refused(libc::ENOSYS, "", FILTERED), Status::Failed, "seccomp", "seccomp=unconfined");
    expect(&refused(libc::ENOSYS, "", PLAIN), Status::Failed, "without it", "CONFIG_IO_URING=y");
    expect(&refused(libc::EPERM, "0", PLAIN), Status::Failed, "security module", "dmesg");
    expect(&refused(libc::EINVAL, "0", PLAIN), Status::Failed, "cooperative task work", "6.1");
    expect(&refused(libc::EMFILE, "0", PLAIN), Status::Failed, "file descriptor", "ulimit -n");
    expect(&refused(libc::ENOMEM, "0", PLAIN), Status::Failed, "no memory", "ulimit -l");
    expect(&refused(libc::EIO, "0", PLAIN), Status::Failed, "io_uring_setup", "strace");
}

#[test]
fn locked_memory() {
    expect(&check_memlock(65_536), Status::Failed, "64.0 KiB", "--memlock=8388608:8388608");
    assert_eq!(check_memlock(524_288).status, Status::Ok);
    expect(&check_memlock(rlimit::INFINITY), Status::Ok, "unlimited", "");
}

#[test]
fn open_files() {
    let nr_open = Some(1_048_576);
    let check = check_nofile((1_024, 524_288), nr_open, 2, None);
    expect(&check, Status::Ok, "soft limit is raised", "");
    let check = check_nofile((1_024, 1_024), nr_open, 2, None);
    expect(&check, Status::Warning, "room for 928 connections", "LimitNOFILE=65536");
    let check = check_nofile((1_024, 20_000), nr_open, 2, Some(20_000));
    expect(&check, Status::Failed, "20,000 connections need 20,096", "--nofile=20096:20096");
    let check = check_nofile((1_024, 20_000), nr_open, 1, Some(2_000_000));
    expect(&check, Status::Failed, "limit of 20,000", "sysctl -w fs.nr_open=2000080 && sudo prl");
    let check = check_nofile((64, 64), nr_open, 2, None);
    expect(&check, Status::Failed, "the shards alone need 96", "--nofile=65536:65536");
    let unlimited = (rlimit::INFINITY, rlimit::INFINITY);
    assert_eq!(check_nofile(unlimited, nr_open, 1, Some(100)).status, Status::Ok);
}

#[test]
fn cpus() {
    let (online, allowed) = ([0, 1, 2, 3], [0, 1]);
    expect(&check_cpus(&[0, 1], &online, &allowed, None), Status::Ok, "0-1 of 0-1", "");
    let check = check_cpus(&[7], &online, &allowed, None);
    expect(&check, Status::Failed, "CPU 7 does not exist; this machine has 0-3", "--cpus 0-1");
    let check = check_cpus(&[0, 3], &online, &allowed, None);
    expect(&check, Status::Failed, "CPU 3 is not allowed", "--cpus 0-1");
    let check = check_cpus(&[1, 1], &online, &allowed, None);
    expect(&check, Status::Failed, "CPU 1 is given twice", "--cpus 1");
    let check = check_cpus(&[0, 1], &online, &allowed, Some(1.5));
    expect(&check, Status::Warning, "quota of 1.5 CPUs", "--cpus 0");
    assert_eq!(check_cpus(&[0], &[], &[], None).status, Status::Ok);
}

#[test]
fn memory() {
    let gib = 1 << 30;
    let check = check_memory(Some(8 * gib), None, 4 << 20, Some(100_000));
    expect(&check, Status::Ok, "8.0 GiB available, no cgroup limit", "");
    let check = check_memory(Some(8 * gib), Some(gib as f64), 4 << 20, Some(1_000_000));
    expect(&check, Status::Warning, "1.0 GiB usable", "more memory");
    expect(&check_memory(None, Some(gib as f64), 0, None), Status::Ok, "memory.max is 1.0", "");
}

#[test]
fn ports() {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    let judge = |kind: io::ErrorKind| judge_port(address, Some(&kind.into()), None);
    assert_eq!(judge_port(address, None, None).status, Status::Ok);
    expect(&judge(io::ErrorKind::AddrInUse), Status::Failed, "in use", "ss -ltnp 'sport = :80'");
    let check = judge(io::ErrorKind::PermissionDenied);
    expect(&check, Status::Failed, "may not", "ip_unprivileged_port_start=80");
    let check = judge(io::ErrorKind::AddrNotAvailable);
    expect(&check, Status::Failed, "does not have the address", "0.0.0.0:80");
    let check = judge(io::ErrorKind::InvalidInput);
    expect(&check, Status::Failed, "127.0.0.1:80", "another address");
}

#[test]
fn a_listener_is_found_and_named() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
    let address = listener.local_addr().expect("bound");
    let request = Request { listen: vec![address], ..Request::default() };
    let checks = run(&request);
    let check = checks.iter().find(|check| check.name == "port").expect("is listed");
    let owner = format!("in use by pid {} (", std::process::id());
    expect(check, Status::Failed, &owner, "another port");
    drop(listener);
    assert_eq!(check_port(address).status, Status::Ok);
}

#[test]
fn inodes_of_listeners() {
    let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n\
        0: 0100007F:0BB8 0100007F:D431 01 00000000:00000000 00:00000000 00000000  0 0 41 1\n\
        1: 00000000:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 42 1\n\
        2: broken\n";
    assert_eq!(socket_inode(table, 3_000), Some(42));
    assert_eq!(socket_inode(table, 3_001), None);
    assert_eq!(socket_inode("", 3_000), None);
}

#[test]
fn sysctls_warn_with_the_command() {
    let name = "net.core.somaxconn";
    assert_eq!(at_least(name, "4096\n", 4_096, "the backlog").status, Status::Ok);
    let check = at_least(name, "128\n", 4_096, "the backlog");
    expect(&check, Status::Warning, "128, below the backlog: 4,096", "net.core.somaxconn=4096");
    assert_eq!(at_least(name, "", 4_096, "the backlog").status, Status::Ok);

    let memory = "287898\t383867\t575796\n";
    assert_eq!(check_tcp_mem(memory, 100_000).status, Status::Ok);
    let fix = "tcp_mem='287898 1000000 2000000'";
    expect(&check_tcp_mem(memory, 1_000_000), Status::Warning, "383,867 pages", fix);
    assert_eq!(check_tcp_mem("", 1_000_000).status, Status::Ok);

    let range = "32768\t60999\n";
    assert_eq!(check_ports(range, 20_000).status, Status::Ok);
    let fix = "ip_local_port_range='1024 65535'";
    expect(&check_ports(range, 100_000), Status::Warning, "need 4 source addresses", fix);
    assert_eq!(check_ports("1024 65535", 100_000).status, Status::Ok);
}

#[test]
fn sysctls_of_a_load_generator() {
    let request = Request { connections: Some(1_000), load_generator: true, ..Request::default() };
    let names: Vec<_> = check_sysctls(&request).iter().map(|check| check.name).collect();
    assert!(names.contains(&"net.ipv4.ip_local_port_range"), "{names:?}");
    assert!(names.contains(&"net.ipv4.tcp_mem"), "{names:?}");
}

#[test]
fn lists_and_numbers() {
    assert_eq!(parse_list("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
    assert_eq!(parse_list(""), [] as [usize; 0]);
    assert_eq!(ranges(&[11, 8, 0, 1, 2, 3, 10]), "0-3,8,10-11");
    assert_eq!(parse_release("6.18.44"), Some((6, 18)));
    assert_eq!(parse_release("unknown"), None);
    assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
    assert_eq!(parse_cpu_max("max 100000\n"), None);
    assert_eq!(parse_available("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2_097_152));
    assert_eq!(cgroup_folder("9:name=x:/\n0::/a/b\n").as_deref(), Some("/sys/fs/cgroup/a/b"));
    assert_eq!(cgroup_folder("0::/\n").as_deref(), Some("/sys/fs/cgroup"));
    assert_eq!(cgroup_folder("4:memory:/x\n"), None);
    assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    assert_eq!([12, 2_048, 3 << 29].map(bytes), ["12 B", "2.0 KiB", "1.5 GiB"]);
}

#[test]
fn the_first_failure_is_one_line_with_its_fix() {
    let checks = [
        Check::ok("kernel", "6.18"),
        Check::warning("memory", "little", "buy"),
        Check::failed("cpus", "CPU 9 does not exist", "corecast serve --cpus 0"),
        Check::failed("port", "in use", "kill"),
    ];
    let line = first_failure(&checks).expect("two failed");
    assert_eq!(line, "cpus: CPU 9 does not exist; to fix it: corecast serve --cpus 0");
    assert_eq!(first_failure(&checks[..2]), None);
}

#[test]
fn the_report_is_aligned() {
    let checks = [
        Check::ok("kernel", "6.18"),
        Check::warning("net.core.somaxconn", "128", "sudo sysctl -w net.core.somaxconn=4096"),
        Check::failed("port", "127.0.0.1:80 is in use", "stop that process"),
    ];
    let mut out = Vec::new();
    render(&checks, &mut out).expect("a vector takes it");
    let expected = "\
ok       kernel              6.18
WARNING  net.core.somaxconn  128
           fix: sudo sysctl -w net.core.somaxconn=4096
FAILED   port                127.0.0.1:80 is in use
           fix: stop that process

this machine cannot run corecast yet: 1 failed, warnings: 1
";
    assert_eq!(String::from_utf8(out).expect("text"), expected);
    let mut out = Vec::new();
    render(&checks[..1], &mut out).expect("a vector takes it");
    assert!(String::from_utf8(out).expect("text").ends_with("\n\nthis machine is ready\n"));
}

#[test]
fn the_limit_of_open_files_is_raised() {
    let limit = raise_nofile();
    let (soft, hard) = rlimit::Resource::NOFILE.get().expect("is always known");
    assert_eq!((soft, limit), (hard, hard));
}

/// Whatever machine this is: all checks report, and what failed says how to mend it.
#[test]
fn this_machine() {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let request = Request { connections: Some(100), listen: vec![any_port], ..Request::default() };
    let checks = run(&request);
    let mut report = Vec::new();
    render(&checks, &mut report).expect("a vector takes it");
    eprintln!("{}", String::from_utf8(report).expect("text"));
    for name in ["kernel", "io_uring", "locked memory", "open files", "cpus", "memory"] {
        let check = checks.iter().find(|check| check.name == name).expect(name);
        assert!(check.status == Status::Ok || check.fix.is_some(), "{check:?}");
    }
    let failed = checks.iter().any(|check| check.status == Status::Failed);
    assert_eq!(require(&request).is_err(), failed);
    let nowhere = Request { cpus: vec![1 << 20], ..Request::default() };
    let error = require(&nowhere).expect_err("no machine has that CPU").to_string();
    assert!(error.contains("; to fix it: ") && !error.contains('\n'), "{error}");
}
