//! Switches.

use machine_api::viam::component::switch::v1::switch_service_server::{SwitchService, SwitchServiceServer};
use machine_api::viam::component::switch::v1::*;
use prost_types::Struct;

use super::{Resource, service};
use crate::{DriverError, Permit};

/// A driver of a switch. It has no Stop: a lapse leaves it where it is (s22).
#[tonic::async_trait]
pub trait Switch: Resource {
    /// Moves it to a position.
    async fn set_position(&self, permit: &Permit, position: u32, extra: Option<&Struct>) -> Result<(), DriverError>;
    /// Where it is.
    async fn position(&self, extra: Option<&Struct>) -> Result<u32, DriverError>;
    /// How many positions it has, and what they are called: a name for each, or none at all.
    async fn positions(&self, extra: Option<&Struct>) -> Result<(u32, Vec<String>), DriverError>;
}

service! { Switch "switch" SwitchService SwitchServiceServer []
    set_position(switch, r: SetPositionRequest) with permit -> SetPositionResponse {
        switch.set_position(&permit, r.position, r.extra.as_ref()).await?;
        SetPositionResponse {}
    }
    get_position(switch, r: GetPositionRequest) -> GetPositionResponse {
        GetPositionResponse { position: switch.position(r.extra.as_ref()).await? }
    }
    get_number_of_positions(switch, r: GetNumberOfPositionsRequest) -> GetNumberOfPositionsResponse {
        let (number_of_positions, labels) = switch.positions(r.extra.as_ref()).await?;
        GetNumberOfPositionsResponse { number_of_positions, labels }
    }
}
