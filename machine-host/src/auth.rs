//! Who calls: api keys in, tokens out, principals on every request.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use machine_api::BEARER_HEADER;
use machine_api::proto::rpc::v1::auth_service_server::AuthService;
use machine_api::proto::rpc::v1::{AuthenticateRequest, AuthenticateResponse};
use serde::{Deserialize, Serialize};
use session_core::Owner;
use subtle::ConstantTimeEq;
use tonic::{Request, Response, Status};
use transport::header;
use transport::serve::Introduced;
use uuid::Uuid;

/// How long a token lives. One that was accepted on a connection stays good for it: existing clients never refresh.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);
/// The credential type that users have.
pub const API_KEY: &str = "api-key";
/// The credential type of a machine at its cloud: the part's id and its secret.
pub const ROBOT_SECRET: &str = "robot-secret";
/// The type of tokens that somebody else than their audience has minted.
const EXTERNAL: &str = "external";
/// Longest api key, key id or token that is looked at, in bytes; ours are below 100, 100 and 1,000.
const MAX_CREDENTIAL: usize = 8 << 10;

/// An authenticated caller: the credential's type and its canonical id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Principal {
    /// The credential's type, such as `api-key`; empty for nobody in particular.
    pub kind: String,
    /// Its id, such as the key's.
    pub id: String,
}

impl Principal {
    /// Everybody, on a machine without authentication.
    pub fn nobody() -> Self {
        Self { kind: String::new(), id: String::new() }
    }

    /// Who came by WebRTC. Where the signaling service does not say whom it authenticated, a principal of its own, which is nobody that
    /// came by another route.
    pub fn introduced(by: &Introduced) -> Self {
        match &by.credential {
            Some((kind, id)) => Self { kind: kind.clone(), id: id.clone() },
            None => Self { kind: "webrtc".into(), id: by.hosts.join(",") },
        }
    }

    /// What owns this principal's sessions, whatever route they come by.
    pub fn owner(&self) -> Owner {
        let text = format!("{}\0{}", self.kind, self.id);
        let mut owner = [0; 32];
        owner.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        Owner(owner)
    }
}

/// Why authentication cannot be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The system gives no randomness.
    #[error("cannot make a signing key: the system gives no randomness")]
    Key,
    /// There is no key.
    #[error("authentication without any key would lock everybody out; configure a key, or none at all")]
    NoKeys,
}

/// Credentials that are accepted and a signing key, made at start: a restart ends every token.
pub struct Authenticator {
    secrets: BTreeMap<Principal, String>,
    /// The server's names: tokens are for one of them.
    audience: Vec<String>,
    header: Header,
    signing: EncodingKey,
    verifying: DecodingKey,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authenticator({} keys)", self.secrets.len())
    }
}

/// What a token says, as existing machines write it, with an expiry besides.
#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    aud: Vec<String>,
    iss: String,
    iat: u64,
    exp: u64,
    jti: String,
    rpc_creds_type: String,
}

impl Authenticator {
    /// Accepts api keys (by id) for a machine of these names.
    pub fn new(keys: BTreeMap<String, String>, names: Vec<String>) -> Result<Self, AuthError> {
        let secret = |(id, key)| (Principal { kind: API_KEY.to_owned(), id }, key);
        Self::with_secrets(keys.into_iter().map(secret).collect(), names)
    }

