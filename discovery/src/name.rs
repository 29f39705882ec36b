//! What users write: machine names, `host:port`, addresses, Unix sockets.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use crate::DEFAULT_PORT;

/// How machine names end, and what stands in their `.local` form instead. The first row is the public cloud; the others are its siblings
/// for tests.
const SUFFIXES: [(&str, &str); 2] = [(".viam.cloud", ".local.viam.cloud"), (".viamstg.cloud", ".local.viamstg.cloud")];

/// Which signaling service knows the machines whose names end like this (host and port, always by TLS).
const SIGNALING: [(&str, (&str, u16)); 3] = [
    (".viam.cloud", ("app.viam.com", 443)),
    (".viamstg.cloud", ("app.viam.dev", 443)),
    (".robot.viaminternal", ("app.viaminternal", 8089)),
];

/// A machine's name, in the form that was given: `m-main.loc1.viam.cloud` or `m-main.loc1.local.viam.cloud`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineName(String);

/// What to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineAddress {
    /// A machine by its name, to be found.
    Machine(MachineName),
    /// A host name and port, to be looked up.
    HostPort {
        /// The host's name.
        host: String,
        /// The port.
        port: u16,
    },
    /// An IP address and port.
    Socket(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing was given.
    #[error("the address is empty; give a machine's name, host:port, an IP address or unix:PATH")]
    Empty,
    /// It begins with a scheme.
    #[error("{0:?} is a URL; give the part between {1:?} and the next slash")]
    Url(String, String),
    /// The part after the last colon is no port.
    #[error("{0:?} has no valid port; ports go from 1 to 65535")]
    Port(String),
    /// The host is no name.
    #[error(
        "{0:?} is no host name: names are letters, digits, dashes and dots, at most 63 between dots and 253 in all"
    )]
    Host(String),
    /// `unix:` without a path.
    #[error("unix: needs a path, such as unix:/run/machine.sock")]
    Path,
}

impl MachineName {
    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the `.local` form was given: only local routes are tried for it.
    pub fn is_local(&self) -> bool {
        SUFFIXES.iter().any(|(_, local)| self.0.ends_with(local))
    }

    /// The form for the cloud.
    pub fn cloud(&self) -> String {
        let local =
            SUFFIXES.iter().find_map(|(cloud, local)| self.0.strip_suffix(local).map(|stem| format!("{stem}{cloud}")));
        local.unwrap_or_else(|| self.0.clone())
    }

    /// The host and port of the signaling service that the name belongs to; `None` for a `.local` name, which no service is asked about, and for
    /// names of unknown origin.
    pub fn signaling(&self) -> Option<(&'static str, u16)> {
        let of = |(suffix, service): &(&str, _)| self.0.ends_with(suffix).then_some(*service);
        if self.is_local() { None } else { SIGNALING.iter().find_map(of) }
    }

    /// The form for local networks.
    pub fn local(&self) -> String {
        if self.is_local() {
            return self.0.clone();
        }
        let cloud =
            SUFFIXES.iter().find_map(|(cloud, local)| self.0.strip_suffix(cloud).map(|stem| format!("{stem}{local}")));
        cloud.unwrap_or_else(|| self.0.clone())
    }

    /// Both forms, the given one first: a machine answers to both.
    pub fn forms(&self) -> Vec<String> {
        let mut forms = vec![self.0.clone(), self.cloud(), self.local()];
        forms.dedup();
        if forms.len() > 1 && forms.first() == forms.last() {
            forms.pop();
        }
        forms
    }

    /// The names under which its service instance may be published: each form with its dots, as several labels, and as one label with
    /// dashes instead. A dashed label of over 63 bytes is no DNS label and is not published.
    pub fn instances(&self) -> Vec<Vec<String>> {
        let forms = self.forms();
        let dotted = forms.iter().map(|form| form.split('.').map(str::to_owned).collect());
        let dashed =
            forms.iter().map(|form| form.replace('.', "-")).filter(|label| label.len() <= 63).map(|label| vec![label]);
        dotted.chain(dashed).collect()
    }
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MachineName {
    type Err = AddressError;

    /// Any host name is a machine's name; case does not matter.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let name = text.trim_end_matches('.').to_ascii_lowercase();
        let fits = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
        };
        if name.is_empty() {
            return Err(AddressError::Empty);
        }
        if name.len() > 253 || !name.split('.').all(fits) {
            return Err(AddressError::Host(text.to_owned()));
        }
        Ok(Self(name))
    }
}

