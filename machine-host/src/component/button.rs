//! Buttons.

use machine_api::viam::component::button::v1::button_service_server::{ButtonService, ButtonServiceServer};
use machine_api::viam::component::button::v1::*;
use prost_types::Struct;

use super::{Resource, service};
use crate::{DriverError, Permit};

/// A driver of a button. It has no Stop (s22).
#[tonic::async_trait]
pub trait Button: Resource {
    /// Pushes it.
    async fn push(&self, permit: &Permit, extra: Option<&Struct>) -> Result<(), DriverError>;
}

service! { Button "button" ButtonService ButtonServiceServer []
    push(button, r: PushRequest) with permit -> PushResponse {
        button.push(&permit, r.extra.as_ref()).await?;
        PushResponse {}
    }
}
