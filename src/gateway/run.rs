//! The command line, and the life of a gateway.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use clap::{Parser, Subcommand};
use sd_notify::NotifyState;
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::life::{self, Ready};
use super::state::State;
use super::{api, auth, clients, config, data_port, doctor, log};
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
#[derive(clap::Args, Clone, Default)]
pub(super) struct ServeArguments {
    /// Configuration file [default: $CORECAST_CONFIG, or the chat demo]
    #[arg(long, short, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Address to listen on; may be given more than once
    #[arg(long)]
    listen: Vec<SocketAddr>,
    /// CPUs that get one shard each, such as 0,1 [default: all that this process may use]
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    /// HTML file to serve at /
    #[arg(long, value_name = "FILE")]
    page: Option<String>,
    /// Address of the HTTP API
    #[arg(long, value_name = "ADDRESS")]
    api: Option<SocketAddr>,
    /// Time between heartbeats, such as 25s, or in milliseconds
    #[arg(long, value_name = "TIME")]
    ping_interval: Option<String>,
    /// Time a client has to answer a heartbeat, such as 20s, or in milliseconds
    #[arg(long, value_name = "TIME")]
    ping_timeout: Option<String>,
    /// What is logged: off, error, warn, info, debug, trace, or by part
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How log lines look: text or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Time over which clients are disconnected after SIGTERM
    #[arg(long, value_name = "TIME")]
    drain_over: Option<String>,
}

impl ServeArguments {
    /// Those of a command line.
    #[cfg(test)]
    pub(super) fn of(line: &str) -> ServeArguments {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            arguments: ServeArguments,
        }
        Line::parse_from(line.split(' ')).arguments
    }

    /// The keys that flags set: path, value, flag.
    pub(super) fn keys(&self) -> Vec<(&'static str, Value, &'static str)> {
        let listen = (!self.listen.is_empty()).then(|| json!(self.listen));
        let cpus = (!self.cpus.is_empty()).then(|| json!(self.cpus));
        let text = |value: &Option<String>| value.as_deref().map(Value::from);
        let time = |value: &Option<String>| value.as_deref().map(milliseconds).map(Value::from);
        let keys = [
            ("server.listen", listen, "--listen"),
            ("server.cpus", cpus, "--cpus"),
            ("server.page", text(&self.page), "--page"),
            ("api.listen", self.api.map(|api| api.to_string().into()), "--api"),
            ("server.ping_interval", time(&self.ping_interval), "--ping-interval"),
            ("server.ping_timeout", time(&self.ping_timeout), "--ping-timeout"),
            ("log.level", text(&self.log_level), "--log-level"),
            ("log.format", text(&self.log_format), "--log-format"),
            ("drain.over", time(&self.drain_over), "--drain-over"),
        ];
        keys.into_iter().filter_map(|(path, value, flag)| Some((path, value?, flag))).collect()
    }
}

/// A bare number is one of milliseconds, as Socket.IO has it.
fn milliseconds(text: &str) -> String {
    let is_bare = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    format!("{text}{}", if is_bare { "ms" } else { "" })
}

#[derive(Subcommand)]
enum ConfigAction {
    /// Say what is wrong with a configuration; exit code 1 if anything is
    Check(Box<ServeArguments>),
    /// Print every key with its default
    Default,
    /// Print the JSON Schema of the configuration
    Schema,
    /// Print every key with default and effect, as Markdown
    Reference,
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
            let ready = life::ready(arguments)?;
            for warning in &ready.loaded.warnings {
                eprintln!("corecast: {warning}");
            }
            writeln!(out, "the configuration is good")?;
        }
        ConfigAction::Default => out.write_all(config::defaults().as_bytes())?,
        ConfigAction::Schema => writeln!(out, "{}", config::schema())?,
        ConfigAction::Reference => out.write_all(config::reference().as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(arguments: &ServeArguments, demo: fn(&Server)) -> Outcome {
    let Ready { loaded, mut options, rules, page } = life::ready(arguments)?;
    let config = &loaded.config;
    let _traces = log::start(&config.log, &config.trace)?;
    loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let later = Arc::new(OnceLock::<Arc<State>>::new());
    if options.cors.is_none() && !loaded.is_bare {
        let asked = later.clone();
        options.cors = Some(auth::cors(move |origin| {
            asked.get().map(|state| state.rules().origins.readers(origin))
        }));
    }
    let server = Server::new(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let state = State::new(server.clone(), rules, runtime.handle().clone());
    let _ = later.set(state.clone());
    state.life.begin(arguments.clone(), config.clone());
    if loaded.is_bare {
        demo(&server);
    } else {
        clients::register(&state);
    }
    if let Some(page) = page {
        server.serve_file("/", life::PAGE_TYPE, page);
    }
    // Before any thread starts, so that no signal finds the default action.
    let signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let api = api::bind(config.api.listen)?;
    let ports = state.rules().ports.clone();
    let running = server.listen_on(ports.clone())?;
    for (address, port) in running.addresses().iter().zip(&ports) {
        let scheme = if port.is_tls() { "https" } else { "http" };
        // On standard output, for scripts that let the system choose the port.
        writeln!(std::io::stdout(), "listening on {scheme}://{address}")?;
    }
    data_port::watch(&state)?;
    writeln!(std::io::stdout(), "api on http://{}", api.local_addr()?)?;
    if loaded.is_bare {
        greet(running.addresses());
    }
    let (control, operations) = (state.clone(), life::routes().with_state(state.clone()));
    std::thread::Builder::new()
        .name("control".into())
        .spawn(move || runtime.block_on(api::serve(api, control, operations)))?;
    let signalled = state.clone();
    std::thread::spawn(move || on_signals(signals, &signalled));
    life::notify(&[NotifyState::Ready]);
    running.join()?;
    state.finish();
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Says where the chat demo is.
fn greet(addresses: &[SocketAddr]) {
    let Some(address) = addresses.first() else { return };
    let host = match address.ip() {
        ip if ip.is_unspecified() => "localhost".to_owned(),
        ip => ip.to_string(),
    };
    tracing::info!("the chat demo: open http://{host}:{} in two windows", address.port());
}

/// SIGHUP reloads. SIGTERM drains, SIGINT ends sessions at once; one after that does not wait.
fn on_signals(mut signals: Signals, state: &Arc<State>) {
    let mut is_second = false;
    for signal in &mut signals {
        if signal == SIGHUP {
            // It has logged what came of it.
            let _ = life::reload(state, "SIGHUP");
            continue;
        }
        if is_second {
            tracing::warn!("second signal, leaving at once");
            std::process::exit(128 + signal);
        }
        is_second = true;
        if signal == SIGTERM {
            life::drain(state, "SIGTERM");
        } else {
            tracing::info!("shutting down; a second signal leaves at once");
            state.server.shutdown();
        }
    }
}
