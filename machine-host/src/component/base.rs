//! Bases: something that drives.

use machine_api::viam::common::v1::Vector3;
use machine_api::viam::component::base::v1::base_service_server::{BaseService, BaseServiceServer};
use machine_api::viam::component::base::v1::*;
use prost_types::Struct;

use super::{Resource, service};
use crate::{Actuator, DriverError, Permit};

/// What a base is like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BaseProperties {
    /// Its width, in metres.
    pub width_m: f64,
    /// The radius of its narrowest turn, in metres; 0 where it turns on the spot.
    pub turning_radius_m: f64,
    /// The circumference of its wheels, in metres.
    pub wheel_circumference_m: f64,
}

/// A driver of a base. Positive is forward and to the left.
#[tonic::async_trait]
pub trait Base: Resource + Actuator {
    /// Drives straight; returns when it has arrived.
    async fn move_straight(
        &self,
        permit: &Permit,
        distance_mm: i64,
        mm_per_sec: f64,
        extra: Option<&Struct>,
    ) -> Result<(), DriverError>;
    /// Turns on the spot; returns when it has turned.
    async fn spin(
        &self,
        permit: &Permit,
        angle_deg: f64,
        degs_per_sec: f64,
        extra: Option<&Struct>,
    ) -> Result<(), DriverError>;
    /// Drives with a share of full power, -1 to 1 in each axis, until told otherwise.
    async fn set_power(
        &self,
        permit: &Permit,
        linear: Vector3,
        angular: Vector3,
        extra: Option<&Struct>,
    ) -> Result<(), DriverError>;
    /// Drives at a velocity, in mm/s and degrees/s, until told otherwise.
    async fn set_velocity(
        &self,
        permit: &Permit,
        linear: Vector3,
        angular: Vector3,
        extra: Option<&Struct>,
    ) -> Result<(), DriverError>;
    /// Whether it moves.
    async fn is_moving(&self) -> Result<bool, DriverError>;
    /// What it is like.
    async fn properties(&self, extra: Option<&Struct>) -> Result<BaseProperties, DriverError> {
        let _ = extra;
        Ok(BaseProperties::default())
    }
}

service! { Base "base" BaseService BaseServiceServer [stop geometries]
    move_straight(base, r: MoveStraightRequest) with permit -> MoveStraightResponse {
        base.move_straight(&permit, r.distance_mm, r.mm_per_sec, r.extra.as_ref()).await?;
        MoveStraightResponse {}
    }
    spin(base, r: SpinRequest) with permit -> SpinResponse {
        base.spin(&permit, r.angle_deg, r.degs_per_sec, r.extra.as_ref()).await?;
        SpinResponse {}
    }
    set_power(base, r: SetPowerRequest) with permit -> SetPowerResponse {
        base.set_power(&permit, r.linear.unwrap_or_default(), r.angular.unwrap_or_default(), r.extra.as_ref()).await?;
        SetPowerResponse {}
    }
    set_velocity(base, r: SetVelocityRequest) with permit -> SetVelocityResponse {
        base.set_velocity(&permit, r.linear.unwrap_or_default(), r.angular.unwrap_or_default(), r.extra.as_ref()).await?;
        SetVelocityResponse {}
    }
    is_moving(base, r: IsMovingRequest) -> IsMovingResponse {
        IsMovingResponse { is_moving: base.is_moving().await? }
    }
    get_properties(base, r: GetPropertiesRequest) -> GetPropertiesResponse {
        let properties = base.properties(r.extra.as_ref()).await?;
        GetPropertiesResponse {
            width_meters: properties.width_m,
            turning_radius_meters: properties.turning_radius_m,
            wheel_circumference_meters: properties.wheel_circumference_m,
        }
    }
}
