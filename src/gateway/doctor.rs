//! `corecast doctor`: what this machine lacks.

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
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let options = Options { cpus: arguments.cpus.clone(), ..Options::default() };
    let mut request = preflight::Request::new(&options, arguments.listen.clone());
    request.connections = arguments.connections;
    let checks = preflight::run(&request);
    preflight::render(&checks, &mut std::io::stdout().lock())?;
    let failed = checks.iter().any(|check| check.status == preflight::Status::Failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
