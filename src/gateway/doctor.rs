//! `corecast doctor`: what this machine lacks, and a script that changes it.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use crate::{Options, preflight};

/// Arguments of `doctor`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Address that the server is going to listen on
    #[arg(long, default_value = "0.0.0.0:4000")]
    listen: Vec<SocketAddr>,
    /// CPUs that are going to get a shard [default: all]
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    /// Connections that you want to hold at a time
    #[arg(long)]
    connections: Option<usize>,
    /// Print a shell script that sets kernel and limits, with the reason for each; it can be run
    /// again, and `sh script --dry-run` only says what it would change
    #[arg(long)]
    fix_script: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let options = Options { cpus: arguments.cpus.clone(), ..Options::default() };
    if arguments.fix_script {
        let script = fix_script(arguments.connections.unwrap_or(CONNECTIONS), &options);
        std::io::stdout().write_all(script.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut request = preflight::Request::new(&options, arguments.listen.clone());
    request.connections = arguments.connections;
    let checks = preflight::run(&request);
    preflight::render(&checks, &mut std::io::stdout().lock())?;
    let failed = checks.iter().any(|check| check.status == preflight::Status::Failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Connections that the script makes room for where none are named.
const CONNECTIONS: usize = 100_000;
/// Files of the process that are no connections: rings, listeners, logs, requests to backends.
const OTHER_FILES: usize = 4_096;
/// Pages for the buffers of connections to which a broadcast is under way, each.
const PAGES: usize = 1;

/// A script that raises what is too low and leaves what is high enough. The values of the moment
/// are read when it runs, so that it can be made on another machine.
fn fix_script(connections: usize, options: &Options) -> String {
    let files = connections + OTHER_FILES;
    // At these the kernel begins to save memory, and refuses it.
    let (pressure, most) = (connections * PAGES, connections * PAGES * 2);
    let backlog = options.backlog;
    let mut out = HEAD.replace("@connections@", &connections.to_string());
    let lines = [
        "need kernel.io_uring_disabled exactly 0 \\\n    \
         'corecast does all its network input and output by io_uring'"
            .to_owned(),
        format!(
            "need fs.nr_open at_least {} \\\n    \
             'the most files that one process may be allowed: a connection is one'",
            files.max(1_048_576)
        ),
        format!(
            "need fs.file-max at_least {} \\\n    'the files of all processes together'",
            files.max(1_048_576) * 2
        ),
        format!(
            "need net.core.somaxconn at_least {backlog} \\\n    \
             'caps the queue of connections not accepted yet: all clients may come at once'"
        ),
        format!(
            "need net.ipv4.tcp_max_syn_backlog at_least {} \\\n    \
             'the same for connections whose handshake is under way'",
            backlog.max(8_192)
        ),
        format!(
            "need_memory {pressure} {most} \\\n    \
             'pages for what is under way to clients: one for each while a broadcast leaves'"
        ),
        format!(
            "need_if_there net.netfilter.nf_conntrack_max at_least {} \\\n    \
             'the firewall tracks each connection; beyond this number new ones are dropped'",
            files * 2
        ),
        format!(
            "need_limits {files} 8388608 \\\n    \
             'files are connections; rings need locked memory of 512 KiB at least'"
        ),
    ];
    out.push_str(&lines.join("\n"));
    out.push_str(TAIL);
    out
}

const HEAD: &str = r##"#!/bin/sh
# Prepares a Linux machine for corecast with @connections@ connections. Made by
# `corecast doctor --fix-script`; run it as root. It can be run again: what is right is left alone.
#
#   sh fix.sh --dry-run    says what it would change, and changes nothing
#   sh fix.sh              changes it now, and for after the next boot
#   ROOT=/some/folder      writes files below that folder, and leaves the running kernel alone
#
# No kernel module is needed: io_uring is part of the kernel.
set -eu

root=${ROOT:-}
settings=$root/etc/sysctl.d/90-corecast.conf
limits=$root/etc/security/limits.d/90-corecast.conf
dry_run=
[ "${1:-}" = --dry-run ] && dry_run=yes
lines='# Made by corecast doctor --fix-script.'

file_of() {
    printf '/proc/sys/%s' "$(printf '%s' "$1" | tr . /)"
}

# need NAME at_least|exactly VALUE REASON
need() {
    file=$(file_of "$1")
    if [ ! -e "$file" ]; then
        echo "$1: this kernel does not have it, nothing to do"
        return
    fi
    now=$(cat "$file")
    value=$3
    if [ "$2" = at_least ] && [ "$now" -ge "$3" ]; then
        value=$now
    fi
    lines="$lines
# $4
$1 = $value"
    if [ "$now" = "$value" ]; then
        echo "$1: $now is right"
        return
    fi
    echo "$1: $now becomes $value: $4"
    if [ -z "$dry_run" ] && [ -z "$root" ]; then
        sysctl -q -w "$1=$value"
    fi
}

need_if_there() {
    if [ -e "$(file_of "$1")" ]; then
        need "$@"
    fi
}

# need_memory PRESSURE MOST REASON: three numbers of pages in one setting
need_memory() {
    file=$(file_of net.ipv4.tcp_mem)
    if [ ! -e "$file" ]; then
        echo 'net.ipv4.tcp_mem: this kernel does not have it, nothing to do'
        return
    fi
    # Such a file gives its value to the first read alone, and the shell reads byte by byte.
    read -r low pressure most <<NOW
$(cat "$file")
NOW
    new_pressure=$pressure
    new_most=$most
    [ "$pressure" -ge "$1" ] || new_pressure=$1
    [ "$most" -ge "$2" ] || new_most=$2
    lines="$lines
# $3
net.ipv4.tcp_mem = $low $new_pressure $new_most"
    if [ "$pressure $most" = "$new_pressure $new_most" ]; then
        echo "net.ipv4.tcp_mem: $low $pressure $most is right"
        return
    fi
    echo "net.ipv4.tcp_mem: $low $pressure $most becomes $low $new_pressure $new_most: $3"
    if [ -z "$dry_run" ] && [ -z "$root" ]; then
        sysctl -q -w "net.ipv4.tcp_mem=$low $new_pressure $new_most"
    fi
}

# store FILE TEXT: writes a file unless it says that already
store() {
    if [ -e "$1" ] && [ "$(cat "$1")" = "$2" ]; then
        echo "$1: is right"
        return
    fi
    echo "$1: is written"
    if [ -z "$dry_run" ]; then
        mkdir -p "$(dirname "$1")"
        printf '%s\n' "$2" >"$1"
    fi
}

# higher NOW WANTED: what is high enough stays
higher() {
    if [ "$1" = unlimited ] || [ "$1" -ge "$2" ]; then
        printf '%s' "$1"
    else
        printf '%s' "$2"
    fi
}

# need_limits FILES LOCKED_BYTES REASON: for who logs in; the systemd unit has its own
need_limits() {
    # shellcheck disable=SC3045
    files=$(ulimit -H -n) locked=$(ulimit -H -l)
    files=$(higher "$files" "$1") locked=$(higher "$locked" "$(($2 / 1024))")
    store "$limits" "# Made by corecast doctor --fix-script: $3.
* soft nofile $1
* hard nofile $files
root soft nofile $1
root hard nofile $files
* soft memlock $locked
* hard memlock $locked"
}

"##;

const TAIL: &str = r#"
store "$settings" "$lines"
if [ -n "$dry_run" ]; then
    echo 'nothing was changed'
else
    echo 'done; limits hold from the next login on'
fi
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_makes_room_for_what_is_asked_for() {
        let script = fix_script(2_000_000, &Options::default());
        for line in [
            "need fs.nr_open at_least 2004096 ",
            "need_limits 2004096 ",
            "need net.core.somaxconn at_least 4096 ",
            "need_memory 2000000 4000000 ",
            "with 2000000 connections",
        ] {
            assert!(script.contains(line), "{line}");
        }
        assert!(!script.contains("@connections@"));
    }
}
