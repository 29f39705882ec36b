//! The threads of this crate: links and beats live there, whatever the program does with its own.

use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Handle, Runtime};

/// The runtime, made with the first robot of the process. A program that blocks its own runtime does not lose its robot.
pub(crate) fn handle() -> std::io::Result<Handle> {
    static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = runtime.as_ref() {
        return Ok(runtime.handle().clone());
    }
    let made = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("lifeline")
        // A beat that leaves late stops the robot.
        .on_thread_start(transport::raise_thread)
        .enable_all()
        .build()?;
    Ok(runtime.insert(made).handle().clone())
}
