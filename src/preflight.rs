//! Whether this machine can run a shard, found out before an executor is started.
//!
//! glommio prints a joke and exits on an old kernel and panics where io_uring is forbidden; here
//! the same is a line that names the cause and the command that changes it. `run` gathers what
//! the system says (`/proc`, `/sys`, a trial ring, a trial bind) and hands the texts to pure
//! functions, one per check, so that every failure can be tested on a healthy machine. Nothing
//! here changes the machine, except [`raise_nofile`] for this process.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;

use io_uring::{IoUring, Probe, opcode};
use socket2::{Domain, Protocol, Socket, Type};

use crate::error::Error;
use crate::options::Options;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Nothing to do.
    Ok,
    /// The server runs, with less than was asked for or less than is usual.
    Warning,
    /// The server cannot run.
    Failed,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Status::Ok => "ok",
            Status::Warning => "WARNING",
            Status::Failed => "FAILED",
        })
    }
}

/// One property of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at: a short noun, or the name of a sysctl.
    pub name: &'static str,
    /// Whether it is good enough.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// The command that fixes it, or the change to make where no command can.
    pub fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, status: Status::Ok, found: found.into(), fix: None }
    }

    fn warning(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Check {
        Check { name, status: Status::Warning, found: found.into(), fix: Some(fix.into()) }
    }

    fn failed(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Check {
        Check { name, status: Status::Failed, found: found.into(), fix: Some(fix.into()) }
    }
}

/// What the machine shall be able to do.
#[derive(Debug, Clone)]
pub struct Request {
    /// CPUs that get a shard each; empty means every CPU this process may use.
    pub cpus: Vec<usize>,
    /// Addresses to listen on; port 0 is always free and not tried.
    pub listen: Vec<SocketAddr>,
    /// Connections wanted over all shards; `None` checks for no number.
    pub connections: Option<usize>,
    /// Receive buffers per shard, of [`RECEIVE_BUFFER_BYTES`] each.
    pub receive_buffers: u16,
    /// Queue of connections not yet accepted, per shard.
    pub backlog: u32,
    /// Also check what a program needs that opens the connections, as a load generator does.
    pub load_generator: bool,
}

impl Default for Request {
    fn default() -> Request {
        Request::new(&Options::default(), Vec::new())
    }
}

impl Request {
    /// What a server with `options` needs in order to listen on `listen`.
    pub fn new(options: &Options, listen: Vec<SocketAddr>) -> Request {
        Request {
            cpus: options.cpus.clone(),
            listen,
            connections: None,
            receive_buffers: options.receive_buffers,
            backlog: options.backlog,
            load_generator: false,
        }
    }
}

/// Size of one receive buffer, bytes.
pub const RECEIVE_BUFFER_BYTES: u64 = 2_048;
/// User and kernel memory of one idle websocket connection, bytes: 512 of ours and one socket.
const CONNECTION_BYTES: u64 = 512 + 4_096;
/// Descriptors of a shard besides its connections: four rings, eventfds, listeners.
const SHARD_FDS: u64 = 16;
/// Descriptors of the process besides its shards: standard streams, signals, files, other threads.
const PROCESS_FDS: u64 = 64;
/// The oldest kernel with single-issuer rings and multishot receive with deferred work.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// glommio refuses to start with a smaller RLIMIT_MEMLOCK.
const MEMLOCK_MIN: u64 = 512 * 1024;
/// RLIMIT_NOFILE below this is reported even if no number of connections is wanted.
const NOFILE_USUAL: u64 = 4_096;

/// The CPUs that this process may use, in order.
pub fn allowed_cpus() -> Vec<usize> {
    parse_list(field(&read("/proc/self/status"), "Cpus_allowed_list:").unwrap_or(""))
}

/// Looks at everything, in the order of what to mend first.
pub fn run(request: &Request) -> Vec<Check> {
    let status = read("/proc/self/status");
    let allowed = parse_list(field(&status, "Cpus_allowed_list:").unwrap_or(""));
    let cpus = if request.cpus.is_empty() { allowed.clone() } else { request.cpus.clone() };
    let shards = cpus.len() as u64;
    let files = rlimit::Resource::NOFILE.get().unwrap_or((0, 0));
    let locked = rlimit::Resource::MEMLOCK.get().unwrap_or((0, 0)).0;
    let sysctls = Sysctls {
        disabled: read("/proc/sys/kernel/io_uring_disabled"),
        group: read("/proc/sys/kernel/io_uring_group"),
    };
    let cgroup = cgroup_folder(&read("/proc/self/cgroup"));
    let online = parse_list(&read("/sys/devices/system/cpu/online"));
    // On a thread of its own: a ring's end interrupts the next system call of the one that had it.
    let trial =
        std::thread::spawn(try_ring).join().unwrap_or(Trial::Refused { step: "thread", errno: 0 });
    let mut checks = vec![
        check_kernel(&read("/proc/sys/kernel/osrelease")),
        check_ring(&trial, &sysctls, &status),
        check_memlock(locked),
        check_nofile(files, number(&read("/proc/sys/fs/nr_open")), shards, request.connections),
        check_cpus(&cpus, &online, &allowed, least(&cgroup, "cpu.max", parse_cpu_max)),
        check_memory(
            parse_available(&read("/proc/meminfo")),
            least(&cgroup, "memory.max", |text| number(text).map(|bytes| bytes as f64)),
            shards * u64::from(request.receive_buffers) * RECEIVE_BUFFER_BYTES,
            request.connections,
        ),
    ];
    checks.extend(request.listen.iter().filter(|at| at.port() != 0).map(|at| check_port(*at)));
    checks.extend(check_sysctls(request));
    checks
}

/// Nothing if the machine can run the server, else one line: the first failed check and its fix.
///
/// # Errors
/// [`Error::Preflight`].
pub fn require(request: &Request) -> Result<(), Error> {
    first_failure(&run(request)).map_or(Ok(()), |line| Err(Error::Preflight(line)))
}

fn first_failure(checks: &[Check]) -> Option<String> {
    let check = checks.iter().find(|check| check.status == Status::Failed)?;
    let fix = check.fix.as_deref().map(|fix| format!("; to fix it: {fix}")).unwrap_or_default();
    Some(format!("{}: {}{fix}", check.name, check.found))
}

/// Raises this process's soft limit of open files to the hard one; returns the limit then in force.
pub fn raise_nofile() -> u64 {
    rlimit::increase_nofile_limit(rlimit::INFINITY)
        .or_else(|_| rlimit::Resource::NOFILE.get_soft())
        .unwrap_or(0)
}

/// Writes `checks` for a person: one line each, fixes indented below, a closing line.
///
/// # Errors
/// Those of `out`.
pub fn render(checks: &[Check], out: &mut impl Write) -> io::Result<()> {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for check in checks {
        writeln!(out, "{:<8} {:<width$}  {}", check.status, check.name, check.found)?;
        if let Some(fix) = &check.fix {
            writeln!(out, "{:<8}   fix: {fix}", "")?;
        }
    }
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    let summary = match (count(Status::Failed), count(Status::Warning)) {
        (0, 0) => "this machine is ready".to_string(),
        (0, 1) => "this machine can run corecast; 1 warning".to_string(),
        (0, warnings) => format!("this machine can run corecast; {warnings} warnings"),
        (failed, warnings) => {
            format!("this machine cannot run corecast yet: {failed} failed, warnings: {warnings}")
        }
    };
    writeln!(out, "\n{summary}")
}

// The checks. Each takes what the system said and decides; none reads anything itself, except
// check_port and check_sysctls, which only collect.

fn check_kernel(osrelease: &str) -> Check {
    const NAME: &str = "kernel";
    let release = osrelease.trim();
    let (major, minor) = KERNEL_MIN;
    match parse_release(release) {
        Some(version) if version >= KERNEL_MIN => Check::ok(NAME, release),
        Some(_) => Check::failed(
            NAME,
            format!("{release} is older than {major}.{minor}"),
            format!("boot Linux {major}.{minor} or later (Debian 12, Ubuntu 24.04, RHEL 10)"),
        ),
        None => Check {
            name: NAME,
            status: Status::Warning,
            found: format!("cannot tell the version from {release:?}"),
            fix: None,
        },
    }
}

/// What `kernel.io_uring_*` say; empty before Linux 6.6.
#[derive(Debug, Default)]
struct Sysctls {
    disabled: String,
    group: String,
}

/// How a trial ring ended: set up, with the operations it lacks, or refused at a step.
#[derive(Debug)]
enum Trial {
    Works { missing: Vec<&'static str> },
    Refused { step: &'static str, errno: i32 },
}

/// Operations that the data ring or glommio's rings submit.
const OPERATIONS: [(&str, u8); 23] = [
    ("NOP", opcode::Nop::CODE),
    ("READV", opcode::Readv::CODE),
    ("WRITEV", opcode::Writev::CODE),
    ("FSYNC", opcode::Fsync::CODE),
    ("READ_FIXED", opcode::ReadFixed::CODE),
    ("WRITE_FIXED", opcode::WriteFixed::CODE),
    ("POLL_ADD", opcode::PollAdd::CODE),
    ("POLL_REMOVE", opcode::PollRemove::CODE),
    ("SENDMSG", opcode::SendMsg::CODE),
    ("RECVMSG", opcode::RecvMsg::CODE),
    ("TIMEOUT", opcode::Timeout::CODE),
    ("TIMEOUT_REMOVE", opcode::TimeoutRemove::CODE),
    ("ACCEPT", opcode::Accept::CODE),
    ("LINK_TIMEOUT", opcode::LinkTimeout::CODE),
    ("CONNECT", opcode::Connect::CODE),
    ("FALLOCATE", opcode::Fallocate::CODE),
    ("OPENAT", opcode::OpenAt::CODE),
    ("CLOSE", opcode::Close::CODE),
    ("STATX", opcode::Statx::CODE),
    ("READ", opcode::Read::CODE),
    ("WRITE", opcode::Write::CODE),
    ("SEND", opcode::Send::CODE),
    ("RECV", opcode::Recv::CODE),
];

/// Sets up a small ring as a shard does, enters it once and asks for its operations.
fn try_ring() -> Trial {
    let refused = |step| {
        move |error: io::Error| Trial::Refused { step, errno: error.raw_os_error().unwrap_or(0) }
    };
    let ring = IoUring::builder().setup_single_issuer().setup_coop_taskrun().build(8);
    let ring: IoUring = match ring.map_err(refused("io_uring_setup")) {
        Ok(ring) => ring,
        Err(trial) => return trial,
    };
    if let Err(trial) = ring.submit().map_err(refused("io_uring_enter")) {
        return trial;
    }
    let mut probe = Probe::new();
    if let Err(error) = ring.submitter().register_probe(&mut probe) {
        return refused("io_uring_register")(error);
    }
    let missing = OPERATIONS.iter().filter(|(_, code)| !probe.is_supported(*code));
    Trial::Works { missing: missing.map(|(name, _)| *name).collect() }
}

fn check_ring(trial: &Trial, sysctls: &Sysctls, status: &str) -> Check {
    const NAME: &str = "io_uring";
    match trial {
        Trial::Works { missing } if missing.is_empty() => {
            Check::ok(NAME, "available, with single issuer and cooperative task work")
        }
        Trial::Works { missing } => Check::failed(
            NAME,
            format!("lacks {}", missing.join(", ")),
            "boot Linux 6.1 or later, or run outside the sandbox that restricts io_uring",
        ),
        Trial::Refused { step, errno } => {
            let (cause, fix) = explain_refusal(step, *errno, sysctls, status);
            Check::failed(NAME, cause, fix)
        }
    }
}

/// Why `step` failed with `errno`, and what to do, judged by the sysctls and `/proc/self/status`.
fn explain_refusal(
    step: &str,
    errno: i32,
    sysctls: &Sysctls,
    status: &str,
) -> (String, &'static str) {
    const SYSCTL: &str = "sudo sysctl -w kernel.io_uring_disabled=0";
    const SECCOMP: &str = "run the container with --security-opt seccomp=unconfined, or with a \
        profile that allows io_uring_setup, io_uring_enter and io_uring_register";
    let filtered = field(status, "Seccomp:") == Some("2");
    let group = sysctls.group.trim();
    match (errno, sysctls.disabled.trim()) {
        (libc::EPERM, "2") => ("kernel.io_uring_disabled=2 forbids it to everybody".into(), SYSCTL),
        (libc::EPERM, "1") if !has_sys_admin(status) => (
            format!(
                "kernel.io_uring_disabled=1 leaves it to CAP_SYS_ADMIN and to the group of \
                 kernel.io_uring_group={group}"
            ),
            SYSCTL,
        ),
        (libc::EPERM | libc::EACCES | libc::ENOSYS, _) if filtered => {
            (format!("a seccomp filter forbids {step}"), SECCOMP)
        }
        (libc::ENOSYS, _) => (
            "this kernel was built without it".into(),
            "boot a kernel with CONFIG_IO_URING=y (see /boot/config-$(uname -r))",
        ),
        (libc::EPERM | libc::EACCES, _) => (
            format!("a security module (SELinux, AppArmor) forbids {step}"),
            "allow io_uring in its policy; sudo dmesg | grep -i denied shows the rule",
        ),
        (libc::EINVAL, _) => (
            "the kernel does not know single issuer or cooperative task work".into(),
            "boot Linux 6.1 or later",
        ),
        (libc::EMFILE | libc::ENFILE, _) => {
            ("no file descriptor is left for a ring".into(), "ulimit -n 65536")
        }
        (libc::ENOMEM, _) => (
            format!("{step} got no memory"),
            "give the process more memory (container limit, ulimit -l)",
        ),
        _ => (
            format!("{step}: {}", io::Error::from_raw_os_error(errno)),
            "strace -f -e trace=io_uring_setup,io_uring_enter,io_uring_register corecast doctor",
        ),
    }
}

/// Whether the effective capabilities in `/proc/self/status` hold CAP_SYS_ADMIN, bit 21.
fn has_sys_admin(status: &str) -> bool {
    let effective = field(status, "CapEff:").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    effective.is_some_and(|bits| bits >> 21 & 1 == 1)
}

fn check_memlock(soft: u64) -> Check {
    const NAME: &str = "locked memory";
    if soft < MEMLOCK_MIN {
        return Check::failed(
            NAME,
            format!("limit of {}, below the 512 KiB that glommio asks for", bytes(soft)),
            "sudo prlimit --pid $$ --memlock=8388608:8388608 (systemd: LimitMEMLOCK=8M, \
             Docker: --ulimit memlock=8388608)",
        );
    }
    Check::ok(NAME, format!("limit of {}", bytes(soft)))
}

/// `files` is (soft, hard); the soft limit is raised at start, so the hard one counts.
fn check_nofile(
    files: (u64, u64),
    nr_open: Option<u64>,
    shards: u64,
    connections: Option<usize>,
) -> Check {
    const NAME: &str = "open files";
    let (soft, hard) = files;
    let own = PROCESS_FDS + shards * SHARD_FDS;
    let wanted = connections.map(|count| count as u64 + own);
    let raised = if soft < hard { " (the soft limit is raised at start)" } else { "" };
    if hard >= wanted.unwrap_or(NOFILE_USUAL) {
        let room = grouped(hard.saturating_sub(own));
        return match hard {
            rlimit::INFINITY => Check::ok(NAME, "no limit"),
            _ => Check::ok(NAME, format!("limit of {}{raised}: {room} connections", grouped(hard))),
        };
    }
    let wanted = wanted.unwrap_or(65_536);
    let mut fix = format!(
        "sudo prlimit --pid $$ --nofile={wanted}:{wanted} (systemd: LimitNOFILE={wanted}, \
         Docker: --ulimit nofile={wanted})"
    );
    if nr_open.is_some_and(|most| most < wanted) {
        fix = format!("sudo sysctl -w fs.nr_open={wanted} && {fix}");
    }
    let limit = grouped(hard);
    match connections {
        Some(count) => Check::failed(
            NAME,
            format!(
                "limit of {limit}, but {} connections need {}",
                grouped(count as u64),
                grouped(wanted)
            ),
            fix,
        ),
        None if hard < own => {
            Check::failed(NAME, format!("limit of {limit}, but the shards alone need {own}"), fix)
        }
        None => {
            let room = grouped(hard - own);
            Check::warning(NAME, format!("limit of {limit}: room for {room} connections"), fix)
        }
    }
}

/// `quota` is the CPU time that the cgroup grants, in CPUs.
fn check_cpus(cpus: &[usize], online: &[usize], allowed: &[usize], quota: Option<f64>) -> Check {
    const NAME: &str = "cpus";
    if allowed.is_empty() {
        return Check::ok(NAME, "not to be read here");
    }
    let list = ranges(allowed);
    if let Some(cpu) = cpus.iter().find(|cpu| !online.is_empty() && !online.contains(cpu)) {
        return Check::failed(
            NAME,
            format!("CPU {cpu} does not exist; this machine has {}", ranges(online)),
            format!("corecast serve --cpus {list}"),
        );
    }
    if let Some(cpu) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
        return Check::failed(
            NAME,
            format!("CPU {cpu} is not allowed for this process; allowed are {list}"),
            format!("corecast serve --cpus {list} (or widen taskset or the cpuset)"),
        );
    }
    let one = |cpu: &&usize| cpus.iter().filter(|other| other == cpu).count() > 1;
    if let Some(cpu) = cpus.iter().find(one) {
        return Check::failed(
            NAME,
            format!("CPU {cpu} is given twice"),
            format!("corecast serve --cpus {}", list_of(cpus)),
        );
    }
    match quota {
        Some(quota) if quota < cpus.len() as f64 => Check::warning(
            NAME,
            format!("{} shards share a quota of {quota:.1} CPUs (cgroup cpu.max)", cpus.len()),
            format!("corecast serve --cpus {}", list_of(&cpus[..(quota as usize).max(1)])),
        ),
        _ => Check::ok(NAME, format!("shards on {} of {list}", ranges(cpus))),
    }
}

fn check_memory(
    available: Option<u64>,
    cgroup_max: Option<f64>,
    buffers_bytes: u64,
    connections: Option<usize>,
) -> Check {
    const NAME: &str = "memory";
    let limit = cgroup_max.map(|max| max as u64);
    let told = match limit {
        Some(max) => format!("cgroup memory.max is {}", bytes(max)),
        None => "no cgroup limit".to_string(),
    };
    let Some(available) = available else {
        return Check::ok(NAME, told);
    };
    let usable = available.min(limit.unwrap_or(u64::MAX));
    let needed = buffers_bytes + connections.unwrap_or(0) as u64 * CONNECTION_BYTES;
    if needed > usable {
        let count = grouped(connections.unwrap_or(0) as u64);
        return Check::warning(
            NAME,
            format!(
                "{} usable ({told}), but {count} idle connections need {}",
                bytes(usable),
                bytes(needed)
            ),
            "give the machine or the container more memory",
        );
    }
    Check::ok(NAME, format!("{} available, {told}", bytes(available)))
}

/// Binds `address` as nobody else may who listens there, and lets go at once.
fn check_port(address: SocketAddr) -> Check {
    let outcome = try_bind(address);
    let owner = match &outcome {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => owner_of(address.port()),
        _ => None,
    };
    judge_port(address, outcome.err().as_ref(), owner)
}

/// SO_REUSEADDR passes over connections in TIME_WAIT; a listener is in the way, as SO_REUSEPORT
/// is off.
fn try_bind(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn judge_port(address: SocketAddr, error: Option<&io::Error>, owner: Option<String>) -> Check {
    const NAME: &str = "port";
    let port = address.port();
    let Some(error) = error else {
        return Check::ok(NAME, format!("{address} is free"));
    };
    match (error.kind(), owner) {
        (io::ErrorKind::AddrInUse, Some(owner)) => Check::failed(
            NAME,
            format!("{address} is in use by {owner}"),
            "stop that process, or listen on another port",
        ),
        (io::ErrorKind::AddrInUse, None) => Check::failed(
            NAME,
            format!("{address} is in use"),
            format!("sudo ss -ltnp 'sport = :{port}' shows by whom; or listen on another port"),
        ),
        (io::ErrorKind::PermissionDenied, _) => Check::failed(
            NAME,
            format!("{address}: this user may not listen on ports as low"),
            format!("sudo sysctl -w net.ipv4.ip_unprivileged_port_start={port}"),
        ),
        (io::ErrorKind::AddrNotAvailable, _) => Check::failed(
            NAME,
            format!("{address}: this machine does not have the address"),
            format!("listen on {}:{port}", if address.is_ipv4() { "0.0.0.0" } else { "[::]" }),
        ),
        _ => Check::failed(NAME, format!("{address}: {error}"), "listen on another address"),
    }
}

/// The process that holds `port`, as "pid 12 (name)", if this user may see it.
fn owner_of(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(read);
    let inode = tables.iter().find_map(|table| socket_inode(table, port))?;
    let link = format!("socket:[{inode}]");
    let entries = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    let is_process = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut processes = entries.filter(|path| is_process(path).is_some());
    let holds = |path: &Path| {
        let files = fs::read_dir(path.join("fd")).into_iter().flatten().flatten();
        files.map(|file| fs::read_link(file.path())).any(|to| to.is_ok_and(|to| *to == *link))
    };
    let path = processes.find(|path| holds(path))?;
    let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
    Some(format!("pid {} ({})", path.file_name()?.to_string_lossy(), name.trim()))
}

/// Inode of the listener on `port` in the text of `/proc/net/tcp`.
fn socket_inode(table: &str, port: u16) -> Option<u64> {
    let suffix = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let listens = columns.get(3) == Some(&"0A") && columns.get(1)?.ends_with(&suffix);
        listens.then(|| columns.get(9)?.parse().ok()).flatten()
    })
}

fn check_sysctls(request: &Request) -> Vec<Check> {
    let sysctl = |name: &str| read(format!("/proc/sys/{}", name.replace('.', "/")));
    let backlog = u64::from(request.backlog);
    let mut checks = vec![
        at_least("net.core.somaxconn", &sysctl("net.core.somaxconn"), backlog, "the backlog"),
        at_least(
            "net.ipv4.tcp_max_syn_backlog",
            &sysctl("net.ipv4.tcp_max_syn_backlog"),
            1_024,
            "what a burst of connects needs",
        ),
    ];
    if let Some(count) = request.connections {
        let needed = count as u64 + PROCESS_FDS;
        let files = sysctl("fs.file-max");
        checks.push(at_least("fs.file-max", &files, needed, "the connections wanted"));
        checks.push(check_tcp_mem(&sysctl("net.ipv4.tcp_mem"), count as u64));
    }
    if request.load_generator {
        let range = sysctl("net.ipv4.ip_local_port_range");
        checks.push(check_ports(&range, request.connections.unwrap_or(0) as u64));
    }
    checks
}

fn at_least(name: &'static str, text: &str, wanted: u64, what: &str) -> Check {
    match number(text) {
        Some(value) if value >= wanted => Check::ok(name, grouped(value)),
        Some(value) => Check::warning(
            name,
            format!("{}, below {what}: {}", grouped(value), grouped(wanted)),
            format!("sudo sysctl -w {name}={wanted}"),
        ),
        None => Check::ok(name, "not to be read here"),
    }
}

/// One page per connection is in use while a frame is under way to all of them.
fn check_tcp_mem(text: &str, connections: u64) -> Check {
    const NAME: &str = "net.ipv4.tcp_mem";
    let pages: Vec<u64> = text.split_whitespace().filter_map(number).collect();
    let &[low, pressure, most] = &pages[..] else {
        return Check::ok(NAME, "not to be read here");
    };
    if pressure >= connections {
        return Check::ok(NAME, format!("{low} {pressure} {most}"));
    }
    let (pressure_wanted, most_wanted) = (connections, connections * 2);
    Check::warning(
        NAME,
        format!(
            "the kernel saves memory from {} pages on, fewer than {} connections",
            grouped(pressure),
            grouped(connections)
        ),
        format!("sudo sysctl -w net.ipv4.tcp_mem='{low} {pressure_wanted} {most_wanted}'"),
    )
}

/// A load generator has one local port per connection and source address.
fn check_ports(text: &str, connections: u64) -> Check {
    const NAME: &str = "net.ipv4.ip_local_port_range";
    let ends: Vec<u64> = text.split_whitespace().filter_map(number).collect();
    let &[first, last] = &ends[..] else {
        return Check::ok(NAME, "not to be read here");
    };
    let ports = last.saturating_sub(first) + 1;
    let sources = connections.div_ceil(ports.max(1)).max(1);
    if sources > 1 && first > 1_024 {
        return Check::warning(
            NAME,
            format!(
                "{} ports: {} connections need {sources} source addresses",
                grouped(ports),
                grouped(connections)
            ),
            "sudo sysctl -w net.ipv4.ip_local_port_range='1024 65535'",
        );
    }
    Check::ok(NAME, format!("{} ports per source address", grouped(ports)))
}

// Reading and parsing.

/// The text of a file of `/proc` or `/sys`; empty where there is none.
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The value of a line `key value` in the manner of `/proc/self/status`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

/// (6, 18) of `6.18.44-cloud-amd64`.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// CPUs of a list such as `0-3,8`; what cannot be read is left out.
fn parse_list(text: &str) -> Vec<usize> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            cpus.extend(first..=last);
        }
    }
    cpus
}

