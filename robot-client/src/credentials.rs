//! Authentication on a fresh link, after the machine has proven its name.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use dialer::{Admit, Admitted, Refusal, Whom};
use futures_util::future::BoxFuture;
use http::HeaderValue;
use machine_api::proto::rpc::v1::auth_service_client::AuthServiceClient;
use machine_api::proto::rpc::v1::{AuthenticateRequest, Credentials};
use tonic::Code;
use tower::service_fn;
use transport::{Lane, Link};

use crate::tokens::TokenStore;

/// An api key. It is shown to nobody, not even in debug output.
pub(crate) struct ApiKey {
    pub(crate) id: String,
    pub(crate) key: String,
}

/// Authenticates at one machine, and at who arranges connections to it, with an api key, or with what that gave before.
pub(crate) struct KeyHolder {
    key: ApiKey,
    tokens: Arc<dyn TokenStore>,
    machine: String,
}

impl KeyHolder {
    /// `machine`: as it was dialled.
    pub(crate) fn new(key: ApiKey, machine: &str, tokens: Arc<dyn TokenStore>) -> Self {
        Self { key, tokens, machine: machine.to_owned() }
    }

    /// Under what name tokens of `whom` are kept. No machine is dialled by a name with a zero in it.
    fn holder(&self, whom: Whom<'_>) -> String {
        let of = match whom {
            Whom::Machine => self.machine.clone(),
            Whom::Cloud { host, port } => format!("\0{host}:{port}"),
        };
        let text = format!("{of}\0{}\0{}", self.key.id, self.key.key);
        digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Admit for KeyHolder {
    fn admit<'a>(&'a self, link: &'a Link, whom: Whom<'a>) -> BoxFuture<'a, Result<Admitted, Refusal>> {
        let remembered = self.tokens.token(&self.holder(whom)).and_then(|token| bearer(&token).ok());
        match remembered {
            Some(token) => Box::pin(async { Ok(Admitted { authorization: Some(token), remembered: true }) }),
            None => self.renew(link, whom),
        }
    }

    fn renew<'a>(&'a self, link: &'a Link, whom: Whom<'a>) -> BoxFuture<'a, Result<Admitted, Refusal>> {
        let holder = self.holder(whom);
        Box::pin(async move {
            self.tokens.forget(&holder);
            let Some(token) = self.key.authenticate(link).await? else { return Ok(Admitted::default()) };
            let authorization = bearer(&token)?;
            self.tokens.keep(&holder, &token);
            Ok(Admitted { authorization: Some(authorization), remembered: false })
        })
    }
}

fn bearer(token: &str) -> Result<HeaderValue, Refusal> {
    let mut authorization = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| Refusal { verdict: false, message: "the machine's token is no header value".to_owned() })?;
    authorization.set_sensitive(true);
    Ok(authorization)
}

impl ApiKey {
    /// The token of who is asked; `None` from one without authentication.
    async fn authenticate(&self, link: &Link) -> Result<Option<String>, Refusal> {
        let request = AuthenticateRequest {
            entity: self.id.clone(),
            credentials: Some(Credentials { r#type: "api-key".to_owned(), payload: self.key.clone() }),
        };
        let link = link.clone();
        let on_link = service_fn(move |request| {
            let reply = link.call(request, Lane::Reserved);
            async move { reply.await.map_err(|error| error.status) }
        });
        match AuthServiceClient::new(on_link).authenticate(request).await {
            Ok(reply) => Ok(Some(reply.into_inner().access_token)),
            // A machine without authentication has no such service.
            Err(status) if status.code() == Code::Unimplemented => Ok(None),
            Err(status) => {
                let verdict = matches!(
                    status.code(),
                    Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::NotFound
                );
                Err(Refusal { verdict, message: status.message().to_owned() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryTokens;

    #[test]
    fn each_is_shown_its_own_tokens_alone() {
        let key = ApiKey { id: "id".to_owned(), key: "key".to_owned() };
        let holder = KeyHolder::new(key, "m-main.loc1.viam.cloud", Arc::new(MemoryTokens::default()));
        let clouds = [("cloud.example", 443), ("cloud.example", 8443), ("other.example", 443)];
        let all: Vec<Whom<'_>> =
            clouds.iter().map(|(host, port)| Whom::Cloud { host, port: *port }).chain([Whom::Machine]).collect();
        for (index, whom) in all.iter().enumerate() {
            holder.tokens.keep(&holder.holder(*whom), &index.to_string());
        }
        for (index, whom) in all.iter().enumerate() {
            assert_eq!(holder.tokens.token(&holder.holder(*whom)), Some(index.to_string()), "{whom:?}");
        }
    }
}
