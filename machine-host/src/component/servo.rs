//! Servos.

use machine_api::viam::component::servo::v1::servo_service_server::{ServoService, ServoServiceServer};
use machine_api::viam::component::servo::v1::*;
use prost_types::Struct;

use super::{Resource, service};
use crate::{Actuator, DriverError, Permit};

/// A driver of a servo.
#[tonic::async_trait]
pub trait Servo: Resource + Actuator {
    /// Turns to an angle, in degrees; returns when it is there.
    async fn move_to(&self, permit: &Permit, angle_deg: u32, extra: Option<&Struct>) -> Result<(), DriverError>;
    /// Its angle, in degrees.
    async fn position(&self, extra: Option<&Struct>) -> Result<u32, DriverError>;
    /// Whether it moves.
    async fn is_moving(&self) -> Result<bool, DriverError>;
}

service! { Servo "servo" ServoService ServoServiceServer [stop geometries]
    r#move(servo, r: MoveRequest) with permit -> MoveResponse {
        servo.move_to(&permit, r.angle_deg, r.extra.as_ref()).await?;
        MoveResponse {}
    }
    get_position(servo, r: GetPositionRequest) -> GetPositionResponse {
        GetPositionResponse { position_deg: servo.position(r.extra.as_ref()).await? }
    }
    is_moving(servo, r: IsMovingRequest) -> IsMovingResponse {
        IsMovingResponse { is_moving: servo.is_moving().await? }
    }
}
