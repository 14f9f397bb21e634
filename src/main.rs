//! The `corecast` command: see `corecast::gateway`.

mod demo;

use std::process::ExitCode;

fn main() -> ExitCode {
    corecast::gateway::main(demo::register)
}
