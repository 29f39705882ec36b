//! What a peer connection may use: ICE servers, policies, sockets.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::peer::Backend;
use super::socket::Mux;

/// STUN servers that existing peers use. Here they are asked only where nobody names any server: see [`PeerOptions::stock_stun`].
pub const STOCK_STUN: [&str; 2] = ["stun:global.stun.twilio.com:3478", "stun:turn.viam.com:443"];
/// ICE servers that are used of all that are named: each is asked for every connection.
const MAX_SERVERS: usize = 16;

/// A STUN or TURN server, as signaling names it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct IceServer {
    /// `stun:`, `stuns:`, `turn:` or `turns:` URLs (RFC 7064, RFC 7065).
    pub urls: Vec<String>,
    /// TURN's user name.
    pub username: String,
    /// TURN's password.
    pub credential: String,
}

impl fmt::Debug for IceServer {
    /// Without the credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer").field("urls", &self.urls).finish_non_exhaustive()
    }
}

/// Which candidates may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IcePolicy {
    /// All.
    #[default]
    All,
    /// Only our relayed ones: nothing of our addresses is told (force-relay).
    RelayOnly,
    /// No relayed ones, neither ours nor the peer's (force-p2p).
    NoRelay,
}

/// How the machine that a URL names is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A connection.
    Tcp,
}

/// A parsed ICE URL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IceUrl {
    /// Whether it relays.
    pub turn: bool,
    /// Whether it speaks TLS.
    pub secure: bool,
    /// Its host, a name or address.
    pub host: String,
    /// Its port; default 3478, with TLS 5349.
    pub port: u16,
    /// Default UDP, with TLS TCP.
    pub transport: Transport,
}

impl IceUrl {
    /// Parses `scheme:host[:port][?transport=udp|tcp]`.
    pub fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once(':')?;
        let (turn, secure) = match scheme.to_ascii_lowercase().as_str() {
            "stun" => (false, false),
            "stuns" => (false, true),
            "turn" => (true, false),
            "turns" => (true, true),
            _ => return None,
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let transport = match query.split('&').find_map(|p| p.strip_prefix("transport=")) {
            None if secure => Transport::Tcp,
            None | Some("udp") => Transport::Udp,
            Some("tcp") => Transport::Tcp,
            Some(_) => return None,
        };
        let default = if secure { 5349 } else { 3478 };
        let (host, port) = if let Some(v6) = place.strip_prefix('[') {
            let (host, after) = v6.split_once(']')?;
            host.parse::<IpAddr>().ok()?;
            (host, after.strip_prefix(':').map_or(Some(default), |p| p.parse().ok())?)
        } else {
            match place.rsplit_once(':') {
                Some((host, port)) => (host, port.parse().ok()?),
                None => (place, default),
            }
        };
        if host.is_empty() || host.len() > 253 || port == 0 {
            return None;
        }
        Some(Self { turn, secure, host: host.to_owned(), port, transport })
    }
}

/// Which of the TURN servers that signaling names are used, and how.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TurnFilter {
    /// Only the server of this URL: scheme, host, port and transport equal.
    pub uri: Option<String>,
    /// `turn` or `turns` instead of what the URL says.
    pub secure: Option<bool>,
    /// This port instead of the URL's.
    pub port: Option<u16>,
    /// TCP instead of UDP. UDP instead of TCP is not asked for by anybody: it is the default.
    pub tcp: bool,
}

/// Where packets leave from.
#[derive(Clone, Debug, Default)]
pub enum SocketChoice {
    /// A UDP socket per connection, at a port that the system chooses.
    #[default]
    Ephemeral,
    /// One UDP socket for many connections; see [`Mux`].
    Shared(Arc<Mux>),
}

