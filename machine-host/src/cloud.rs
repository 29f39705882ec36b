//! The machine's connection to its cloud: made when it is needed, authenticated as the part, made anew when it is gone.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, Uri};
use machine_api::proto::rpc::v1::auth_service_client::AuthServiceClient;
use machine_api::proto::rpc::v1::{AuthenticateRequest, Credentials};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tonic::{Code, Status};
use tower::{Service, service_fn};
use transport::tls::Trust;
use transport::{Address, Body, ConnectOptions, Lane, Link, Security, Target, direct};

use crate::{API_KEY, MachineError, ROBOT_SECRET};

/// How long looking up the cloud's name and authenticating may take, each.
const STEP: Duration = Duration::from_secs(5);
/// How long the cloud may say nothing, not even that it is there, before the connection to it is made anew. TCP repeats what was lost after 0.2,
/// 0.6, 1.4, 3.0 and 6.2 s, and then after 12.6: a cloud that is there again sooner than this is heard by itself within 3.2 s.
const SILENCE: Duration = Duration::from_secs(6);
/// How long one of its addresses may take to accept: TCP asks it again after 1 s.
const ACCEPT: Duration = Duration::from_secs(2);
/// Addresses of the cloud that are tried; names rarely have more than four.
const MAX_ADDRESSES: usize = 4;

/// By what a machine proves at its cloud which one it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CloudIdentity {
    /// Its part's id and secret.
    #[default]
    Part,
    /// The id of an api key that is good for it, and the key.
    ApiKey,
}

impl CloudIdentity {
    /// As credentials name it.
    fn kind(self) -> &'static str {
        match self {
            Self::Part => ROBOT_SECRET,
            Self::ApiKey => API_KEY,
        }
    }
}

/// Where a machine's cloud is, and what the machine is there.
#[derive(Clone, PartialEq, Eq)]
pub struct CloudAccount {
    /// `https://host[:port]`, or `http://` for trials on one host. Without a scheme: `https`.
    pub url: String,
    /// What `id` and `secret` are.
    pub identity: CloudIdentity,
    /// The part's id, or the key's.
    pub id: String,
    /// The part's secret, or the key.
    pub secret: String,
    /// A CA to trust beside the system's.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for CloudAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudAccount").field("url", &self.url).field("id", &self.id).finish_non_exhaustive()
    }
}

/// A service that carries calls to the cloud. Clones share one connection.
#[derive(Clone)]
pub(crate) struct CloudLink(Arc<Shared>);

struct Shared {
    account: CloudAccount,
    host: String,
    port: u16,
    security: Security,
    live: Mutex<Option<Live>>,
}

/// A link on which the part has authenticated.
#[derive(Clone)]
struct Live {
    link: Link,
    authorization: HeaderValue,
}

impl CloudLink {
    /// Connects to nothing yet.
    pub(crate) fn new(account: CloudAccount) -> Result<Self, MachineError> {
        let wrong = |why: &str| MachineError::Cloud(account.url.clone(), why.to_owned());
        let with_scheme =
            if account.url.contains("://") { account.url.clone() } else { format!("https://{}", account.url) };
        let uri: Uri = with_scheme.parse().map_err(|_| wrong("it is no URL"))?;
        let host = uri.host().ok_or_else(|| wrong("it names no host"))?.trim_matches(['[', ']']).to_owned();
        let (security, port) = match uri.scheme_str() {
            Some("http") => (Security::Clear, 80),
            Some("https") => {
                let trust = match &account.ca_file {
                    Some(path) => Trust::system().trust_ca(path)?,
                    None => Trust::system(),
                };
                let name = ServerName::try_from(host.clone()).map_err(|_| wrong("its host is no name"))?;
                (Security::Tls { config: trust.client_config()?, name }, 443)
            }
            _ => return Err(wrong("it is neither https:// nor http://")),
        };
        let port = uri.port_u16().unwrap_or(port);
        Ok(Self(Arc::new(Shared { account, host, port, security, live: Mutex::new(None) })))
    }

    /// What the cloud's relays are to prove themselves by; `None` in clear.
    pub(crate) fn tls(&self) -> Option<Arc<ClientConfig>> {
        match &self.0.security {
            Security::Tls { config, .. } => Some(config.clone()),
            Security::Clear => None,
        }
    }
}

impl Shared {
    /// The connection that there is, or a new one. Who asks meanwhile waits for the same.
    async fn live(&self) -> Result<Live, Status> {
        let mut live = self.live.lock().await;
        if let Some(live) = live.as_ref().filter(|live| live.link.takes_calls()) {
            return Ok(live.clone());
        }
        *live = None;
        let link = self.connect().await?;
        let authorization = timeout(STEP, self.authenticate(&link)).await;
        let authorization = authorization.map_err(|_| Status::unavailable("the cloud does not authenticate"))??;
        let made = Live { link, authorization };
        tracing::info!(cloud = self.account.url, "registered");
        *live = Some(made.clone());
        Ok(made)
    }

    async fn connect(&self) -> Result<Link, Status> {
        let host = (self.host.as_str(), self.port);
        let addresses = timeout(STEP, tokio::net::lookup_host(host)).await;
        let addresses = addresses.map_err(|_| Status::unavailable("no answer from DNS"))??;
        let addresses: Vec<SocketAddr> = addresses.take(MAX_ADDRESSES).collect();
        let options = ConnectOptions { tcp_timeout: ACCEPT, ..ConnectOptions::default() };
        let mut last = Status::unavailable("the cloud's name has no address");
        for address in addresses {
            let target = Target { address: Address::Tcp(address), security: self.security.clone() };
            match direct::connect(&target, &options, &mut |_, _| {}).await {
                Ok(link) => {
                    link.watch_silence(SILENCE);
                    return Ok(link);
                }
                Err(error) => last = Status::unavailable(error.to_string()),
            }
        }
        Err(last)
    }

    async fn authenticate(&self, link: &Link) -> Result<HeaderValue, Status> {
        let kind = self.account.identity.kind();
        let credentials = Credentials { r#type: kind.to_owned(), payload: self.account.secret.clone() };
        let request = AuthenticateRequest { entity: self.account.id.clone(), credentials: Some(credentials) };
        let link = link.clone();
        let on_link = service_fn(move |request| {
            let reply = link.call(request, Lane::Ordinary);
            async move { reply.await.map_err(|error| error.status) }
        });
        let token = match AuthServiceClient::new(on_link).authenticate(request).await {
            Ok(reply) => reply.into_inner().access_token,
            Err(status) => {
                tracing::warn!(cloud = self.account.url, %status, kind, "the cloud does not accept this machine's id and secret");
                return Err(status);
            }
        };
        let header = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut header = header.map_err(|_| Status::internal("the cloud's token is no header value"))?;
        header.set_sensitive(true);
        Ok(header)
    }

    async fn call(&self, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        let live = self.live().await?;
        request.headers_mut().insert(AUTHORIZATION, live.authorization.clone());
        let response = live.link.call(request, Lane::Ordinary).await.map_err(|error| error.status)?;
        let refused = Status::from_header_map(response.headers()).is_some_and(|s| s.code() == Code::Unauthenticated);
        if refused {
            // A cloud that forgot us, or a token that ran out: the next call authenticates anew.
            live.link.close();
            *self.live.lock().await = None;
        }
        Ok(response)
    }
}

impl Service<Request<Body>> for CloudLink {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move { shared.call(request).await })
    }
}