    /// Accepts secrets of any type for a server of these names.
    pub fn with_secrets(secrets: BTreeMap<Principal, String>, names: Vec<String>) -> Result<Self, AuthError> {
        if secrets.is_empty() {
            return Err(AuthError::NoKeys);
        }
        let random = aws_lc_rs::rand::SystemRandom::new();
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).map_err(|_| AuthError::Key)?;
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|_| AuthError::Key)?;
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(Uuid::new_v4().to_string());
        Ok(Self {
            secrets,
            audience: names,
            header,
            signing: EncodingKey::from_ed_der(pkcs8.as_ref()),
            verifying: DecodingKey::from_ed_der(pair.public_key().as_ref()),
        })
    }

    /// A token for whoever knows a key (`Authenticate`).
    fn token(&self, request: AuthenticateRequest) -> Result<String, Status> {
        let credentials = request.credentials.ok_or_else(|| Status::invalid_argument("credentials required"))?;
        if !self.secrets.keys().any(|known| known.kind == credentials.r#type) {
            let text = format!("do not know how to handle credential type {:?}", shortened(&credentials.r#type));
            return Err(Status::invalid_argument(text));
        }
        let too_long = request.entity.len().max(credentials.payload.len()) > MAX_CREDENTIAL;
        let principal = Principal { kind: credentials.r#type, id: request.entity };
        if too_long || !self.knows(&principal, &credentials.payload) {
            return Err(Status::unauthenticated("invalid credentials"));
        }
        self.sign(principal, self.audience.clone())
    }

    /// A token for a principal that is known already, to be shown to somebody else (`AuthenticateTo`). Where `audience` is one of our
    /// own names it is good here.
    pub fn token_to(&self, principal: &Principal, audience: &str) -> Result<String, Status> {
        if audience.is_empty() || audience.len() > MAX_CREDENTIAL {
            return Err(Status::invalid_argument("expected the entity that the token is for"));
        }
        let external = Principal { kind: EXTERNAL.to_owned(), id: principal.id.clone() };
        self.sign(external, vec![audience.to_owned()])
    }

    fn sign(&self, principal: Principal, audience: Vec<String>) -> Result<String, Status> {
        let now = unix_time();
        let claims = Claims {
            sub: principal.id,
            aud: audience,
            iss: self.audience.first().cloned().unwrap_or_default(),
            iat: now,
            exp: now + TOKEN_LIFE.as_secs(),
            jti: Uuid::new_v4().to_string(),
            rpc_creds_type: principal.kind,
        };
        encode(&self.header, &claims, &self.signing).map_err(|e| Status::internal(format!("cannot sign a token: {e}")))
    }

    /// Compares in the same time whether the id exists or not, and wherever the secrets differ.
    fn knows(&self, principal: &Principal, secret: &str) -> bool {
        let hash = |text: &str| digest(&SHA256, text.as_bytes());
        let known = self.secrets.get(principal).map_or_else(|| hash(""), |known| hash(known));
        let same = bool::from(known.as_ref().ct_eq(hash(secret).as_ref()));
        same && self.secrets.contains_key(principal)
    }

    /// Who bears the token of a request's headers.
    pub fn verify(&self, headers: &HeaderMap) -> Result<Principal, Status> {
        self.verify_token(bearer(headers)?)
    }

    fn verify_token(&self, token: &str) -> Result<Principal, Status> {
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.set_audience(&self.audience);
        rules.set_required_spec_claims(&["exp", "aud", "sub"]);
        rules.leeway = 0;
        let refused = |e: jsonwebtoken::errors::Error| {
            Status::unauthenticated(format!("the token is not accepted ({e}); authenticate again"))
        };
        let claims = decode::<Claims>(token, &self.verifying, &rules).map_err(refused)?.claims;
        // A token that we minted for ourselves on somebody's behalf is that user's.
        let kind = if claims.rpc_creds_type == EXTERNAL { API_KEY.to_owned() } else { claims.rpc_creds_type };
        let principal = Principal { kind, id: claims.sub };
        if principal.id.is_empty() || !self.secrets.contains_key(&principal) {
            return Err(Status::unauthenticated("the token's key is not known any more; authenticate again"));
        }
        Ok(principal)
    }
}

/// The one bearer token of a request, under either name.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<&str, Status> {
    let mut values = headers.get_all(AUTHORIZATION).iter().chain(headers.get_all(&header::BEARER));
    match (values.next(), values.next()) {
        (Some(value), None) if value.len() <= MAX_CREDENTIAL => {
            value.to_str().ok().and_then(|v| v.strip_prefix("Bearer ")).ok_or_else(|| {
                Status::unauthenticated("authentication required: the authorization header is no bearer token")
            })
        }
        _ => Err(Status::unauthenticated("authentication required")),
    }
}

#[tonic::async_trait]
impl AuthService for Authenticator {
    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        if request.metadata().contains_key("authorization") || request.metadata().contains_key(BEARER_HEADER) {
            return Err(Status::invalid_argument("already authenticated; cannot re-authenticate"));
        }
        let access_token = self.token(request.into_inner())?;
        Ok(Response::new(AuthenticateResponse { access_token }))
    }
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// What a caller sent, short enough for an error.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use machine_api::proto::rpc::v1::Credentials;
    use tonic::Code;

    use super::*;

    fn authenticator(name: &str) -> Authenticator {
        Authenticator::new([("id".to_owned(), "key".to_owned())].into(), vec![name.to_owned()]).expect("a signing key")
    }

    fn request(entity: &str, kind: &str, payload: &str) -> AuthenticateRequest {
        let credentials = Credentials { r#type: kind.into(), payload: payload.into() };
        AuthenticateRequest { entity: entity.into(), credentials: Some(credentials) }
    }

    #[test]
    fn a_key_is_exchanged_for_a_token_that_names_its_principal() {
        let auth = authenticator("m");
        let token = auth.token(request("id", API_KEY, "key")).expect("a token");
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().expect("a header"));
        assert_eq!(auth.verify(&headers).expect("verified"), Principal { kind: API_KEY.into(), id: "id".into() });
        headers.append(AUTHORIZATION, "Bearer second".parse().expect("a header"));
        assert_eq!(auth.verify(&headers).expect_err("two").code(), Code::Unauthenticated);
    }

    #[test]
    fn wrong_credentials_are_refused_in_the_words_of_existing_machines() {
        let auth = authenticator("m");
        for (wrong, code, text) in [
            (request("id", API_KEY, "wrong"), Code::Unauthenticated, "invalid credentials"),
            (request("other", API_KEY, "key"), Code::Unauthenticated, "invalid credentials"),
            (request("other", API_KEY, ""), Code::Unauthenticated, "invalid credentials"),
            (
                request("id", "robot-secret", "key"),
                Code::InvalidArgument,
                "do not know how to handle credential type \"robot-secret\"",
            ),
            (
                AuthenticateRequest { entity: "id".into(), credentials: None },
                Code::InvalidArgument,
                "credentials required",
            ),
        ] {
            let status = auth.token(wrong).expect_err(text);
            assert_eq!((status.code(), status.message()), (code, text));
        }
    }

    #[test]
    fn tokens_are_bound_to_their_machine_and_their_key_and_expire() {
        let (auth, other) = (authenticator("m"), authenticator("other"));
        let foreign = other.token(request("id", API_KEY, "key")).expect("a token");
        assert_eq!(auth.verify_token(&foreign).expect_err("another key").code(), Code::Unauthenticated);
        let sign = |aud: &str, exp: u64, sub: &str| {
            let claims = Claims {
                sub: sub.into(),
                aud: vec![aud.into()],
                iss: String::new(),
                iat: 0,
                exp,
                jti: String::new(),
                rpc_creds_type: API_KEY.into(),
            };
            encode(&auth.header, &claims, &auth.signing).expect("signed")
        };
        let later = unix_time() + 60;
        auth.verify_token(&sign("m", later, "id")).expect("good");
        for (wrong, why) in [
            (sign("other", later, "id"), "another audience"),
            (sign("m", unix_time() - 1, "id"), "expired"),
            (sign("m", later, "gone"), "a key that was removed"),
            (sign("m", later, ""), "nobody"),
            ("nonsense".to_owned(), "no token"),
        ] {
            assert_eq!(auth.verify_token(&wrong).expect_err(why).code(), Code::Unauthenticated, "{why}");
        }
    }

    #[test]
    fn secrets_of_several_types_are_told_apart() {
        let of = |kind: &str| Principal { kind: kind.into(), id: "id".into() };
        let secrets = [(of(API_KEY), "user".to_owned()), (of(ROBOT_SECRET), "machine".to_owned())];
        let auth = Authenticator::with_secrets(secrets.into(), vec!["cloud".to_owned()]).expect("a signing key");
        for (kind, right, wrong) in [(API_KEY, "user", "machine"), (ROBOT_SECRET, "machine", "user")] {
            let token = auth.token(request("id", kind, right)).expect("a token");
            assert_eq!(auth.verify_token(&token).expect("verified"), of(kind));
            assert_eq!(auth.token(request("id", kind, wrong)).expect_err("the other's").code(), Code::Unauthenticated);
        }
        let to_us = auth.token_to(&of(API_KEY), "cloud").expect("a token");
        assert_eq!(auth.verify_token(&to_us).expect("ours"), of(API_KEY));
        let to_another = auth.token_to(&of(API_KEY), "m1").expect("a token");
        assert_eq!(auth.verify_token(&to_another).expect_err("not ours").code(), Code::Unauthenticated);
    }

    #[test]
    fn owners_are_told_apart() {
        let principal = |kind: &str, id: &str| Principal { kind: kind.into(), id: id.into() }.owner();
        assert_eq!(principal("a", "b"), principal("a", "b"));
        assert_ne!(principal("a", "b"), principal("ab", ""));
        assert_ne!(principal("a", "b"), Principal::nobody().owner());
    }
}
