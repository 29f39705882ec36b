//! Where candidates come from: the address itself, or whatever the finder finds.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::sync::mpsc;

use super::inputs::{Found, Input};
use crate::agent::{Attempt, Origin, Route, Signaler};
use discovery::{
    Announcements, Finder, FinderOptions, MachineAddress, MachineName, Memory, Search, Source, SourceError,
    Surroundings,
};

/// Asks all sources, and tells them what came of their answers.
pub(super) struct Sources {
    target: MachineAddress,
    /// The signaling service, where one was named.
    cloud: Option<Route>,
    finder: Finder,
}

impl Sources {
    pub fn new(target: MachineAddress, options: FinderOptions, cloud: Option<(String, u16)>) -> Self {
        // A local name leads nowhere but to local routes, and is told to no cloud (s69).
        let local = matches!(&target, MachineAddress::Machine(name) if name.is_local());
        let cloud = cloud.filter(|_| !local).map(|(host, port)| Route::WebRtc(Signaler::Cloud { host, port }));
        Self { target, cloud, finder: Finder::new(options) }
    }

    /// Hears the machine's announcements, for as long as it runs; `None` where there is nothing to hear.
    pub fn listen(
        &self,
        here: &Surroundings,
        inputs: mpsc::UnboundedSender<Input>,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        match &self.target {
            MachineAddress::Machine(name) => Some(report(self.finder.listen(name, here), inputs)),
            _ => None,
        }
    }

    /// One search, to its end.
    pub fn search(
        &self,
        search: Attempt,
        here: &Arc<Surroundings>,
        found: mpsc::Sender<Found>,
    ) -> impl Future<Output = ()> + Send + use<> {
        // What is asked is under way before the task below has its turn.
        let asked = self.finder.find(&self.target, here);
        let known = match (&self.target, &self.cloud) {
            (MachineAddress::Unix(path), _) => Some((Route::Unix(path.clone()), Origin::Given)),
            (_, cloud) => cloud.clone().map(|route| (route, Origin::Cloud)),
        };
        async move {
            if let Some((route, origin)) = known {
                let _ = found.send(Found::Candidate(route, origin)).await;
            }
            let conclusive = report_found(asked, &found).await;
            // An error means that the dialer is closed.
            let _ = found.send(Found::Done { search, conclusive }).await;
        }
    }
}

/// Reports every address that the machine announces.
async fn report(mut announcements: Announcements, inputs: mpsc::UnboundedSender<Input>) {
    while let Some(found) = announcements.next().await {
        if found.grpc && inputs.send(Input::Heard(found.address)).is_err() {
            return;
        }
    }
}

/// What becomes of addresses is written down for the next dial. Files may be slow: nobody waits for them.
pub(super) struct Remembering {
    memory: Memory,
    name: MachineName,
}

impl Remembering {
    pub fn of(target: &MachineAddress, options: &FinderOptions) -> Option<Self> {
        match (target, &options.memory) {
            (MachineAddress::Machine(name), Some(memory)) => Some(Self { memory: memory.clone(), name: name.clone() }),
            _ => None,
        }
    }

    pub fn learned(&self, address: SocketAddr, here: Arc<Surroundings>) {
        let (memory, name) = (self.memory.clone(), self.name.clone());
        tokio::task::spawn_blocking(move || memory.learned(&name, address, &here));
    }

    pub fn failed(&self, address: SocketAddr) {
        let (memory, name) = (self.memory.clone(), self.name.clone());
        tokio::task::spawn_blocking(move || memory.failed(&name, address));
    }
}

/// Whether the sources of a search have given answers, by what they complained of.
#[derive(Default)]
struct Answers {
    /// The local network was asked, and nobody there is the machine.
    silence: bool,
    /// DNS could not be asked.
    no_dns: bool,
    /// Another source could not.
    missing: bool,
}

impl Answers {
    fn note(&mut self, error: &SourceError) {
        match error {
            SourceError::Silence { .. } => self.silence = true,
            SourceError::Dns { conclusive, .. } => self.no_dns |= !conclusive,
            SourceError::NotLocal(_) => {}
            _ => self.missing = true,
        }
    }

    /// Silence is an answer; a source that could not be asked is none. Where the local network was asked, DNS may be missing as it is on every network
    /// that the internet does not reach.
    fn conclusive(&self) -> bool {
        !self.missing && (!self.no_dns || self.silence)
    }
}

/// Reports what a search finds; whether that is all there is to know.
async fn report_found(mut search: Search, found: &mpsc::Sender<Found>) -> bool {
    let mut answers = Answers::default();
    while let Some(told) = search.next().await {
        let told = match told {
            Ok(one) => {
                let origin = origin(&one.source);
                // Who answers offers by its own word is called there; an address that was only looked up is not known to.
                if one.webrtc && origin == Origin::Mdns {
                    let route = Route::WebRtc(Signaler::Machine(one.address));
                    if found.send(Found::Candidate(route, origin)).await.is_err() {
                        break;
                    }
                }
                if !one.grpc {
                    continue;
                }
                Found::Candidate(Route::Direct(one.address), origin)
            }
            Err(error) => {
                answers.note(&error);
                Found::Complaint(error.to_string())
            }
        };
        if found.send(told).await.is_err() {
            break;
        }
    }
    answers.conclusive()
}

fn origin(source: &Source) -> Origin {
    match source {
        Source::Remembered => Origin::Remembered,
        Source::Given => Origin::Given,
        Source::Mdns { .. } => Origin::Mdns,
        Source::Dns { .. } => Origin::Dns,
    }
}

/// The name that the machine's certificate must bear: its own, whatever address was found, or the host or address given.
pub(super) fn server_name(chosen: Option<&str>, target: &MachineAddress) -> Result<ServerName<'static>, String> {
    let name = match (chosen, target) {
        (Some(name), _) => name.to_owned(),
        (None, MachineAddress::Machine(name)) => name.to_string(),
        (None, MachineAddress::HostPort { host, .. }) => host.clone(),
        (None, MachineAddress::Socket(address)) => return Ok(ServerName::IpAddress(address.ip().into())),
        // A Unix socket has no name to prove.
        (None, MachineAddress::Unix(_)) => "localhost".to_owned(),
    };
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(ServerName::IpAddress(address.into()));
    }
    ServerName::try_from(name.clone())
        .map_err(|_| format!("{name:?} is no name that a certificate can bear; give one with tls_name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_unknown_where_somebody_was_asked_and_not_where_dns_is_down() {
        let name = || "robot.example".to_owned();
        let dns = |conclusive| SourceError::Dns { name: name(), reason: "as it is".to_owned(), conclusive };
        let machine = || "rover-main.0a1bcdefgi.viam.cloud".parse::<MachineName>().expect("a name");
        let silence = || SourceError::Silence { name: machine(), interfaces: vec!["eth0".to_owned()] };
        let missing = || SourceError::Interfaces("as it is".to_owned());
        for (errors, conclusive) in [
            (vec![], true),
            (vec![dns(true)], true),
            (vec![dns(false)], false),
            (vec![dns(false), silence()], true),
            (vec![SourceError::NotLocal(name())], true),
            (vec![silence(), missing()], false),
        ] {
            let mut answers = Answers::default();
            errors.iter().for_each(|error| answers.note(error));
            assert_eq!(answers.conclusive(), conclusive, "{errors:?}");
        }
    }
}
