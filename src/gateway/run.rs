//! The command line, and the life of a gateway.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use clap::{Parser, Subcommand};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::config;
use super::state::{Rules, State};
use super::{api, auth, clients, doctor, log};
use crate::Server;

/// A Socket.IO server for Linux: one shard per core on io_uring.
#[derive(Parser)]
#[command(name = "corecast", version, arg_required_else_help = true)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start the gateway; without a configuration, the chat demo at `/`
    Serve(ServeArguments),
    /// Check, print or describe the configuration
    #[command(subcommand)]
    Config(ConfigAction),
    /// Check this machine and say what to change
    Doctor(doctor::Arguments),
}

/// What `serve` and `config check` read.
#[derive(clap::Args, Clone)]
pub(super) struct ServeArguments {
    /// Configuration file [default: $CORECAST_CONFIG, or the chat demo]
    #[arg(long, short, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Address to listen on; may be given more than once
    #[arg(long)]
    pub(super) listen: Vec<SocketAddr>,
    /// CPUs that get one shard each, such as 0,1 [default: all that this process may use]
    #[arg(long, value_delimiter = ',')]
    pub(super) cpus: Vec<usize>,
    /// Address of the HTTP API
    #[arg(long, value_name = "ADDRESS")]
    pub(super) api: Option<SocketAddr>,
    /// Time between heartbeats, in milliseconds
    #[arg(long)]
    pub(super) ping_interval: Option<u64>,
    /// Time a client has to answer a heartbeat, in milliseconds
    #[arg(long)]
    pub(super) ping_timeout: Option<u64>,
}

#[derive(Subcommand)]
enum ConfigAction {
    /// Say what is wrong with a configuration; exit code 1 if anything is
    Check(ServeArguments),
    /// Print every key with its default
    Default,
    /// Print the JSON Schema of the configuration
    Schema,
}

/// The `corecast` command; `demo` registers what is served without a configuration.
pub fn main(demo: fn(&Server)) -> ExitCode {
    let result = match Command::parse().action {
        Action::Serve(arguments) => serve(&arguments, demo),
        Action::Config(action) => show(&action),
        Action::Doctor(arguments) => doctor::run(&arguments),
    };
    result.unwrap_or_else(|error| {
        // One message, whatever went wrong.
        eprintln!("corecast: {error}");
        ExitCode::FAILURE
    })
}

type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

fn show(action: &ConfigAction) -> Outcome {
    let mut out = std::io::stdout();
    match action {
        ConfigAction::Check(arguments) => {
            let config = config::load(arguments)?;
            Rules::new(config)?;
            writeln!(out, "the configuration is good")?;
        }
        ConfigAction::Default => out.write_all(config::defaults().as_bytes())?,
        ConfigAction::Schema => writeln!(out, "{}", config::schema())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(arguments: &ServeArguments, demo: fn(&Server)) -> Outcome {
    let config = config::load(arguments)?;
    log::start();
    let mut options = config::options(&config)?;
    let later = Arc::new(OnceLock::<Arc<State>>::new());
    let rules = Rules::new(config)?;
    if options.cors.is_none() && rules.origins.is_restricted() {
        // Answers with what holds at that moment, so that a reload changes it.
        let asked = later.clone();
        options.cors = Some(auth::cors(move |origin| {
            asked.get().is_some_and(|state| state.rules().origins.allow(origin))
        }));
    }
    let server = Server::new(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (listen, api) = (rules.config.server.listen.clone(), rules.config.api.listen);
    let is_demo = arguments.config.is_none();
    let state = State::new(server.clone(), rules, runtime.handle().clone());
    let _ = later.set(state.clone());
    if is_demo {
        demo(&server);
    } else {
        clients::register(&state);
    }
    // Before any thread starts, so that no signal finds the default action.
    let signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let api = api::bind(api)?;
    let running = server.listen(listen.as_slice())?;
    for address in running.addresses() {
        // On standard output, for scripts that let the system choose the port.
        writeln!(std::io::stdout(), "listening on http://{address}")?;
    }
    writeln!(std::io::stdout(), "api on http://{}", api.local_addr()?)?;
    let arguments = arguments.clone();
    let control = state.clone();
    std::thread::Builder::new()
        .name("control".into())
        .spawn(move || runtime.block_on(api::serve(api, control, axum::Router::new())))?;
    let signalled = state.clone();
    std::thread::spawn(move || on_signals(signals, &signalled, &arguments));
    running.join()?;
    state.finish();
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// SIGHUP reloads. The first other signal lets sessions end, the second one does not wait.
fn on_signals(mut signals: Signals, state: &Arc<State>, arguments: &ServeArguments) {
    let mut is_second = false;
    for signal in &mut signals {
        if signal == SIGHUP {
            match reload(state, arguments) {
                Ok(()) => tracing::info!("reloaded"),
                Err(error) => tracing::error!("not reloaded, nothing has changed: {error}"),
            }
            continue;
        }
        if is_second {
            tracing::warn!("second signal, leaving at once");
            std::process::exit(128 + signal);
        }
        is_second = true;
        tracing::info!("shutting down; a second signal leaves at once");
        state.server.shutdown();
    }
}

/// Reads the configuration again; what is wrong with it changes nothing.
pub(super) fn reload(state: &State, arguments: &ServeArguments) -> Result<(), String> {
    let config = config::load(arguments).map_err(|error| error.to_string())?;
    state.replace_rules(Rules::new(config)?);
    Ok(())
}