/// What a peer connection may use.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// STUN and TURN servers besides those that signaling names. Default none.
    pub ice_servers: Vec<IceServer>,
    /// Whether [`STOCK_STUN`] is asked where neither `ice_servers` nor signaling names a server: for ends that may be anywhere on the internet. Default false.
    pub stock_stun: bool,
    /// Which candidates may be used. Default all.
    pub policy: IcePolicy,
    /// Applied to the TURN servers that signaling names. Default: all of them as they are.
    pub turn: TurnFilter,
    /// Whether candidates may follow the description. Without, the description waits until all are known, at most 3 s.
    /// Default true.
    pub trickle: bool,
    /// Where packets leave from. Default a socket of its own.
    pub socket: SocketChoice,
    /// Whether descriptions tell of the SCTP association, which then needs no handshake where both do. Default true: existing peers pass over it.
    pub sctp_init: bool,
    /// Whether loopback addresses are candidates. Default true.
    pub loopback: bool,
    /// Trust for TURN over TLS; without it such servers are passed over.
    pub turn_tls: Option<Arc<rustls::ClientConfig>>,
    /// Which library makes the connection. Default str0m.
    pub backend: Backend,
    /// Bound of everything up to the open channel. Default 10 s, as existing peers have it.
    pub timeout: Duration,
}

impl Default for PeerOptions {
    fn default() -> Self {
        Self {
            ice_servers: Vec::new(),
            stock_stun: false,
            policy: IcePolicy::All,
            turn: TurnFilter::default(),
            trickle: true,
            socket: SocketChoice::Ephemeral,
            sctp_init: true,
            loopback: true,
            turn_tls: None,
            backend: Backend::default(),
            timeout: Duration::from_secs(10),
        }
    }
}

/// A server that is to be asked.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub url: IceUrl,
    pub username: String,
    pub credential: String,
}

impl fmt::Debug for Server {
    /// Without the credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("url", &self.url).finish_non_exhaustive()
    }
}

impl PeerOptions {
    /// The servers to ask: ours as they are, those that signaling named through the filter. What cannot be parsed is left out.
    pub(crate) fn servers(&self, named: &[IceServer]) -> Vec<Server> {
        let filter = &self.turn;
        let only = match filter.uri.as_deref().map(IceUrl::parse) {
            // An option that cannot be understood disables all of them, as existing peers do.
            Some(None) => return self.servers_with(named, |_| true, &TurnFilter::default()),
            Some(only) => only,
            None => None,
        };
        self.servers_with(named, |url| only.as_ref().is_none_or(|only| only == url), filter)
    }

    fn servers_with(&self, named: &[IceServer], keep: impl Fn(&IceUrl) -> bool, filter: &TurnFilter) -> Vec<Server> {
        let each = |servers: &[IceServer], named: bool| -> Vec<Server> {
            let of = |s: &IceServer| {
                let (username, credential) = (s.username.clone(), s.credential.clone());
                let urls = s.urls.iter().filter_map(|u| IceUrl::parse(u));
                let kept = urls.filter(|u| !named || !u.turn || keep(u));
                let server = |mut url: IceUrl| {
                    if named && url.turn {
                        url.secure = filter.secure.unwrap_or(url.secure);
                        url.port = filter.port.unwrap_or(url.port);
                        if filter.tcp {
                            url.transport = Transport::Tcp;
                        }
                    }
                    Server { url, username: username.clone(), credential: credential.clone() }
                };
                kept.map(server).collect::<Vec<_>>()
            };
            servers.iter().flat_map(of).collect()
        };
        let mut all = each(&self.ice_servers, false);
        all.extend(each(named, true));
        all.retain(|s| match self.policy {
            IcePolicy::All => true,
            IcePolicy::RelayOnly => s.url.turn,
            IcePolicy::NoRelay => !s.url.turn,
        });
        let mut seen: Vec<Server> = Vec::new();
        for server in all {
            if !seen.contains(&server) {
                seen.push(server);
            }
        }
        seen.truncate(MAX_SERVERS);
        seen.extend(self.stun_besides(&seen));
        seen
    }

