//! Grippers.

use machine_api::viam::common::v1::{GetKinematicsRequest, GetKinematicsResponse};
use machine_api::viam::component::gripper::v1::gripper_service_server::{GripperService, GripperServiceServer};
use machine_api::viam::component::gripper::v1::*;
use prost_types::Struct;

use super::{Resource, service};
use crate::{Actuator, DriverError, Permit};

/// A driver of a gripper.
#[tonic::async_trait]
pub trait Gripper: Resource + Actuator {
    /// Opens it; returns when it is open.
    async fn open(&self, permit: &Permit, extra: Option<&Struct>) -> Result<(), DriverError>;
    /// Closes it; whether it holds something then.
    async fn grab(&self, permit: &Permit, extra: Option<&Struct>) -> Result<bool, DriverError>;
    /// Whether it holds something.
    async fn is_holding(&self, extra: Option<&Struct>) -> Result<bool, DriverError>;
    /// Whether it moves.
    async fn is_moving(&self) -> Result<bool, DriverError>;
    /// Where its joints are.
    async fn inputs(&self, extra: Option<&Struct>) -> Result<Vec<f64>, DriverError> {
        let _ = extra;
        Err(DriverError::Unsupported("GetCurrentInputs"))
    }
    /// Moves its joints; returns when they are there.
    async fn go_to_inputs(&self, permit: &Permit, values: Vec<f64>, extra: Option<&Struct>) -> Result<(), DriverError> {
        let _ = (permit, values, extra);
        Err(DriverError::Unsupported("GoToInputs"))
    }
    /// How its joints hang together.
    async fn kinematics(&self, request: GetKinematicsRequest) -> Result<GetKinematicsResponse, DriverError> {
        let _ = request;
        Err(DriverError::Unsupported("GetKinematics"))
    }
}

service! { Gripper "gripper" GripperService GripperServiceServer [stop geometries]
    open(gripper, r: OpenRequest) with permit -> OpenResponse {
        gripper.open(&permit, r.extra.as_ref()).await?;
        OpenResponse {}
    }
    grab(gripper, r: GrabRequest) with permit -> GrabResponse {
        GrabResponse { success: gripper.grab(&permit, r.extra.as_ref()).await?, extra: None }
    }
    is_holding_something(gripper, r: IsHoldingSomethingRequest) -> IsHoldingSomethingResponse {
        IsHoldingSomethingResponse { is_holding_something: gripper.is_holding(r.extra.as_ref()).await?, meta: None }
    }
    is_moving(gripper, r: IsMovingRequest) -> IsMovingResponse {
        IsMovingResponse { is_moving: gripper.is_moving().await? }
    }
    get_current_inputs(gripper, r: GetCurrentInputsRequest) -> GetCurrentInputsResponse {
        GetCurrentInputsResponse { values: gripper.inputs(r.extra.as_ref()).await? }
    }
    go_to_inputs(gripper, r: GoToInputsRequest) with permit -> GoToInputsResponse {
        gripper.go_to_inputs(&permit, r.values, r.extra.as_ref()).await?;
        GoToInputsResponse {}
    }
    get_kinematics(gripper, r: GetKinematicsRequest) -> GetKinematicsResponse { gripper.kinematics(r).await? }
}
