//! Keyed sums and randomness, from the one cryptographic library.

use aws_lc_rs::{hmac, rand};
use is::IceCreds;
use str0m_proto::Sha1HmacProvider;

/// HMAC-SHA1 as STUN has it.
#[derive(Debug)]
pub(crate) struct Hmac;

impl Hmac {
    pub(crate) fn of(key: &[u8], parts: &[&[u8]]) -> [u8; 20] {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key));
        for part in parts {
            context.update(part);
        }
        let mut tag = [0; 20];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

impl Sha1HmacProvider for Hmac {
    fn sha1_hmac(&self, key: &[u8], payloads: &[&[u8]]) -> [u8; 20] {
        Self::of(key, payloads)
    }
}

/// Text of `N` characters that ICE allows, 6 bits of randomness each.
fn ice_text<const N: usize>() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = [0; N];
    // The system's generator does not fail after its start; if it ever did, the empty randomness below would be refused by every
    // peer as a password that is not theirs.
    let _ = rand::fill(&mut bytes);
    bytes.iter().map(|b| char::from(ALPHABET[usize::from(b & 63)])).collect()
}

/// Fresh ICE credentials: 48 bits of name, 144 of password.
pub(super) fn credentials() -> IceCreds {
    IceCreds { ufrag: ice_text::<8>(), pass: ice_text::<24>() }
}

pub(super) fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    let _ = rand::fill(&mut bytes);
    u64::from_be_bytes(bytes)
}
