//! From a session's last beat to its actuator's Stop, idle and with every core oversubscribed twice. First in one process, where the sessions,
//! gates and threads are those of a served machine; then end to end: a machine in a process of its own, a thousand clients over a TLS connection
//! each, and the Stops as its observer saw them. `cargo bench -p sim-machine --bench stop`.

mod inside;
mod sockets;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use support::{Samples, bar};

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    // Both at rest first, both under load after that: what is measured differs in nothing else.
    let few_idle = runtime.block_on(inside::measure(inside::FEW));
    let many_idle = runtime.block_on(inside::measure(inside::MANY));
    let load = Load::start();
    let few_loaded = runtime.block_on(inside::measure(inside::FEW));
    let many_loaded = runtime.block_on(inside::measure(inside::MANY));
    drop(load);
    report("100 sessions", &few_idle, &few_loaded);
    report("1,000 in a second", &many_idle, &many_loaded);

    let crowd = runtime.block_on(sockets::Crowd::gather());
    let idle = runtime.block_on(crowd.measure());
    let load = Load::start();
    let loaded = runtime.block_on(crowd.measure());
    drop(load);
    report("1,000 in a second over TLS", &idle, &loaded);
}

/// Threads that want every core, twice over, until this is dropped.
struct Load {
    busy: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start() -> Self {
        let busy = Arc::new(AtomicBool::new(true));
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let spin = |busy: Arc<AtomicBool>| {
            let mut x = 0u64;
            while busy.load(Ordering::Relaxed) {
                for _ in 0..10_000 {
                    x = std::hint::black_box(x.wrapping_mul(31).wrapping_add(7));
                }
            }
        };
        let threads = (0..cores * 2).map(|_| {
            let busy = busy.clone();
            std::thread::spawn(move || spin(busy))
        });
        Self { threads: threads.collect(), busy }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.busy.store(false, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("no panic"));
    }
}

fn report(who: &str, idle: &Samples, loaded: &Samples) {
    idle.print(&format!("{who}: last beat to Stop, idle, beyond the window"));
    loaded.print(&format!("{who}: last beat to Stop, loaded, beyond the window"));
    println!("p99.9: idle {:.1?}, loaded {:.1?}", idle.at(0.999), loaded.at(0.999));
    bar(&format!("{who}, beyond the window, idle, median"), idle.median(), Duration::from_millis(5));
    bar(&format!("{who}, beyond the window, idle, p99"), idle.at(0.99), Duration::from_millis(20));
    bar(&format!("{who}, beyond the window, loaded, p99.9"), loaded.at(0.999), Duration::from_millis(50));
}
