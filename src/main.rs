//! The `corecast` command: `serve` starts the gateway with the chat demo, `doctor` says what this
//! machine lacks.

mod demo;

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use corecast::{Error, Options, Server, preflight};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// A Socket.IO server for Linux: one shard per core on io_uring.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start the server, with a chat demo at `/`
    Serve(ServeArguments),
    /// Check this machine and say what to change
    Doctor(DoctorArguments),
}

#[derive(clap::Args)]
struct ServeArguments {
    /// Address to listen on; may be given more than once
    #[arg(long, default_value = "0.0.0.0:4000")]
    listen: Vec<SocketAddr>,
    /// CPUs that get one shard each, such as 0,1 [default: all that this process may use]
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    /// Time between heartbeats, in milliseconds
    #[arg(long, default_value_t = 25_000)]
    ping_interval: u64,
    /// Time a client has to answer a heartbeat, in milliseconds
    #[arg(long, default_value_t = 20_000)]
    ping_timeout: u64,
}

#[derive(clap::Args)]
struct DoctorArguments {
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

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format(|out, record| {
            writeln!(out, "{:<5} {}", record.level().as_str().to_lowercase(), record.args())
        })
        .init();
    let result = match Command::parse().action {
        Action::Serve(arguments) => serve(arguments),
        Action::Doctor(arguments) => doctor(arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            // One line, whatever went wrong.
            eprintln!("corecast: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: ServeArguments) -> Result<ExitCode, Error> {
    let mut options = Options::default();
    options.cpus = arguments.cpus;
    options.ping_interval = std::time::Duration::from_millis(arguments.ping_interval);
    options.ping_timeout = std::time::Duration::from_millis(arguments.ping_timeout);
    let server = Server::new(options)?;
    demo::register(&server);
    // Before the shards start, so that no signal finds the default action.
    let signals = Signals::new([SIGINT, SIGTERM])?;
    let running = server.listen(arguments.listen.as_slice())?;
    for address in running.addresses() {
        // On standard output, for scripts that let the system choose the port.
        writeln!(std::io::stdout(), "listening on http://{address}")?;
    }
    if let Some(address) = running.addresses().first() {
        let host = if address.ip().is_unspecified() {
            "localhost".into()
        } else {
            address.ip().to_string()
        };
        log::info!("the chat demo: open http://{host}:{} in two windows", address.port());
    }
    std::thread::spawn(move || stop_on_signal(signals, &server));
    running.join()?;
    log::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The first signal lets sessions end, the second one does not wait for them.
fn stop_on_signal(mut signals: Signals, server: &Server) {
    let mut is_second = false;
    for signal in &mut signals {
        if is_second {
            log::warn!("second signal, leaving at once");
            std::process::exit(128 + signal);
        }
        is_second = true;
        log::info!("shutting down; a second signal leaves at once");
        server.shutdown();
    }
}

fn doctor(arguments: DoctorArguments) -> Result<ExitCode, Error> {
    let mut options = Options::default();
    options.cpus = arguments.cpus;
    let mut request = preflight::Request::new(&options, arguments.listen);
    request.connections = arguments.connections;
    let checks = preflight::run(&request);
    preflight::render(&checks, &mut std::io::stdout().lock())?;
    let failed = checks.iter().any(|check| check.status == preflight::Status::Failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
