//! The threads of this crate: links and beats live there, whatever the program does with its own.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime};

/// The runtime, made with the first robot of the process. A program that blocks its own runtime does not lose its robot.
pub(crate) fn handle() -> std::io::Result<Handle> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime.handle().clone());
    }
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("lifeline").enable_all().build()?;
    Ok(RUNTIME.get_or_init(|| runtime).handle().clone())
}
