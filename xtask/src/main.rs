//! Development tasks of this workspace: `cargo xtask --help`.

mod checks;
#[cfg(feature = "codegen")]
mod codegen;
mod dag;
mod files;
mod spec;

use std::path::PathBuf;
#[cfg(not(feature = "codegen"))]
use std::process::Command;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    /// Run every test that needs no privileges.
    Test,
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

fn main() -> ExitCode {
    let root = root();
    let done = match Arguments::parse().task {
        Task::Test => checks::test(&root),
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
