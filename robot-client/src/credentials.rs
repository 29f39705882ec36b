//! Authentication on a fresh link, after the machine has proven its name.

use dialer::{Admit, Admitted, Refusal};
use futures_util::future::BoxFuture;
use http::HeaderValue;
use machine_api::proto::rpc::v1::auth_service_client::AuthServiceClient;
use machine_api::proto::rpc::v1::{AuthenticateRequest, Credentials};
use tonic::Code;
use tower::service_fn;
use transport::{Lane, Link};

/// An api key. It is shown to nobody, not even in debug output.
pub(crate) struct ApiKey {
    pub(crate) id: String,
    pub(crate) key: String,
}

impl Admit for ApiKey {
    fn admit<'a>(&'a self, link: &'a Link) -> BoxFuture<'a, Result<Admitted, Refusal>> {
        let request = AuthenticateRequest {
            entity: self.id.clone(),
            credentials: Some(Credentials { r#type: "api-key".to_owned(), payload: self.key.clone() }),
        };
        let link = link.clone();
        Box::pin(async move {
            let on_link = service_fn(move |request| {
                let reply = link.call(request, Lane::Reserved);
                async move { reply.await.map_err(|error| error.status) }
            });
            let reply = match AuthServiceClient::new(on_link).authenticate(request).await {
                Ok(reply) => reply.into_inner(),
                // A machine without authentication has no such service.
                Err(status) if status.code() == Code::Unimplemented => return Ok(Admitted::default()),
                Err(status) => {
                    let verdict = matches!(
                        status.code(),
                        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::NotFound
                    );
                    return Err(Refusal { verdict, message: status.message().to_owned() });
                }
            };
            let text = format!("Bearer {}", reply.access_token);
            let mut authorization = HeaderValue::from_str(&text).map_err(|_| Refusal {
                verdict: false,
                message: "the machine's token is no header value".to_owned(),
            })?;
            authorization.set_sensitive(true);
            Ok(Admitted { authorization: Some(authorization) })
        })
    }
}