/// The list of `cpus` in the same form, for `--cpus`.
/// The numbers as `--cpus` takes them.
fn list_of(cpus: &[usize]) -> String {
    cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

fn ranges(cpus: &[usize]) -> String {
    let mut sorted = cpus.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for cpu in sorted {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => parts.push((cpu, cpu)),
        }
    }
    let text = |(first, last)| match first == last {
        true => format!("{first}"),
        false => format!("{first}-{last}"),
    };
    parts.into_iter().map(text).collect::<Vec<_>>().join(",")
}

/// The folder of the process's version 2 cgroup, from the text of `/proc/self/cgroup`.
fn cgroup_folder(text: &str) -> Option<String> {
    let path = field(text, "0::")?;
    Some(format!("/sys/fs/cgroup{}", path.trim_end_matches('/')))
}

/// The least value of `file` in the cgroup's folder and those above it: the one that binds.
fn least(folder: &Option<String>, file: &str, parse: impl Fn(&str) -> Option<f64>) -> Option<f64> {
    let above = Path::new(folder.as_deref()?).ancestors();
    let inside = above.take_while(|path| path.starts_with("/sys/fs/cgroup"));
    inside.filter_map(|path| parse(&read(path.join(file)))).min_by(f64::total_cmp)
}

/// CPUs granted by `quota period` of cpu.max; `max` grants all.
fn parse_cpu_max(text: &str) -> Option<f64> {
    let mut parts = text.split_whitespace().map(str::parse::<f64>);
    let (quota, period) = (parts.next()?.ok()?, parts.next()?.ok()?);
    (period > 0.0).then_some(quota / period)
}

/// Bytes of MemAvailable in `/proc/meminfo`.
fn parse_available(meminfo: &str) -> Option<u64> {
    let kibibytes = field(meminfo, "MemAvailable:")?.strip_suffix("kB")?;
    Some(number(kibibytes)? * 1_024)
}

/// 1234567 as `1,234,567`.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in the largest binary unit that leaves 1 or more.
fn bytes(value: u64) -> String {
    if value == rlimit::INFINITY {
        return "unlimited".into();
    }
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| value >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", value as f64 / *unit as f64),
        None => format!("{value} B"),
    }
}

#[cfg(test)]
mod tests;
