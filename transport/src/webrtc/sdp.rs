//! Session descriptions (RFC 8866, RFC 8841), as far as a data channel needs them. Pure: text in, values out.
//!
//! Only the section of the data channels is kept. Others, audio and video of a re-offer, are remembered so far that an answer can
//! refuse each in its place.

use std::fmt::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The longest encoded description that is looked at, in bytes. A browser's offer with every codec and thirty candidates is about
/// 12 KiB; a megabyte is an attack.
pub const MAX_ENCODED: usize = 256 << 10;
/// Sections that a description may have: a machine's cameras are some dozens of tracks.
const MAX_SECTIONS: usize = 64;
/// Candidates that are taken from one description; the rest is ignored.
const MAX_CANDIDATES: usize = 64;
/// The longest credential (RFC 8839 section 5.4).
const MAX_CREDENTIAL: usize = 256;
/// The longest INIT, in characters of base64. The library's are some 40 bytes.
const MAX_INIT: usize = 1024;
/// What a peer takes that does not say (RFC 8841 section 6.1).
const DEFAULT_MAX_MESSAGE: u32 = 64 << 10;

/// Which half of the exchange a description is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Opens an exchange.
    Offer,
    /// Ends it.
    Answer,
}

/// Who opens the DTLS handshake (RFC 4145 section 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setup {
    /// Whoever answers decides; only in offers.
    ActPass,
    /// The describing side opens.
    Active,
    /// The described side opens.
    Passive,
}

/// A section that carries no data channel.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Refused {
    /// Media, protocol and formats, without the port: `video`, `UDP/TLS/RTP/SAVPF 96`.
    media: String,
    rest: String,
    mid: Option<String>,
}

/// What one side says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// Offer or answer.
    pub kind: Kind,
    /// The session's number and version, as they stand in the `o=` line.
    pub origin: (u64, u64),
    /// ICE: user name fragment.
    pub ufrag: String,
    /// ICE: password.
    pub password: String,
    /// SHA-256 of the certificate that the DTLS handshake must show.
    pub fingerprint: [u8; 32],
    /// Who opens the DTLS handshake.
    pub setup: Setup,
    /// The section's name.
    pub mid: String,
    /// The longest message that this side reads, in bytes; 0 means any.
    pub max_message_size: u32,
    /// The INIT of this side's SCTP association, which then needs no handshake where the other side has told its own
    /// (draft-hancke-tsvwg-snap): two round trips less. Existing peers pass over it.
    pub sctp_init: Option<Vec<u8>>,
    /// Candidates as in the W3C's `candidate:...` form, without `a=`.
    pub candidates: Vec<String>,
    /// No more candidates follow.
    pub complete: bool,
    /// Other sections before and after that of the data channels, for the answer.
    before: Vec<Refused>,
    after: Vec<Refused>,
}

/// Why a description cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SdpError {
    /// Longer than [`MAX_ENCODED`].
    #[error("the description is {0} bytes long, at most {MAX_ENCODED} are read")]
    TooLong(usize),
    /// Neither base64 of JSON nor JSON.
    #[error("the description is not base64 of a JSON object with type and sdp: {0}")]
    Encoding(String),
    /// Not an offer or answer.
    #[error("a description of type {0:?} is neither offer nor answer")]
    Kind(String),
    /// Something that every peer sends is missing or malformed.
    #[error("the description has no usable {0}")]
    Missing(&'static str),
    /// More sections than fit.
    #[error("the description has more than {MAX_SECTIONS} sections")]
    Sections,
}

#[derive(Serialize, Deserialize)]
struct Json<'a> {
    #[serde(rename = "type")]
    kind: std::borrow::Cow<'a, str>,
    sdp: std::borrow::Cow<'a, str>,
}

impl Description {
    /// A description of a peer connection that is new.
    pub fn new(kind: Kind, origin: u64, ufrag: String, password: String, fingerprint: [u8; 32], setup: Setup) -> Self {
        Self {
            kind,
            origin: (origin, 0),
            ufrag,
            password,
            fingerprint,
            setup,
            mid: "0".into(),
            max_message_size: super::channel::MAX_PACKET as u32,
            sctp_init: None,
            candidates: Vec::new(),
            complete: false,
            before: Vec::new(),
            after: Vec::new(),
        }
    }

    /// Takes the section's name and the refused sections of `offer` over: an answer has the same ones in the same order.
    pub fn answering(mut self, offer: &Description) -> Self {
        self.mid.clone_from(&offer.mid);
        self.before.clone_from(&offer.before);
        self.after.clone_from(&offer.after);
        self
    }

