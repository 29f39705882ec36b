//! A path to a machine that can be cut silently, in one direction or in both.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Forwards connections to a machine. What is cut is neither delivered nor refused: it waits, as in a black hole.
pub struct Proxy {
    pub address: SocketAddr,
    up: watch::Sender<bool>,
    down: watch::Sender<bool>,
    /// Connections that were made before are forgotten so often.
    forgotten: watch::Sender<u32>,
}

impl Proxy {
    pub async fn to(machine: SocketAddr, on: &str) -> Self {
        let listener = TcpListener::bind((on, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (up, down) = (watch::Sender::new(false), watch::Sender::new(false));
        let forgotten = watch::Sender::new(0);
        let forgets = forgotten.subscribe();
        let (stalled_up, stalled_down) = (up.subscribe(), down.subscribe());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(machine).await else { continue };
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                let mut forgets = forgets.clone();
                forgets.mark_unchanged();
                let (up, down) = (stalled_up.clone(), stalled_down.clone());
                tokio::spawn(until_forgotten(forward(from_client, to_server, up), forgets.clone()));
                tokio::spawn(until_forgotten(forward(from_server, to_client, down), forgets));
            }
        });
        Self { address, up, down, forgotten }
    }

    /// What goes over the connections that there are vanishes from now on, as behind a translator that lost them. New ones work.
    pub fn forget(&self) {
        self.forgotten.send_modify(|times| *times += 1);
    }

    /// Nothing reaches the machine any more.
    pub fn stall_up(&self) {
        self.up.send_replace(true);
    }

    /// Nothing comes from the machine any more.
    pub fn stall_down(&self) {
        self.down.send_replace(true);
    }

    /// Everything flows, also what was held back.
    pub fn release(&self) {
        self.up.send_replace(false);
        self.down.send_replace(false);
    }
}

/// Carries nothing any more once it is forgotten, and keeps both ends open.
async fn until_forgotten(carrying: impl Future<Output = ()>, mut forgets: watch::Receiver<u32>) {
    tokio::pin!(carrying);
    tokio::select! {
        () = &mut carrying => {}
        changed = forgets.changed() => match changed {
            Ok(()) => std::future::pending().await,
            Err(_) => carrying.await,
        },
    }
}

async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut stalled: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        if stalled.wait_for(|stalled| !stalled).await.is_err() || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
