//! Authentication in front of a signaling service that stands alone.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;
use tower::Service;
use transport::Body;
use transport::serve::{ConnectionEvent, Listener, PeerConnection, ServeOptions, serve};

use super::Party;
use crate::Authenticator;
use crate::guard::Tokens;

/// Connections at once: every machine has one.
const MAX_CONNECTIONS: usize = 8192;

/// Authenticates every call but those of the AuthService, and tells services the [`Party`] that calls.
#[derive(Clone)]
pub struct Front {
    authenticator: Arc<Authenticator>,
    /// A token that was accepted on a connection stays good for it: machines keep theirs for days and never refresh a token.
    tokens: Arc<Tokens>,
    routes: Routes,
}

impl Front {
    /// Lets through to `routes` who is known to `authenticator`.
    pub fn new(authenticator: Arc<Authenticator>, routes: Routes) -> Self {
        Self { authenticator, tokens: Arc::default(), routes: routes.prepare() }
    }

    /// Serves gRPC and gRPC-web on `listener` until `shutdown`, in clear where `tls` is `None`.
    pub async fn serve(
        self,
        listener: TcpListener,
        tls: Option<Arc<ServerConfig>>,
        shutdown: CancellationToken,
    ) -> io::Result<()> {
        let tokens = self.tokens.clone();
        let events = move |event| {
            if let ConnectionEvent::Closed(peer) = event {
                tokens.forget(peer.id);
            }
        };
        let options = ServeOptions { tls, max_connections: MAX_CONNECTIONS, ..ServeOptions::default() };
        serve(Listener::Tcp(listener), self, options, events, shutdown).await
    }

    fn identify(&self, request: &Request<Body>) -> Result<Party, Status> {
        let Some(peer) = request.extensions().get::<Arc<PeerConnection>>() else {
            return Err(Status::internal("the request came by no connection"));
        };
        let (principal, _) = self.tokens.principal(&self.authenticator, peer.id, request.headers())?;
        Ok(Party { principal, connection: peer.id })
    }
}

impl Service<Request<Body>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if !request.uri().path().starts_with("/proto.rpc.v1.AuthService/") {
            match self.identify(&request) {
                Ok(party) => {
                    request.extensions_mut().insert(party);
                }
                Err(status) => return Box::pin(async move { Ok(status.into_http()) }),
            }
        }
        let mut routes = self.routes.clone();
        Box::pin(async move { routes.call(request).await })
    }
}
