//! `lifeline`: find a machine, see what it does, drive it, stop it.

mod arguments;
mod call;
mod connection;
mod dial;
mod discover;
mod drive;
mod failure;
mod report;
mod status;
mod stop;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};
use failure::Failure;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    init_logging(arguments.verbose);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return Failure::failed(format!("cannot start a runtime: {e}")).exit(arguments.json),
    };
    let json = arguments.json;
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.exit(json),
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let (common, command) = (arguments.connection, arguments.command);
    let json = arguments.json;
    match command {
        Command::Discover { duration } => discover::run(duration, json).await,
        Command::Status { address } => status::status(&common, &address, json).await,
        Command::Sessions { address } => status::sessions(&common, &address, json).await,
        Command::Ops { address } => status::operations(&common, &address, json).await,
        Command::Cancel { address, operation } => status::cancel(&common, &address, &operation, json).await,
        Command::Stop { address, components, all } => stop::run(&common, &address, &components, all, json).await,
        Command::Call { address, component, method, request } => {
            call::run(&common, &address, &component, &method, &request, json).await
        }
        Command::Drive { address, base, speed, turn } => drive::run(&common, &address, &base, speed, turn).await,
        Command::Watch { address } => watch::run(&common, &address, json).await,
        Command::Dial { address, explain } => dial::run(&common, &address, explain, json).await,
    }
}

/// Logs go to standard error, and only when asked for: standard output belongs to answers.
fn init_logging(verbose: u8) {
    let level = match verbose {
        // The relay's client calls it an error that a permission is asked for again; nobody can do anything about it.
        0 => "error,turn_client_proto=off",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
