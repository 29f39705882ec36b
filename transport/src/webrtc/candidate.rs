//! Which of a peer's candidates are used. Pure.

use std::net::IpAddr;

use is::{Candidate, CandidateKind};
use str0m_proto::Protocol;

use super::options::IcePolicy;

/// The longest candidate that is looked at, in bytes.
const MAX_TEXT: usize = 512;

/// What became of a candidate.
#[derive(Debug)]
pub(crate) enum Admitted {
    /// It may be tried.
    Use(Candidate),
    /// A `.local` name that hides the address (mDNS, RFC 8828): the peer's own checks tell it, so nobody waits for its resolution.
    Hidden,
    /// It cannot be used here.
    Skip(&'static str),
}

/// Judges one candidate line, with or without `a=`.
pub(crate) fn admit(text: &str, policy: IcePolicy) -> Admitted {
    let text = text.trim();
    let text = text.strip_prefix("a=").unwrap_or(text);
    if text.is_empty() {
        return Admitted::Skip("the end of candidates");
    }
    if text.len() > MAX_TEXT {
        return Admitted::Skip("too long");
    }
    if text.split_whitespace().nth(4).is_some_and(|a| a.ends_with(".local")) {
        return Admitted::Hidden;
    }
    let parsed = match text.strip_prefix("candidate:") {
        Some(_) => Candidate::from_sdp_string(text),
        None => Candidate::from_sdp_string(&format!("candidate:{text}")),
    };
    let Ok(mut candidate) = parsed else { return Admitted::Skip("not a candidate") };
    if text.split_whitespace().nth(1) != Some("1") {
        return Admitted::Skip("a component that data channels do not have");
    }
    if candidate.proto() != Protocol::Udp {
        return Admitted::Skip("not UDP");
    }
    let address = candidate.addr();
    let usable = match address.ip() {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        // Link-local ones are nothing without an interface, which candidates do not name.
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_unicast_link_local(),
    };
    if !usable || address.port() == 0 {
        return Admitted::Skip("not an address one can send to");
    }
    if policy == IcePolicy::NoRelay && candidate.kind() == CandidateKind::Relayed {
        return Admitted::Skip("relayed, and the policy forbids relays");
    }
    // Credentials come from the description; candidates of an older generation never pass their checks.
    if let Ok(plain) = Candidate::from_sdp_string(strip_ufrag(text).as_str()) {
        candidate = plain;
    }
    Admitted::Use(candidate)
}

fn strip_ufrag(text: &str) -> String {
    let mut words = text.split_whitespace();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if word == "ufrag" {
            words.next();
        } else {
            kept.push(word);
        }
    }
    let text = kept.join(" ");
    if text.starts_with("candidate:") { text } else { format!("candidate:{text}") }
}

/// Whether a candidate is an address that nobody elsewhere reaches.
pub(crate) fn is_loopback(text: &str) -> bool {
    let address = text.split_whitespace().nth(4).and_then(|address| address.parse::<IpAddr>().ok());
    address.is_some_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usable_candidates_pass_and_others_are_skipped_with_a_reason() {
        let host = "candidate:1 1 udp 2130706431 192.0.2.1 4000 typ host generation 0 ufrag abcd network-cost 999";
        for text in [
            host,
            &host.replace("candidate:", "a=candidate:"),
            &host.replace("candidate:", ""),
            &host.replace("udp", "UDP"),
        ] {
            assert!(matches!(admit(text, IcePolicy::All), Admitted::Use(_)), "{text}");
        }
        for (from, to) in [
            ("192.0.2.1", "0.0.0.0"),
            ("192.0.2.1", "224.0.0.1"),
            ("192.0.2.1", "fe80::1"),
            ("4000", "0"),
            ("udp", "tcp"),
            ("1 udp", "2 udp"),
            ("host", "nonsense"),
        ] {
            assert!(matches!(admit(&host.replace(from, to), IcePolicy::All), Admitted::Skip(_)), "{to}");
        }
        assert!(matches!(admit(&host.replace("192.0.2.1", "4b0c.local"), IcePolicy::All), Admitted::Hidden));
        assert!(matches!(admit("", IcePolicy::All), Admitted::Skip(_)));
        assert!(matches!(admit(&"x".repeat(1 << 20), IcePolicy::All), Admitted::Skip(_)));
    }

    #[test]
    fn a_policy_without_relays_refuses_the_peers_as_well() {
        let relay = "candidate:1 1 udp 1 192.0.2.1 4000 typ relay raddr 0.0.0.0 rport 0";
        assert!(matches!(admit(relay, IcePolicy::All), Admitted::Use(_)));
        assert!(matches!(admit(relay, IcePolicy::NoRelay), Admitted::Skip(_)));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(5_000))]

        /// Words and numbers of candidates in any order and length, and text of any kind: read or skipped.
        #[test]
        fn whatever_is_said_to_be_a_candidate_does_no_harm(
            words in proptest::collection::vec("candidate:[0-9a-z]{0,4}|[0-9]{1,20}|-1|udp|tcp|typ|host|relay|raddr|[0-9a-f:.]{0,40}|\\PC{0,8}", 0..20),
        ) {
            for text in [words.join(" "), format!("candidate:1 1 udp {}", words.join(" "))] {
                let _ = admit(&text, IcePolicy::All);
            }
        }
    }
}
