//! Gantries: linear axes.

use machine_api::viam::common::v1::{GetKinematicsRequest, GetKinematicsResponse};
use machine_api::viam::component::gantry::v1::gantry_service_server::{GantryService, GantryServiceServer};
use machine_api::viam::component::gantry::v1::*;
use prost_types::Struct;

use super::{Resource, service};
use crate::{Actuator, DriverError, Permit};

/// A driver of a gantry. One value for each axis.
#[tonic::async_trait]
pub trait Gantry: Resource + Actuator {
    /// Where its axes are, in millimetres.
    async fn position(&self, extra: Option<&Struct>) -> Result<Vec<f64>, DriverError>;
    /// Moves its axes; returns when they are there.
    async fn move_to_position(
        &self,
        permit: &Permit,
        positions_mm: Vec<f64>,
        speeds_mm_per_sec: Vec<f64>,
        extra: Option<&Struct>,
    ) -> Result<(), DriverError>;
    /// Finds its zero; whether it did. Not safety-monitored in the protocol, so that no session is asked for.
    async fn home(&self, permit: &Permit, extra: Option<&Struct>) -> Result<bool, DriverError>;
    /// How long its axes are, in millimetres.
    async fn lengths(&self, extra: Option<&Struct>) -> Result<Vec<f64>, DriverError>;
    /// Whether it moves.
    async fn is_moving(&self) -> Result<bool, DriverError>;
    /// How its axes hang together.
    async fn kinematics(&self, request: GetKinematicsRequest) -> Result<GetKinematicsResponse, DriverError> {
        let _ = request;
        Err(DriverError::Unsupported("GetKinematics"))
    }
}

service! { Gantry "gantry" GantryService GantryServiceServer [stop geometries]
    get_position(gantry, r: GetPositionRequest) -> GetPositionResponse {
        GetPositionResponse { positions_mm: gantry.position(r.extra.as_ref()).await? }
    }
    move_to_position(gantry, r: MoveToPositionRequest) with permit -> MoveToPositionResponse {
        gantry.move_to_position(&permit, r.positions_mm, r.speeds_mm_per_sec, r.extra.as_ref()).await?;
        MoveToPositionResponse {}
    }
    home(gantry, r: HomeRequest) with permit -> HomeResponse {
        HomeResponse { homed: gantry.home(&permit, r.extra.as_ref()).await? }
    }
    get_lengths(gantry, r: GetLengthsRequest) -> GetLengthsResponse {
        GetLengthsResponse { lengths_mm: gantry.lengths(r.extra.as_ref()).await? }
    }
    is_moving(gantry, r: IsMovingRequest) -> IsMovingResponse {
        IsMovingResponse { is_moving: gantry.is_moving().await? }
    }
    get_kinematics(gantry, r: GetKinematicsRequest) -> GetKinematicsResponse { gantry.kinematics(r).await? }
}