    /// Reads what signaling and the negotiation channel carry: base64 of JSON. Bare JSON is taken too; one published client
    /// sends that.
    pub fn decode(text: &str) -> Result<Self, SdpError> {
        if text.len() > MAX_ENCODED {
            return Err(SdpError::TooLong(text.len()));
        }
        let text = text.trim();
        let decoded;
        let json = if text.starts_with('{') {
            text.as_bytes()
        } else {
            decoded = STANDARD.decode(text).map_err(|e| SdpError::Encoding(e.to_string()))?;
            &decoded
        };
        let json: Json<'_> = serde_json::from_slice(json).map_err(|e| SdpError::Encoding(e.to_string()))?;
        let kind = match &*json.kind {
            "offer" => Kind::Offer,
            "answer" => Kind::Answer,
            other => return Err(SdpError::Kind(other.chars().take(16).collect())),
        };
        Self::parse(kind, &json.sdp)
    }

    /// Writes it as signaling and the negotiation channel carry it.
    pub fn encode(&self) -> String {
        let kind = match self.kind {
            Kind::Offer => "offer",
            Kind::Answer => "answer",
        };
        let json = Json { kind: kind.into(), sdp: self.to_string().into() };
        // Two strings always become JSON.
        STANDARD.encode(serde_json::to_string(&json).unwrap_or_default())
    }

    /// Reads a description. Unknown lines are passed over.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, SdpError> {
        let mut reader = Reader::default();
        for line in text.lines() {
            reader.line(line.trim_end())?;
        }
        reader.finish(kind)
    }
}

/// What a section, or the part before the first one, says of the transport.
#[derive(Clone, Default)]
struct Transport {
    ufrag: Option<String>,
    password: Option<String>,
    fingerprint: Option<[u8; 32]>,
    setup: Option<Setup>,
}

#[derive(Default)]
struct Section {
    media: String,
    rest: String,
    mid: Option<String>,
    transport: Transport,
    max_message_size: Option<u32>,
    sctp_init: Option<Vec<u8>>,
    candidates: Vec<String>,
    complete: bool,
}

#[derive(Default)]
struct Reader {
    origin: (u64, u64),
    session: Section,
    sections: Vec<Section>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), SdpError> {
        if let Some(rest) = line.strip_prefix("o=") {
            let mut words = rest.split(' ').skip(1).map(|w| w.parse().unwrap_or(0));
            self.origin = (words.next().unwrap_or(0), words.next().unwrap_or(0));
        } else if let Some(rest) = line.strip_prefix("m=") {
            if self.sections.len() == MAX_SECTIONS {
                return Err(SdpError::Sections);
            }
            let mut words = rest.splitn(3, ' ');
            let media = words.next().unwrap_or_default().to_owned();
            let rest = words.nth(1).unwrap_or_default().to_owned();
            self.sections.push(Section { media, rest, ..Section::default() });
        } else if let Some(attribute) = line.strip_prefix("a=") {
            let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
            self.sections.last_mut().unwrap_or(&mut self.session).attribute(name, value, attribute);
        }
        Ok(())
    }

    fn finish(self, kind: Kind) -> Result<Description, SdpError> {
        let at =
            self.sections.iter().position(|s| s.media == "application").ok_or(SdpError::Missing("data channel"))?;
        let mut sections = self.sections;
        let after = sections.split_off(at + 1);
        let Some(section) = sections.pop() else { return Err(SdpError::Missing("data channel")) };
        // Where everything is bundled, peers may state the transport once, in another section or before all of them.
        let others = || [&self.session].into_iter().chain(&sections).chain(&after).map(|s| &s.transport);
        fn of<T: Clone>(
            own: &Transport,
            mut others: impl Iterator<Item = impl std::ops::Deref<Target = Transport>>,
            pick: impl Fn(&Transport) -> &Option<T>,
        ) -> Option<T> {
            pick(own).clone().or_else(|| others.find_map(|t| pick(&t).clone()))
        }
        let own = &section.transport;
        let ufrag = of(own, others(), |t| &t.ufrag).ok_or(SdpError::Missing("ICE user name (ice-ufrag)"))?;
        let password = of(own, others(), |t| &t.password).ok_or(SdpError::Missing("ICE password (ice-pwd)"))?;
        let fingerprint = of(own, others(), |t| &t.fingerprint).ok_or(SdpError::Missing("SHA-256 fingerprint"))?;
        let setup = of(own, others(), |t| &t.setup).unwrap_or(match kind {
            Kind::Offer => Setup::ActPass,
            Kind::Answer => Setup::Active,
        });
        if kind == Kind::Answer && setup == Setup::ActPass {
            return Err(SdpError::Missing("DTLS role (setup)"));
        }
        let refused = |s: Section| Refused { media: s.media, rest: s.rest, mid: s.mid };
        let mut candidates = section.candidates;
        // Bundled: the first section's candidates are everybody's.
        if candidates.is_empty() {
            candidates = sections
                .iter()
                .chain(&after)
                .find(|s| !s.candidates.is_empty())
                .map_or_else(Vec::new, |s| s.candidates.clone());
        }
        Ok(Description {
            kind,
            origin: self.origin,
            ufrag,
            password,
            fingerprint,
            setup,
            mid: section.mid.unwrap_or_else(|| "0".into()),
            max_message_size: section.max_message_size.unwrap_or(DEFAULT_MAX_MESSAGE),
            sctp_init: section.sctp_init,
            candidates,
            complete: section.complete || self.session.complete,
            before: sections.into_iter().map(refused).collect(),
            after: after.into_iter().map(refused).collect(),
        })
    }
}