    /// Who tells where we are seen, if none of the others is there for that: a relay does too (RFC 8656 section 2), and else the stock servers.
    fn stun_besides(&self, others: &[Server]) -> Vec<Server> {
        let datagrams = |s: &&Server| s.url.transport == Transport::Udp && !s.url.secure;
        let asked = others.iter().filter(datagrams).any(|s| !s.url.turn);
        if asked || self.policy == IcePolicy::RelayOnly {
            return Vec::new();
        }
        let plain = |url: IceUrl| Server { url, username: String::new(), credential: String::new() };
        if others.is_empty() && self.stock_stun {
            return STOCK_STUN.iter().filter_map(|url| IceUrl::parse(url)).map(plain).collect();
        }
        let relays = others.iter().filter(datagrams).take(2);
        relays.map(|s| plain(IceUrl { turn: false, ..s.url.clone() })).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Option<(bool, bool, String, u16, Transport)> {
        IceUrl::parse(text).map(|u| (u.turn, u.secure, u.host, u.port, u.transport))
    }

    #[test]
    fn ice_urls_are_read_with_their_defaults() {
        use Transport::{Tcp, Udp};
        assert_eq!(url("stun:a.example"), Some((false, false, "a.example".into(), 3478, Udp)));
        assert_eq!(url("turn:a.example:80?transport=tcp"), Some((true, false, "a.example".into(), 80, Tcp)));
        assert_eq!(url("turns:a.example"), Some((true, true, "a.example".into(), 5349, Tcp)));
        assert_eq!(url("turn:[2001:db8::1]:7"), Some((true, false, "2001:db8::1".into(), 7, Udp)));
        for bad in ["", "http://x", "turn:", "turn::1", "turn:x:99999", "turn:x?transport=sctp", "turn:[x]:1"] {
            assert_eq!(url(bad), None, "{bad}");
        }
    }

    #[test]
    fn turn_filters_touch_only_what_signaling_named() {
        let named = IceServer {
            urls: ["stun:s.example", "turn:a.example", "turn:b.example?transport=udp"].map(String::from).into(),
            ..IceServer::default()
        };
        let mut options = PeerOptions {
            ice_servers: vec![IceServer { urls: vec!["turn:own.example".into()], ..IceServer::default() }],
            ..PeerOptions::default()
        };
        let hosts = |o: &PeerOptions| -> Vec<String> {
            o.servers(std::slice::from_ref(&named)).into_iter().map(|s| s.url.host).collect()
        };
        assert_eq!(hosts(&options), ["own.example", "s.example", "a.example", "b.example"]);
        options.turn =
            TurnFilter { uri: Some("turn:b.example:3478".into()), port: Some(443), tcp: true, ..TurnFilter::default() };
        assert_eq!(hosts(&options), ["own.example", "s.example", "b.example"]);
        let b = options.servers(std::slice::from_ref(&named)).pop().expect("kept");
        assert_eq!((b.url.port, b.url.transport), (443, Transport::Tcp));
        options.turn.uri = Some("nonsense".into());
        assert_eq!(hosts(&options).len(), 4, "a filter that cannot be understood is none");
        options.policy = IcePolicy::NoRelay;
        assert_eq!(hosts(&options), ["s.example"]);
        options.policy = IcePolicy::RelayOnly;
        assert_eq!(hosts(&options), ["own.example", "a.example", "b.example"]);
    }

    #[test]
    fn somebody_tells_where_we_are_seen() {
        let asked = |options: &PeerOptions, urls: &[&str]| -> Vec<String> {
            let urls = urls.iter().map(|url| (*url).to_owned()).collect();
            let named = IceServer { urls, username: "user".into(), credential: "secret".into() };
            let stun = |s: &Server| !s.url.turn && s.username.is_empty() && s.credential.is_empty();
            options
                .servers(&[named])
                .iter()
                .filter(|s| stun(s))
                .map(|s| format!("{}:{}", s.url.host, s.url.port))
                .collect()
        };
        let mut options = PeerOptions::default();
        assert_eq!(asked(&options, &[]), [""; 0]);
        assert_eq!(asked(&options, &["turn:a.example", "turn:b.example:80?transport=tcp"]), ["a.example:3478"]);
        assert_eq!(asked(&options, &["turn:a.example", "turns:a.example", "stuns:c.example"]), ["a.example:3478"]);
        let other = IceServer { urls: vec!["stun:d.example".into()], ..IceServer::default() };
        options.ice_servers.push(other);
        assert_eq!(asked(&options, &["turn:a.example"]), ["d.example:3478"]);
        options.ice_servers.clear();
        options.stock_stun = true;
        assert_eq!(asked(&options, &[]), ["global.stun.twilio.com:3478", "turn.viam.com:443"]);
        assert_eq!(asked(&options, &["turn:a.example"]), ["a.example:3478"]);
        options.policy = IcePolicy::NoRelay;
        assert_eq!(asked(&options, &["turn:a.example"]), ["global.stun.twilio.com:3478", "turn.viam.com:443"]);
        options.policy = IcePolicy::RelayOnly;
        assert_eq!(asked(&options, &["turn:a.example"]), [""; 0]);
    }
}
