//! Development tasks of this workspace: `cargo xtask --help`.

#[cfg(feature = "codegen")]
mod codegen;
mod files;

use std::path::PathBuf;
#[cfg(not(feature = "codegen"))]
use std::process::Command;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a task ends with: nothing, or a text that says what to do.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Development tasks of the Lifeline workspace"
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Generate the protocol's code from `.proto` files and methods.toml.
    Codegen {
        /// Only compare with what is checked in.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.task {
        Task::Codegen { check } => codegen_task(check),
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
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(PathBuf::from)
        .unwrap_or_default()
}

#[cfg(feature = "codegen")]
fn codegen_task(check: bool) -> Outcome {
    codegen::run(&root(), check)
}

/// Starts this program again with the compilers built in.
#[cfg(not(feature = "codegen"))]
fn codegen_task(check: bool) -> Outcome {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args([
        "run",
        "--quiet",
        "--package",
        "xtask",
        "--features",
        "codegen",
        "--",
        "codegen",
    ]);
    if check {
        cargo.arg("--check");
    }
    if cargo.status()?.success() {
        Ok(())
    } else {
        Err("codegen failed".into())
    }
}
