//! A path between two ends that can be slowed down, and cut so that neither end hears of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// A TCP path to one address.
pub struct Proxy {
    /// Where it begins.
    pub address: String,
    path: Arc<Path>,
    _until: oneshot::Sender<()>,
}

#[derive(Default)]
struct Path {
    /// Each way.
    delay: Mutex<Duration>,
    cut: Mutex<bool>,
}

impl Path {
    fn is_cut(&self) -> bool {
        *self.cut.lock().expect("no panic")
    }
}

impl Proxy {
    /// A path to `to`, on a thread of its own.
    pub fn start(to: &str) -> Self {
        let to: SocketAddr = to.parse().expect("an address");
        let path = Arc::new(Path::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("nonblocking");
        let address = listener.local_addr().expect("tcp").to_string();
        let shared = path.clone();
        let (until, ended) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = accept(listener, to, shared) => {}
                    _ = ended => {}
                }
            });
        });
        Self { address, path, _until: until }
    }

    /// From now on nothing arrives at either end, and nobody is told. What was sent waits.
    pub fn cut(&self) {
        *self.path.cut.lock().expect("no panic") = true;
    }

    /// What waited arrives.
    pub fn mend(&self) {
        *self.path.cut.lock().expect("no panic") = false;
    }

    /// Every byte takes this long each way.
    pub fn delay(&self, delay: Duration) {
        *self.path.delay.lock().expect("no panic") = delay;
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, shared: Arc<Path>) {
    while let Ok((near, _)) = listener.accept().await {
        let path = shared.clone();
        tokio::spawn(async move {
            // A path that is cut takes nobody new to its end either.
            while path.is_cut() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let Ok(far) = TcpStream::connect(to).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(carry(near_in, far_out, path.clone()));
            carry(far_in, near_out, path).await;
        });
    }
}

/// One way: read at once, written when it is due.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, path: Arc<Path>) {
    let (queue, mut queued) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let shared = path.clone();
    tokio::spawn(async move {
        while let Some((due, bytes)) = queued.recv().await {
            tokio::time::sleep_until(due).await;
            while path.is_cut() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut bytes = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        let due = Instant::now() + *shared.delay.lock().expect("no panic");
        if queue.send((due, bytes[..read].to_vec())).is_err() {
            return;
        }
    }
}
