//! `cargo xtask test` and `cargo xtask ci`: what every change has to pass.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::{Outcome, codegen_task, dag, demo, e2e, interop, spec};

/// A step of the continuous integration.
type Step = fn(&Path) -> Outcome;

/// Runs cargo and fails with what was run.
fn cargo(root: &Path, arguments: &[&str]) -> Outcome {
    println!("$ cargo {}", arguments.join(" "));
    let status = Command::new(env!("CARGO")).current_dir(root).args(arguments).status()?;
    if status.success() { Ok(()) } else { Err(format!("cargo {} failed", arguments.join(" ")).into()) }
}

/// Every test that needs no privileges.
pub fn test(root: &Path) -> Outcome {
    cargo(root, &["test", "--workspace", "--all-features", "--exclude", "xtask"])?;
    cargo(root, &["test", "--package", "xtask"])
}

/// What the continuous integration runs, in its order.
pub fn ci(root: &Path) -> Outcome {
    let steps: [(&str, Step); 12] = [
        ("format", |root| cargo(root, &["fmt", "--all", "--check"])),
        ("imports", dag::run),
        ("tests", test),
        ("lints", |root| {
            cargo(
                root,
                &["clippy", "--workspace", "--all-targets", "--all-features", "--quiet", "--", "-D", "warnings"],
            )
        }),
        ("generated code", |_| codegen_task(true)),
        ("demonstration", demo::run),
        ("end to end", |root| {
            // Root can make labs wherever this is to run; others may or may not.
            let require_labs = rustix::process::geteuid().is_root();
            e2e::run(root, &e2e::Choice { require_labs, seed: 1, ..Default::default() })
        }),
        ("python", |root| interop::python(root)),
        ("browser", |root| interop::browser(root)),
        ("rust crate", interop::rust_utils),
        ("go client", interop::go_client),
        ("statements", |root| spec::run(root, false)),
    ];
    for (name, step) in steps {
        let started = Instant::now();
        println!("== {name}");
        step(root).map_err(|e| format!("{name}: {e}"))?;
        println!("== {name}: passed in {:.0} s", started.elapsed().as_secs_f64());
    }
    Ok(())
}
