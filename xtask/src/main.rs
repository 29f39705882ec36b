//! Development tasks of this workspace: `cargo xtask --help`.

mod bench;
mod checks;
#[cfg(feature = "codegen")]
mod codegen;
mod dag;
mod demo;
mod e2e;
mod files;
mod interop;
mod lab;
mod observer;
mod processes;
mod spec;
mod web;

use std::path::PathBuf;
#[cfg(not(feature = "codegen"))]
use std::process::Command;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// What a task ends with: nothing, or a text that says what to do.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development tasks of the Lifeline workspace")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Show the main job: find a machine, drive it, lose the client, see it stop, drive home.
    Demo,
    /// Run every test that needs no privileges.
    Test,
    /// Run the end-to-end scenarios: real processes, sockets and mDNS.
    TestE2e {
        /// Only print the scenarios' names.
        #[arg(long)]
        list: bool,
        /// Only scenarios whose group or name contains this.
        #[arg(long)]
        only: Option<String>,
        /// The long forms of network labs: minutes instead of seconds.
        #[arg(long)]
        soak: bool,
        /// Fails where network labs cannot be made instead of skipping them.
        #[arg(long)]
        require_labs: bool,
        /// Where chance comes from: losses, moments.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Measure, and add to what is recorded in `benches/results`.
    Bench {
        /// What.
        #[command(subcommand)]
        what: Bench,
    },
    /// One run of a bench inside a lab's namespaces.
    #[command(hide = true)]
    BenchRun { row: String, seed: u64, folder: PathBuf },
    /// One scenario inside a lab's namespaces.
    #[command(hide = true)]
    LabScenario { name: String, seed: u64, soak: String, folder: PathBuf },
    /// Carries frames between a lab's hosts.
    #[command(hide = true)]
    LinkEmulator,
    /// Run published, unmodified peers against our machine and our client.
    Interop {
        /// Which peer.
        name: Peer,
    },
    /// A peer's part inside namespaces of its own.
    #[command(hide = true)]
    InteropInside { peer: String, folder: PathBuf },
    /// Show every numbered statement with its tests and their results.
    Spec {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Hold the crates' imports against the picture in ARCHITECTURE.md.
    Dag,
    /// Generate the protocol's code from `.proto` files and methods.toml.
    Codegen {
        /// Only compare with what is checked in.
        #[arg(long)]
        check: bool,
    },
    /// Run everything that a change has to pass.
    Ci,
}

/// What can be measured.
#[derive(Subcommand)]
enum Bench {
    /// How long callers notice that a route died, on networks made for it.
    Failover {
        /// Only this row of the table; may be given several times.
        #[arg(long = "row", value_name = "ROW")]
        rows: Vec<String>,
        /// A few runs of each row; nothing is recorded.
        #[arg(long)]
        quick: bool,
        /// Runs of each row.
        #[arg(long)]
        runs: Option<usize>,
        /// Where chance comes from: the moment of the cut, losses.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

/// A published peer.
#[derive(Clone, Copy, ValueEnum)]
enum Peer {
    /// The Python SDK: as a client of our machine, and its server classes as a machine of our client.
    Python,
    /// The TypeScript SDK in headless Chromium, as a client of our machine.
    Browser,
    /// The Go client of the machine server, as a client of our machine, and the machine and echo server as machines of our client; and how long published clients take to dial that machine and ours. Their modules take minutes and gigabytes the first time.
    Go,
    /// The Go client alone, where there is a Go that can build it: a line where there is none. Its modules are 1.6 GB the first time.
    GoClient,
    /// The published Rust crate `viam-rust-utils`, as a client of our machine.
    RustUtils,
}

fn main() -> ExitCode {
    let root = root();
    let done = match Arguments::parse().task {
        Task::Demo => demo::run(&root),
        Task::Test => checks::test(&root),
        Task::TestE2e { list: true, .. } => {
            e2e::list();
            Ok(())
        }
        Task::TestE2e { list: false, only, soak, require_labs, seed } => {
            e2e::run(&root, &e2e::Choice { only: only.as_deref(), soak, require_labs, seed })
        }
        Task::Bench { what: Bench::Failover { rows, quick, runs, seed } } => {
            bench::failover(&root, &bench::Choice { rows: &rows, quick, runs, seed })
        }
        Task::BenchRun { row, seed, folder } => bench::inside(&root, &row, seed, &folder),
        Task::LabScenario { name, seed, soak, folder } => e2e::inside(&root, &name, seed, soak == "true", &folder),
        Task::LinkEmulator => lab::emulator::run(),
        Task::Interop { name: Peer::Browser } => interop::browser(&root),
        Task::Interop { name: Peer::Go } => interop::go(&root),
        Task::Interop { name: Peer::GoClient } => interop::go_client(&root),
        Task::Interop { name: Peer::RustUtils } => interop::rust_utils(&root),
        Task::Interop { name: Peer::Python } => interop::python(&root),
        Task::InteropInside { peer, folder } => interop::inside(&root, &peer, &folder),
        Task::Spec { json } => spec::run(&root, json),
        Task::Dag => dag::run(&root),
        Task::Codegen { check } => codegen_task(check),
        Task::Ci => checks::ci(&root),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's root, whatever the current directory.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map(PathBuf::from).unwrap_or_default()
}

#[cfg(feature = "codegen")]
pub(crate) fn codegen_task(check: bool) -> Outcome {
    codegen::run(&root(), check)
}

/// Starts this program again with the compilers built in.
#[cfg(not(feature = "codegen"))]
pub(crate) fn codegen_task(check: bool) -> Outcome {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["run", "--quiet", "--package", "xtask", "--features", "codegen", "--", "codegen"]);
    if check {
        cargo.arg("--check");
    }
    if cargo.status()?.success() { Ok(()) } else { Err("codegen failed".into()) }
}
