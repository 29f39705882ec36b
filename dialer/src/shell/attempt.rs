//! One try: connect, let the machine prove its name, authenticate; and the probe of a link that stands.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use machine_api::BOOT_HEADER;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::sync::mpsc;
use transport::{Address, ConnectOptions, Lane, Link, LinkId, Security, Target};

use super::Input;
use crate::agent::{Attempt, Failure, Route, Stage};
use crate::options::{Admit, Admitted};
use crate::probe::question;

/// A probe that is out for longer is forgotten; the agent judged it long before.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// What every attempt of a dialer needs.
pub(super) struct Maker {
    pub admit: Arc<dyn Admit>,
    /// `None`: in clear, because the user said so.
    pub tls: Option<Tls>,
    pub timeout: Duration,
}

/// How the machine is to prove itself.
pub(super) struct Tls {
    pub trust: transport::tls::Trust,
    /// The name, or why there is none.
    pub name: Result<ServerName<'static>, String>,
}

impl Tls {
    fn security(&self) -> Result<Security, String> {
        let config: Arc<ClientConfig> = self.trust.client_config().map_err(|error| error.to_string())?;
        Ok(Security::Tls { config, name: self.name.clone()? })
    }
}

impl Maker {
    fn target(&self, route: &Route) -> Result<Target, String> {
        match route {
            // The file system's permissions decide who listens there.
            Route::Unix(path) => Ok(Target { address: Address::Unix(path.clone()), security: Security::Clear }),
            Route::Direct(address) => {
                let security = match &self.tls {
                    Some(tls) => tls.security()?,
                    None => Security::Clear,
                };
                Ok(Target { address: Address::Tcp(*address), security })
            }
        }
    }

    /// Makes a link and has it admitted. Reports every stage on the way, and the end.
    pub async fn make(self: Arc<Self>, attempt: Attempt, route: Route, inputs: mpsc::UnboundedSender<Input>) {
        let made = self.link(attempt, &route, &inputs).await;
        // An error means that the dialer is closed.
        let _ = inputs.send(match made {
            Ok((link, admitted)) => Input::Connected { attempt, route, link, admitted },
            Err(why) => Input::Failed { attempt, why },
        });
    }

    async fn link(
        &self,
        attempt: Attempt,
        route: &Route,
        inputs: &mpsc::UnboundedSender<Input>,
    ) -> Result<(Link, Admitted), Failure> {
        let fail = |stage, message| Failure { stage, verdict: false, message };
        let target = self.target(route).map_err(|message| fail(Stage::Tls, message))?;
        let options = ConnectOptions { tcp_timeout: self.timeout, handshake_timeout: self.timeout };
        let mut stages = |stage, _| {
            let _ = inputs.send(Input::Stage { attempt, stage: stage_of(stage) });
        };
        let connected = transport::direct::connect(&target, &options, &mut stages).await;
        // Who answers without proving to be the machine is not the machine: no verdict of it, whatever it says.
        let link = connected.map_err(|error| fail(stage_of(error.stage), error.what))?;
        let admitted = tokio::time::timeout(self.timeout, self.admit.admit(&link)).await;
        match admitted {
            Ok(Ok(admitted)) => {
                let _ = inputs.send(Input::Stage { attempt, stage: Stage::Auth });
                Ok((link, admitted))
            }
            Ok(Err(refusal)) => {
                link.sever("not admitted");
                Err(Failure { stage: Stage::Auth, verdict: refusal.verdict, message: refusal.message })
            }
            Err(_) => {
                link.sever("authentication took too long");
                Err(fail(Stage::Auth, format!("no answer within {:?}", self.timeout)))
            }
        }
    }
}

fn stage_of(stage: transport::Stage) -> Stage {
    match stage {
        transport::Stage::Tcp => Stage::Tcp,
        transport::Stage::Tls => Stage::Tls,
        transport::Stage::Http2 => Stage::Http2,
    }
}

/// Asks the cheapest question and reports the answer, whatever it is.
pub(super) async fn probe(
    attempt: Attempt,
    link: Link,
    authorization: Option<HeaderValue>,
    inputs: mpsc::UnboundedSender<Input>,
) {
    let began = Instant::now();
    let answer = tokio::time::timeout(PROBE_LIMIT, link.call(question(authorization), Lane::Reserved)).await;
    if link.is_refused() {
        let _ = inputs.send(Input::Refused { link: link.info().id });
    }
    if let Ok(Ok(answer)) = answer {
        let named = answer.headers().get(BOOT_HEADER).and_then(|value| value.to_str().ok());
        let boot = named.and_then(|text| u128::from_str_radix(text, 16).ok());
        let _ = inputs.send(Input::Probed { attempt, link: link.info().id, rtt: began.elapsed(), boot });
    }
}

/// Resolves with a link's end.
pub(super) async fn watch(link: Link, inputs: mpsc::UnboundedSender<Input>) {
    let why = link.closed().await;
    let id: LinkId = link.info().id;
    let _ = inputs.send(Input::Closed { link: id, why });
}
