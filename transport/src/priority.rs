//! Which threads may run first on a computer that is busy.

use std::sync::Once;

/// The nice value of raised threads: far enough below 0 that ordinary work gets out of the way at once, and one that leaves the threads of the
/// system itself alone, which run at -20.
#[cfg(target_os = "linux")]
const NICE: i32 = -10;

/// Lets the calling thread run before ordinary ones, where the system permits it: for threads that end leases, stop actuators, or carry beats,
/// which do little and must not do it late. A full computer then delays them by less than a time slice instead of several.
///
/// On Linux it takes `CAP_SYS_NICE` or a nice limit (`LimitNICE=-10` of a systemd unit, `ulimit -e 30`). Without either, and on other systems,
/// the thread stays as it is, which is said in the log once. Threads that it starts afterwards are raised too.
pub fn raise_thread() {
    static SAID: Once = Once::new();
    if let Err(why) = raise() {
        SAID.call_once(|| {
            tracing::debug!(%why, "threads that stop actuators and carry beats run no sooner than others");
        });
    }
}

#[cfg(target_os = "linux")]
fn raise() -> std::io::Result<()> {
    // Linux keeps a nice value for each thread, and takes a thread's id for it.
    let thread = rustix::thread::gettid();
    let now = rustix::process::getpriority_process(Some(thread))?;
    if now > NICE {
        rustix::process::setpriority_process(Some(thread), NICE)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn raise() -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::process::getpriority_process;
    use rustix::thread::gettid;

    use super::*;

    #[test]
    fn one_thread_is_raised_and_no_other() {
        let before = getpriority_process(None).expect("of this thread");
        let raised = std::thread::spawn(|| {
            raise_thread();
            getpriority_process(Some(gettid())).expect("of that thread")
        });
        let raised = raised.join().expect("no panic");
        // Without the permission it stays as it was.
        assert!(raised == NICE.min(before) || raised == before, "{raised}, and {before} before");
        assert_eq!(getpriority_process(Some(gettid())).expect("of this thread"), before);
    }
}
