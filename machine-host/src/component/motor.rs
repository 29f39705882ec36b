//! Motors.

use machine_api::viam::component::motor::v1::motor_service_server::{MotorService, MotorServiceServer};
use machine_api::viam::component::motor::v1::*;
use prost_types::Struct;

use super::{Resource, service};
use crate::{Actuator, DriverError, Permit};

/// A driver of a motor.
#[tonic::async_trait]
pub trait Motor: Resource + Actuator {
    /// A share of full power, -1 to 1, until told otherwise.
    async fn set_power(&self, permit: &Permit, power: f64, extra: Option<&Struct>) -> Result<(), DriverError>;
    /// Turns for some revolutions; returns when it has. No revolutions: until told otherwise.
    async fn go_for(
        &self,
        permit: &Permit,
        rpm: f64,
        revolutions: f64,
        extra: Option<&Struct>,
    ) -> Result<(), DriverError> {
        let _ = (permit, rpm, revolutions, extra);
        Err(DriverError::Unsupported("GoFor"))
    }
    /// Turns to a position, in revolutions from zero; returns when it is there.
    async fn go_to(
        &self,
        permit: &Permit,
        rpm: f64,
        position_revolutions: f64,
        extra: Option<&Struct>,
    ) -> Result<(), DriverError> {
        let _ = (permit, rpm, position_revolutions, extra);
        Err(DriverError::Unsupported("GoTo"))
    }
    /// Turns at a speed until told otherwise.
    async fn set_rpm(&self, permit: &Permit, rpm: f64, extra: Option<&Struct>) -> Result<(), DriverError> {
        let _ = (permit, rpm, extra);
        Err(DriverError::Unsupported("SetRPM"))
    }
    /// Calls the present position `offset`, in revolutions. Moves nothing.
    async fn reset_zero_position(&self, offset: f64, extra: Option<&Struct>) -> Result<(), DriverError> {
        let _ = (offset, extra);
        Err(DriverError::Unsupported("ResetZeroPosition"))
    }
    /// Its position, in revolutions from zero.
    async fn position(&self, extra: Option<&Struct>) -> Result<f64, DriverError> {
        let _ = extra;
        Err(DriverError::Unsupported("positions"))
    }
    /// Whether it knows its position.
    async fn position_reporting(&self) -> Result<bool, DriverError> {
        Ok(false)
    }
    /// Whether it is powered, and with which share of its full power.
    async fn is_powered(&self, extra: Option<&Struct>) -> Result<(bool, f64), DriverError>;
    /// Whether it moves.
    async fn is_moving(&self) -> Result<bool, DriverError>;
}

service! { Motor "motor" MotorService MotorServiceServer [stop geometries]
    set_power(motor, r: SetPowerRequest) with permit -> SetPowerResponse {
        motor.set_power(&permit, r.power_pct, r.extra.as_ref()).await?;
        SetPowerResponse {}
    }
    go_for(motor, r: GoForRequest) with permit -> GoForResponse {
        motor.go_for(&permit, r.rpm, r.revolutions, r.extra.as_ref()).await?;
        GoForResponse {}
    }
    go_to(motor, r: GoToRequest) with permit -> GoToResponse {
        motor.go_to(&permit, r.rpm, r.position_revolutions, r.extra.as_ref()).await?;
        GoToResponse {}
    }
    set_rpm(motor, r: SetRpmRequest) with permit -> SetRpmResponse {
        motor.set_rpm(&permit, r.rpm, r.extra.as_ref()).await?;
        SetRpmResponse {}
    }
    reset_zero_position(motor, r: ResetZeroPositionRequest) -> ResetZeroPositionResponse {
        motor.reset_zero_position(r.offset, r.extra.as_ref()).await?;
        ResetZeroPositionResponse {}
    }
    get_position(motor, r: GetPositionRequest) -> GetPositionResponse {
        GetPositionResponse { position: motor.position(r.extra.as_ref()).await? }
    }
    get_properties(motor, r: GetPropertiesRequest) -> GetPropertiesResponse {
        GetPropertiesResponse { position_reporting: motor.position_reporting().await? }
    }
    is_powered(motor, r: IsPoweredRequest) -> IsPoweredResponse {
        let (is_on, power_pct) = motor.is_powered(r.extra.as_ref()).await?;
        IsPoweredResponse { is_on, power_pct }
    }
    is_moving(motor, r: IsMovingRequest) -> IsMovingResponse {
        IsMovingResponse { is_moving: motor.is_moving().await? }
    }
}