impl FromStr for MachineAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(AddressError::Path) } else { Ok(Self::Unix(path.into())) };
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(AddressError::Url(text.to_owned(), format!("{scheme}://")));
        }
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return if socket.port() == 0 {
                Err(AddressError::Port(text.to_owned()))
            } else {
                Ok(Self::Socket(socket))
            };
        }
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(Self::Socket(SocketAddr::new(ip, DEFAULT_PORT)));
        }
        let Some((host, port)) = text.rsplit_once(':') else { return Ok(Self::Machine(text.parse()?)) };
        let host: MachineName = host.parse()?;
        match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(Self::HostPort { host: host.0, port }),
            _ => Err(AddressError::Port(text.to_owned())),
        }
    }
}

impl fmt::Display for MachineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(name) => name.fmt(f),
            Self::HostPort { host, port } => write!(f, "{host}:{port}"),
            Self::Socket(socket) => socket.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        let host = |host: &str, port| MachineAddress::HostPort { host: host.into(), port };
        let socket = |text: &str| MachineAddress::Socket(text.parse().expect("an address"));
        for (text, address) in [
            ("M-main.Loc1.viam.cloud.", MachineAddress::Machine(MachineName("m-main.loc1.viam.cloud".into()))),
            ("localhost:8080", host("localhost", 8080)),
            ("m-main.loc1.viam.cloud:443", host("m-main.loc1.viam.cloud", 443)),
            ("10.0.0.7", socket("10.0.0.7:8080")),
            ("10.0.0.7:9", socket("10.0.0.7:9")),
            ("[fe80::1]:9", socket("[fe80::1]:9")),
            ("::1", socket("[::1]:8080")),
            ("[::1]", socket("[::1]:8080")),
            ("unix:/run/m.sock", MachineAddress::Unix("/run/m.sock".into())),
            ("unix:///run/m.sock", MachineAddress::Unix("/run/m.sock".into())),
        ] {
            assert_eq!(text.parse(), Ok(address), "{text:?}");
        }
    }

    #[test]
    fn wrong_addresses_say_what_is_wrong() {
        let parse = |text: &str| text.parse::<MachineAddress>().expect_err(text);
        assert_eq!(parse("  "), AddressError::Empty);
        assert!(matches!(parse("https://m.viam.cloud/x"), AddressError::Url(_, scheme) if scheme == "https://"));
        for wrong in ["host:", "host:0", "host:65536", "10.0.0.7:0", "host:http"] {
            assert!(matches!(parse(wrong), AddressError::Port(_)), "{wrong:?}");
        }
        for wrong in ["a b", "a..b", "-a", "a/b", "host/x:1", &"x".repeat(64), &"x.".repeat(130), "ä.cloud"] {
            assert!(matches!(parse(wrong), AddressError::Host(_)), "{wrong:?}");
        }
        assert_eq!(parse("unix:"), AddressError::Path);
    }

    #[test]
    fn a_name_says_which_service_knows_it() {
        let service = |name: &str| name.parse::<MachineName>().expect("a name").signaling();
        assert_eq!(service("m-main.loc1.viam.cloud"), Some(("app.viam.com", 443)));
        assert_eq!(service("m-main.loc1.viamstg.cloud"), Some(("app.viam.dev", 443)));
        assert_eq!(service("m-main.loc1.robot.viaminternal"), Some(("app.viaminternal", 8089)));
        for nobodys in
            ["m-main.loc1.local.viam.cloud", "m-main.loc1.local.viamstg.cloud", "viam.cloud", "robot.example"]
        {
            assert_eq!(service(nobodys), None, "{nobodys}");
        }
    }

    #[test]
    fn a_machine_answers_to_its_cloud_and_its_local_name() {
        let cloud: MachineName = "m-main.loc1.viam.cloud".parse().expect("a name");
        let local: MachineName = "m-main.loc1.local.viam.cloud".parse().expect("a name");
        assert_eq!(cloud.local(), local.as_str());
        assert_eq!(local.cloud(), cloud.as_str());
        assert!(local.is_local() && !cloud.is_local());
        assert_eq!(cloud.forms(), [cloud.as_str(), local.as_str()]);
        assert_eq!(local.forms(), [local.as_str(), cloud.as_str()]);
        let other: MachineName = "robot.example.org".parse().expect("a name");
        assert_eq!(other.forms(), ["robot.example.org"]);
    }

    #[test]
    fn instances_are_dotted_and_dashed() {
        let name: MachineName = "m-main.loc1.viam.cloud".parse().expect("a name");
        let dotted = |form: &str| form.split('.').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            name.instances(),
            [
                dotted("m-main.loc1.viam.cloud"),
                dotted("m-main.loc1.local.viam.cloud"),
                vec!["m-main-loc1-viam-cloud".to_owned()],
                vec!["m-main-loc1-local-viam-cloud".to_owned()],
            ]
        );
        let long: MachineName = format!("{}.loc1.viam.cloud", "x".repeat(60)).parse().expect("a name");
        assert_eq!(long.instances().len(), 2, "a dashed label over 63 bytes is none");
    }
}
