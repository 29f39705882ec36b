//! Candidates that come when the exchange through the signaling service is over: ends of ours tell them on the negotiation channel. Pure.
//!
//! One message is one candidate as the WebRTC API writes it (RTCIceCandidateInit), encoded as descriptions are. An offer with the same ICE
//! words would tell the same, and has to be answered; two that cross have no order that both sides know of, and one of ours may be an ICE restart. A
//! candidate wants no answer, may be told twice, and names the generation it belongs to. Existing peers read nothing but descriptions there, so
//! they are told none.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The longest message that may be a candidate, in characters.
const MAX_ENCODED: usize = 1024;
/// Candidates that wait for the channel to open: eight interfaces, as two STUN servers and a relay see them.
const MAX_WAITING: usize = 32;

/// A candidate on the negotiation channel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Told {
    /// As signaling carries it.
    pub candidate: String,
    #[serde(default)]
    sdp_mid: Option<String>,
    #[serde(default, rename = "sdpMLineIndex")]
    sdp_m_line_index: Option<u16>,
    /// The telling side's ICE user name.
    #[serde(rename = "usernameFragment")]
    pub ufrag: String,
}

impl Told {
    pub fn new(candidate: String, ufrag: String) -> Self {
        Self { candidate, sdp_mid: Some("0".into()), sdp_m_line_index: Some(0), ufrag }
    }

    pub fn encode(&self) -> String {
        // Strings and a number always become JSON.
        STANDARD.encode(serde_json::to_string(self).unwrap_or_default())
    }

    /// `None` where it is something else.
    pub fn decode(text: &str) -> Option<Self> {
        let text = Some(text.trim()).filter(|text| text.len() <= MAX_ENCODED)?;
        serde_json::from_slice(&STANDARD.decode(text).ok()?).ok()
    }
}

/// Candidates of ours that no description has told.
#[derive(Debug, Default)]
pub(crate) struct Untold(Vec<String>);

impl Untold {
    /// One was found before the channel was open. The signaling service carries it too, and may come too late: its exchange ends with the opening.
    pub fn wait(&mut self, candidate: &str) {
        if self.0.len() < MAX_WAITING {
            self.0.push(candidate.to_owned());
        }
    }

    /// The channel is open.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webrtc::sdp::Description;

    const CANDIDATE: &str = "candidate:1 1 udp 1694498815 203.0.113.1 4000 typ srflx raddr 10.1.0.1 rport 4000";

    #[test]
    fn a_candidate_is_read_back_and_is_no_description() {
        let told = Told::new(CANDIDATE.into(), "frag".into());
        assert_eq!(Told::decode(&told.encode()), Some(told.clone()));
        assert!(Description::decode(&told.encode()).is_err());
        let json = STANDARD.decode(told.encode()).expect("base64");
        let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        let wanted = serde_json::json!({ "candidate": CANDIDATE, "sdpMid": "0", "sdpMLineIndex": 0, "usernameFragment": "frag" });
        assert_eq!(json, wanted);
    }

    #[test]
    fn what_is_something_else_or_too_long_is_none() {
        let offer = STANDARD.encode(r#"{"type":"offer","sdp":"v=0\r\n"}"#);
        let nobodys = STANDARD.encode(format!(r#"{{"candidate":"{CANDIDATE}"}}"#));
        let long = Told::new("x".repeat(1 << 20), "frag".into()).encode();
        for text in ["", "%", "é", &offer, &nobodys, &long, &"é".repeat(2000)] {
            assert_eq!(Told::decode(text), None, "{}", text.len());
        }
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut untold = Untold::default();
        (0..1000).for_each(|i| untold.wait(&i.to_string()));
        assert_eq!(untold.take().len(), MAX_WAITING);
        assert!(untold.take().is_empty());
    }

    proptest::proptest! {
        /// Text of any kind, and JSON of any kind behind the encoding.
        #[test]
        fn whatever_comes_on_the_negotiation_channel_does_no_harm(
            text in "\\PC{0,80}",
            json in "\\{(\"(candidate|usernameFragment|sdpMid|sdpMLineIndex)\":(\"\\PC{0,9}\"|-?[0-9]{1,9}|null|\\[\\]),?){0,6}\\}",
        ) {
            for text in [text.clone(), STANDARD.encode(&text), STANDARD.encode(&json)] {
                if let Some(told) = Told::decode(&text) {
                    proptest::prop_assert_eq!(Told::decode(&told.encode()), Some(told));
                }
            }
        }
    }
}
