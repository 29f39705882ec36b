//! Arms.

use futures_util::stream;
use machine_api::viam::common::v1::{
    Get3DModelsRequest, Get3DModelsResponse, GetKinematicsRequest, GetKinematicsResponse, Pose,
};
use machine_api::viam::component::arm::v1::arm_service_server::{ArmService, ArmServiceServer};
use machine_api::viam::component::arm::v1::*;
use prost_types::Struct;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Resource, service};
use crate::{Actuator, DriverError, Permit};

/// What an arm can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArmProperties {
    /// Whether it can be led by hand.
    pub manual_mode: bool,
    /// Whether it takes positions of its end, not of its joints only.
    pub cartesian_commands: bool,
}

/// A driver of an arm. Joint positions are in degrees, from the base of the arm to its end.
#[tonic::async_trait]
pub trait Arm: Resource + Actuator {
    /// Where its end is, in millimetres and degrees.
    async fn end_position(&self, extra: Option<&Struct>) -> Result<Pose, DriverError>;
    /// Moves its end; returns when it is there.
    async fn move_to_position(&self, permit: &Permit, to: Pose, extra: Option<&Struct>) -> Result<(), DriverError>;
    /// Where its joints are.
    async fn joint_positions(&self, extra: Option<&Struct>) -> Result<Vec<f64>, DriverError>;
    /// Moves its joints through each of these in turn; returns when they are at the last.
    async fn move_through(
        &self,
        permit: &Permit,
        positions: Vec<Vec<f64>>,
        extra: Option<&Struct>,
    ) -> Result<(), DriverError>;
    /// Follows a part of a trajectory; returns when it may be given the next.
    async fn follow(&self, permit: &Permit, points: Vec<TrajectoryPoint>) -> Result<(), DriverError> {
        let _ = (permit, points);
        Err(DriverError::Unsupported("trajectories"))
    }
    /// Whether it moves.
    async fn is_moving(&self) -> Result<bool, DriverError>;
    /// How its joints hang together.
    async fn kinematics(&self, request: GetKinematicsRequest) -> Result<GetKinematicsResponse, DriverError> {
        let _ = request;
        Err(DriverError::Unsupported("GetKinematics"))
    }
    /// What it looks like.
    async fn models(&self, extra: Option<&Struct>) -> Result<Get3DModelsResponse, DriverError> {
        let _ = extra;
        Err(DriverError::Unsupported("Get3DModels"))
    }
    /// Lets it be led by hand, or no longer.
    async fn set_manual_mode(&self, request: SetManualModeRequest) -> Result<(), DriverError> {
        let _ = request;
        Err(DriverError::Unsupported("manual mode"))
    }
    /// Whether it can be led by hand at the moment.
    async fn manual_mode(&self, extra: Option<&Struct>) -> Result<bool, DriverError> {
        let _ = extra;
        Ok(false)
    }
    /// What it can do.
    async fn properties(&self, extra: Option<&Struct>) -> Result<ArmProperties, DriverError> {
        let _ = extra;
        Ok(ArmProperties::default())
    }
}

service! { Arm "arm" ArmService ArmServiceServer [stop geometries]
    get_end_position(arm, r: GetEndPositionRequest) -> GetEndPositionResponse {
        GetEndPositionResponse { pose: Some(arm.end_position(r.extra.as_ref()).await?) }
    }
    move_to_position(arm, r: MoveToPositionRequest) with permit -> MoveToPositionResponse {
        let to = r.to.ok_or_else(|| Status::invalid_argument("`to` is missing: where is the arm to move?"))?;
        arm.move_to_position(&permit, to, r.extra.as_ref()).await?;
        MoveToPositionResponse {}
    }
    get_joint_positions(arm, r: GetJointPositionsRequest) -> GetJointPositionsResponse {
        let values = arm.joint_positions(r.extra.as_ref()).await?;
        GetJointPositionsResponse { positions: Some(JointPositions { values }) }
    }
    move_to_joint_positions(arm, r: MoveToJointPositionsRequest) with permit -> MoveToJointPositionsResponse {
        let to = r.positions.ok_or_else(|| Status::invalid_argument("`positions` is missing"))?;
        arm.move_through(&permit, vec![to.values], r.extra.as_ref()).await?;
        MoveToJointPositionsResponse {}
    }
    move_through_joint_positions(arm, r: MoveThroughJointPositionsRequest) with permit -> MoveThroughJointPositionsResponse {
        let positions = r.positions.into_iter().map(|p| p.values).collect();
        arm.move_through(&permit, positions, r.extra.as_ref()).await?;
        MoveThroughJointPositionsResponse {}
    }
    is_moving(arm, r: IsMovingRequest) -> IsMovingResponse {
        IsMovingResponse { is_moving: arm.is_moving().await? }
    }
    get_kinematics(arm, r: GetKinematicsRequest) -> GetKinematicsResponse { arm.kinematics(r).await? }
    get3_d_models(arm, r: Get3DModelsRequest) -> Get3DModelsResponse { arm.models(r.extra.as_ref()).await? }
    set_manual_mode(arm, r: SetManualModeRequest) -> SetManualModeResponse {
        arm.set_manual_mode(r).await?;
        SetManualModeResponse {}
    }
    get_manual_mode(arm, r: GetManualModeRequest) -> GetManualModeResponse {
        GetManualModeResponse { manual_mode: arm.manual_mode(r.extra.as_ref()).await? }
    }
    get_properties(arm, r: GetPropertiesRequest) -> GetPropertiesResponse {
        let properties = arm.properties(r.extra.as_ref()).await?;
        GetPropertiesResponse {
            support_manual_mode: properties.manual_mode,
            support_cartesian_commands: properties.cartesian_commands,
        }
    }
    + {
        async fn move_through_joint_positions_streamed(
            &self,
            request: Request<Streaming<MoveThroughJointPositionsStreamedRequest>>,
        ) -> Result<Response<BoxStream<MoveThroughJointPositionsStreamedResponse>>, Status> {
            use move_through_joint_positions_streamed_request::Message;
            let permit = super::permit(&request)?;
            let mut batches = request.into_inner();
            let first = batches.message().await?.ok_or_else(|| Status::invalid_argument("the stream says nothing"))?;
            if !matches!(first.message, Some(Message::Init(_))) {
                return Err(Status::invalid_argument("the stream's first message is to be `init`"));
            }
            let arm = driver(self, &first.name)?;
            let acks = stream::try_unfold((arm, permit, batches), |(arm, permit, mut batches)| async move {
                let Some(next) = batches.message().await? else { return Ok(None) };
                let Some(Message::Batch(batch)) = next.message else {
                    return Err(Status::invalid_argument("after `init` the stream is to hold batches only"));
                };
                arm.follow(&permit, batch.points).await?;
                let ack = move_through_joint_positions_streamed_response::Message::Ack(Default::default());
                Ok(Some((MoveThroughJointPositionsStreamedResponse { message: Some(ack) }, (arm, permit, batches))))
            });
            Ok(Response::new(Box::pin(acks)))
        }
    }
}