impl Section {
    fn attribute(&mut self, name: &str, value: &str, whole: &str) {
        let credential = |v: &str| (4..=MAX_CREDENTIAL).contains(&v.len()).then(|| v.to_owned());
        match name {
            "ice-ufrag" => self.transport.ufrag = credential(value),
            "ice-pwd" => self.transport.password = credential(value),
            "fingerprint" => {
                // Others than SHA-256 may stand beside it.
                if let Some(parsed) = fingerprint(value) {
                    self.transport.fingerprint = Some(parsed);
                }
            }
            "setup" => {
                self.transport.setup = match value {
                    "actpass" => Some(Setup::ActPass),
                    "active" => Some(Setup::Active),
                    "passive" => Some(Setup::Passive),
                    _ => None,
                }
            }
            "mid" => self.mid = (value.len() <= 64).then(|| value.to_owned()),
            "sctp-init" if value.len() <= MAX_INIT => self.sctp_init = STANDARD.decode(value).ok(),
            "max-message-size" => self.max_message_size = value.parse().ok(),
            "candidate" if self.candidates.len() < MAX_CANDIDATES => self.candidates.push(whole.to_owned()),
            "end-of-candidates" => self.complete = true,
            _ => {}
        }
    }
}

fn fingerprint(value: &str) -> Option<[u8; 32]> {
    let (algorithm, hex) = value.split_once(' ')?;
    if !algorithm.eq_ignore_ascii_case("sha-256") {
        return None;
    }
    let mut bytes = [0; 32];
    let mut parts = hex.trim().split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, version) = self.origin;
        write!(f, "v=0\r\no=- {number} {version} IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n")?;
        write!(f, "a=group:BUNDLE {}\r\na=ice-options:trickle\r\n", self.mid)?;
        for section in &self.before {
            section.fmt(f)?;
        }
        f.write_str("m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n")?;
        let setup = match self.setup {
            Setup::ActPass => "actpass",
            Setup::Active => "active",
            Setup::Passive => "passive",
        };
        write!(f, "a=setup:{setup}\r\na=mid:{}\r\na=sendrecv\r\na=sctp-port:5000\r\n", self.mid)?;
        write!(f, "a=max-message-size:{}\r\n", self.max_message_size)?;
        if let Some(init) = &self.sctp_init {
            write!(f, "a=sctp-init:{}\r\n", STANDARD.encode(init))?;
        }
        write!(f, "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\na=fingerprint:sha-256 ", self.ufrag, self.password)?;
        for (i, byte) in self.fingerprint.iter().enumerate() {
            write!(f, "{}{byte:02X}", if i == 0 { "" } else { ":" })?;
        }
        f.write_str("\r\n")?;
        for candidate in &self.candidates {
            write!(f, "a={candidate}\r\n")?;
        }
        if self.complete {
            f.write_str("a=end-of-candidates\r\n")?;
        }
        for section in &self.after {
            section.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Refused {
    /// As an answer refuses it: port 0 (RFC 8829 section 5.3.1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m={} 0 {}\r\nc=IN IP4 0.0.0.0\r\n", self.media, self.rest)?;
        match &self.mid {
            Some(mid) => write!(f, "a=mid:{mid}\r\na=inactive\r\n"),
            None => f.write_char('a').and_then(|()| f.write_str("=inactive\r\n")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(kind: Kind, setup: Setup) -> Description {
        let mut d = Description::new(kind, 7, "frag".into(), "a-password-of-22-chars".into(), [0xAB; 32], setup);
        d.sctp_init = Some(vec![1, 2, 3]);
        d.candidates.push("candidate:1 1 udp 2130706431 192.0.2.1 4000 typ host".into());
        d
    }

    /// As one published client sends it.
    #[test]
    fn a_description_that_is_not_encoded_is_read_as_well() {
        let said =
            Description::new(Kind::Offer, 1, "frag".into(), "a-password-of-22-chars".into(), [1; 32], Setup::ActPass);
        let json = STANDARD.decode(said.encode()).expect("base64");
        assert_eq!(Description::decode(std::str::from_utf8(&json).expect("JSON")), Description::decode(&said.encode()));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (kind, setup) in
            [(Kind::Offer, Setup::ActPass), (Kind::Answer, Setup::Active), (Kind::Answer, Setup::Passive)]
        {
            let mut d = ours(kind, setup);
            assert_eq!(Description::decode(&d.encode()), Ok(d.clone()));
            d.complete = true;
            assert_eq!(Description::decode(&d.encode()), Ok(d));
        }
    }

    /// As the published Go library writes it: fingerprint before the sections, no max-message-size.
    const GO: &str = "v=0\r\no=- 8770656990916039506 1543029102 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n\
        a=fingerprint:sha-256 AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB\r\n\
        a=group:BUNDLE 0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=setup:active\r\na=mid:0\r\n\
        a=sendrecv\r\na=sctp-port:5000\r\na=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n\
        a=candidate:foundation 1 udp 2130706431 192.0.2.9 53165 typ host generation 0\r\na=end-of-candidates\r\n\
        a=x-priority:3\r\n";

    #[test]
    fn a_stock_peers_answer_is_read() {
        let d = Description::parse(Kind::Answer, GO).expect("usable");
        assert_eq!((d.ufrag.as_str(), d.setup, d.max_message_size), ("EsAw", Setup::Active, 64 << 10));
        assert_eq!((d.fingerprint, d.candidates.len(), d.complete), ([0xAB; 32], 1, true));
    }

    #[test]
    fn sections_of_media_are_refused_in_their_place() {
        let video = "m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\na=mid:cam\r\na=rtpmap:96 VP8/90000\r\n";
        let offer =
            GO.replace("m=application", &format!("{video}m=application")).replace("setup:active", "setup:actpass");
        let offer = Description::parse(Kind::Offer, &offer).expect("usable");
        let answer = ours(Kind::Answer, Setup::Active).answering(&offer).to_string();
        let video = answer.find("m=video 0 UDP/TLS/RTP/SAVPF 96 97").expect("refused, not forgotten");
        assert!(video < answer.find("m=application").expect("kept"), "{answer}");
        assert!(answer.contains("a=mid:cam") && answer.contains("a=group:BUNDLE 0\r\n"), "{answer}");
    }

    #[test]
    fn what_is_too_long_malformed_or_empty_is_refused() {
        assert_eq!(Description::decode(&"A".repeat(1 << 20)), Err(SdpError::TooLong(1 << 20)));
        assert!(matches!(Description::decode("%"), Err(SdpError::Encoding(_))));
        assert!(matches!(Description::decode(&STANDARD.encode("{}")), Err(SdpError::Encoding(_))));
        let rollback = STANDARD.encode(r#"{"type":"rollback","sdp":""}"#);
        assert_eq!(Description::decode(&rollback), Err(SdpError::Kind("rollback".into())));
        assert_eq!(Description::parse(Kind::Offer, ""), Err(SdpError::Missing("data channel")));
        let many = "m=video 9 x 1\r\n".repeat(65);
        assert_eq!(Description::parse(Kind::Offer, &many), Err(SdpError::Sections));
        for line in ["ice-ufrag", "ice-pwd", "fingerprint"] {
            let cut = GO.replace(&format!("a={line}"), "a=x");
            assert!(matches!(Description::parse(Kind::Answer, &cut), Err(SdpError::Missing(_))), "{line}");
        }
        let actpass = GO.replace("setup:active", "setup:actpass");
        assert!(matches!(Description::parse(Kind::Answer, &actpass), Err(SdpError::Missing(_))));
    }

    #[test]
    fn candidates_beyond_the_bound_are_ignored() {
        let line = "a=candidate:1 1 udp 1 192.0.2.1 4000 typ host\r\n";
        let d = Description::parse(Kind::Answer, &format!("{GO}{}", line.repeat(1000))).expect("usable");
        assert_eq!(d.candidates.len(), MAX_CANDIDATES);
    }
}
