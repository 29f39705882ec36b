//! Drivers whose hardware is another machine.
//!
//! A command holds its gate until it has been issued to the remote, not until it is answered: whatever is issued later comes later there,
//! by the client's own order. A handler that is shut out drops its call, which takes it back at the remote.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use machine_api::SESSION_EXPIRED;
use machine_api::viam::common::v1::*;
use machine_api::viam::component::{
    arm::v1 as arm, base::v1 as base, button::v1 as button, camera::v1 as camera, gantry::v1 as gantry,
    generic::v1 as generic, gripper::v1 as gripper, motor::v1 as motor, movementsensor::v1 as movement,
    sensor::v1 as sensor, servo::v1 as servo, switch::v1 as switch,
};
use machine_host::component as host;
use machine_host::component::{Component, Resource};
use machine_host::{Actuator, DriverError, Permit, ResourceName as Name};
use prost_types::{Struct, Value};
use tokio::runtime::Handle;
use tonic::{Code, Response, Status};

use crate::{Robot, RobotChannel, runtime};

/// How long a Stop may be under way before it counts as failed and is tried again: past it the remote's own lease has ended as a rule.
const STOP: Duration = Duration::from_secs(5);

/// The driver of a remote's component; `None` for types that this machine does not have.
pub(super) fn component(remote: &str, name: &Name, robot: &Robot) -> Option<Component> {
    let runtime = runtime::handle().ok()?;
    let far = Far { remote: remote.into(), name: name.name.to_string(), channel: robot.channel(), runtime };
    Some(match &*name.subtype {
        "arm" => Component::Arm(Arc::new(FarArm(far))),
        "base" => Component::Base(Arc::new(FarBase(far))),
        "button" => Component::Button(Arc::new(FarButton(far))),
        "camera" => Component::Camera(Arc::new(FarCamera(far))),
        "gantry" => Component::Gantry(Arc::new(FarGantry(far))),
        "generic" => Component::Generic(Arc::new(FarGeneric(far))),
        "gripper" => Component::Gripper(Arc::new(FarGripper(far))),
        "motor" => Component::Motor(Arc::new(FarMotor(far))),
        "movement_sensor" => Component::MovementSensor(Arc::new(FarMovementSensor(far))),
        "sensor" => Component::Sensor(Arc::new(FarSensor(far))),
        "servo" => Component::Servo(Arc::new(FarServo(far))),
        "switch" => Component::Switch(Arc::new(FarSwitch(far))),
        _ => return None,
    })
}

/// A component of another machine.
struct Far {
    remote: Arc<str>,
    /// Its name there.
    name: String,
    channel: RobotChannel,
    runtime: Handle,
}

impl Far {
    /// Sends what may move something.
    async fn command<T>(
        &self,
        permit: &Permit,
        call: impl Future<Output = Result<Response<T>, Status>> + Send,
    ) -> Result<T, DriverError> {
        let mut call = std::pin::pin!(call);
        let inside = permit.enter(None).await?;
        let issued = futures_util::poll!(&mut call);
        drop(inside);
        match issued {
            Poll::Ready(reply) => self.answer(reply),
            Poll::Pending => self.answer(call.await),
        }
    }

    /// Sends what moves nothing.
    async fn ask<T>(&self, call: impl Future<Output = Result<Response<T>, Status>> + Send) -> Result<T, DriverError> {
        self.answer(call.await)
    }

    fn answer<T>(&self, reply: Result<Response<T>, Status>) -> Result<T, DriverError> {
        reply.map(Response::into_inner).map_err(|status| self.failure(&status))
    }

    /// What a caller here is told. What concerns this machine's own standing at the remote must not be taken for the caller's here: its
    /// session has not expired, and its key is good.
    fn failure(&self, status: &Status) -> DriverError {
        let own = status.message() == SESSION_EXPIRED
            || matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied);
        let code = if own { Code::Unavailable } else { status.code() };
        DriverError::Answered { code, message: format!("remote {}: {}", self.remote, status.message()) }
    }

    /// Stops it, on the actuator's own thread.
    fn stop<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<(), DriverError> {
        let bounded = self.runtime.block_on(async { tokio::time::timeout(STOP, call).await });
        let reply = bounded.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer to Stop")));
        self.answer(reply).map(drop)
    }
}

/// A component's driver: its client, what every component answers, and its Stop where it has one.
macro_rules! far {
    ($Far:ident $module:ident::$client:ident::$Client:ident $($also:ident)*) => {
        struct $Far(Far);

        impl Deref for $Far {
            type Target = Far;

            fn deref(&self) -> &Far {
                &self.0
            }
        }

        impl $Far {
            fn client(&self) -> $module::$client::$Client<RobotChannel> {
                $module::$client::$Client::new(self.channel.clone()).max_decoding_message_size(machine_api::MAX_MESSAGE)
            }
        }

        $(far! { @$also $Far $module })*

        #[tonic::async_trait]
        impl Resource for $Far {
            async fn do_command(&self, permit: &Permit, command: Struct) -> Result<Struct, DriverError> {
                let request = DoCommandRequest { name: self.name.clone(), command: Some(command) };
                let reply = self.command(permit, self.client().do_command(request)).await?;
                Ok(reply.result.unwrap_or_default())
            }

            async fn status(&self) -> Result<Struct, DriverError> {
                let request = GetStatusRequest { name: self.name.clone() };
                Ok(self.ask(self.client().get_status(request)).await?.result.unwrap_or_default())
            }
        }
    };
    (@stops $Far:ident $module:ident) => {
        impl Actuator for $Far {
            fn stop(&self, extra: Option<&Struct>) -> Result<(), DriverError> {
                let request = $module::StopRequest { name: self.name.clone(), extra: extra.cloned() };
                self.0.stop(async move { self.client().stop(request).await })
            }
        }
    };
}

/// One call: the request's fields besides `name`, and what is made of the reply.
macro_rules! send {
    ($far:ident, $permit:ident: $method:ident $($Request:ident)::+ { $($field:ident $(: $value:expr)?),* }) => {{
        let request = $($Request)::+ { name: $far.name.clone(), $($field $(: $value)?),* };
        $far.command($permit, $far.client().$method(request)).await?
    }};
    ($far:ident: $method:ident $($Request:ident)::+ { $($field:ident $(: $value:expr)?),* }) => {{
        let request = $($Request)::+ { name: $far.name.clone(), $($field $(: $value)?),* };
        $far.ask($far.client().$method(request)).await?
    }};
}

far! { FarArm arm::arm_service_client::ArmServiceClient stops }
far! { FarBase base::base_service_client::BaseServiceClient stops }
far! { FarButton button::button_service_client::ButtonServiceClient }
far! { FarCamera camera::camera_service_client::CameraServiceClient }
far! { FarGantry gantry::gantry_service_client::GantryServiceClient stops }
far! { FarGeneric generic::generic_service_client::GenericServiceClient }
far! { FarGripper gripper::gripper_service_client::GripperServiceClient stops }
far! { FarMotor motor::motor_service_client::MotorServiceClient stops }
far! { FarMovementSensor movement::movement_sensor_service_client::MovementSensorServiceClient }
far! { FarSensor sensor::sensor_service_client::SensorServiceClient }
far! { FarServo servo::servo_service_client::ServoServiceClient stops }
far! { FarSwitch switch::switch_service_client::SwitchServiceClient }

type Done = Result<(), DriverError>;
type Extra<'a> = Option<&'a Struct>;

#[tonic::async_trait]
impl host::Motor for FarMotor {
    async fn set_power(&self, permit: &Permit, power_pct: f64, extra: Extra<'_>) -> Done {
        send!(self, permit: set_power motor::SetPowerRequest { power_pct, extra: extra.cloned() });
        Ok(())
    }
    async fn go_for(&self, permit: &Permit, rpm: f64, revolutions: f64, extra: Extra<'_>) -> Done {
        send!(self, permit: go_for motor::GoForRequest { rpm, revolutions, extra: extra.cloned() });
        Ok(())
    }
    async fn go_to(&self, permit: &Permit, rpm: f64, position_revolutions: f64, extra: Extra<'_>) -> Done {
        send!(self, permit: go_to motor::GoToRequest { rpm, position_revolutions, extra: extra.cloned() });
        Ok(())
    }
    async fn set_rpm(&self, permit: &Permit, rpm: f64, extra: Extra<'_>) -> Done {
        send!(self, permit: set_rpm motor::SetRpmRequest { rpm, extra: extra.cloned() });
        Ok(())
    }
    async fn reset_zero_position(&self, offset: f64, extra: Extra<'_>) -> Done {
        send!(self: reset_zero_position motor::ResetZeroPositionRequest { offset, extra: extra.cloned() });
        Ok(())
    }
    async fn position(&self, extra: Extra<'_>) -> Result<f64, DriverError> {
        Ok(send!(self: get_position motor::GetPositionRequest { extra: extra.cloned() }).position)
    }
    async fn position_reporting(&self) -> Result<bool, DriverError> {
        Ok(send!(self: get_properties motor::GetPropertiesRequest { extra: None }).position_reporting)
    }
    async fn is_powered(&self, extra: Extra<'_>) -> Result<(bool, f64), DriverError> {
        let reply = send!(self: is_powered motor::IsPoweredRequest { extra: extra.cloned() });
        Ok((reply.is_on, reply.power_pct))
    }
    async fn is_moving(&self) -> Result<bool, DriverError> {
        Ok(send!(self: is_moving motor::IsMovingRequest {}).is_moving)
    }
}

#[tonic::async_trait]
impl host::Base for FarBase {
    async fn move_straight(&self, permit: &Permit, distance_mm: i64, mm_per_sec: f64, extra: Extra<'_>) -> Done {
        send!(self, permit: move_straight base::MoveStraightRequest { distance_mm, mm_per_sec, extra: extra.cloned() });
        Ok(())
    }
    async fn spin(&self, permit: &Permit, angle_deg: f64, degs_per_sec: f64, extra: Extra<'_>) -> Done {
        send!(self, permit: spin base::SpinRequest { angle_deg, degs_per_sec, extra: extra.cloned() });
        Ok(())
    }
    async fn set_power(&self, permit: &Permit, linear: Vector3, angular: Vector3, extra: Extra<'_>) -> Done {
        let (linear, angular) = (Some(linear), Some(angular));
        send!(self, permit: set_power base::SetPowerRequest { linear, angular, extra: extra.cloned() });
        Ok(())
    }
    async fn set_velocity(&self, permit: &Permit, linear: Vector3, angular: Vector3, extra: Extra<'_>) -> Done {
        let (linear, angular) = (Some(linear), Some(angular));
        send!(self, permit: set_velocity base::SetVelocityRequest { linear, angular, extra: extra.cloned() });
        Ok(())
    }
    async fn is_moving(&self) -> Result<bool, DriverError> {
        Ok(send!(self: is_moving base::IsMovingRequest {}).is_moving)
    }
    async fn properties(&self, extra: Extra<'_>) -> Result<host::BaseProperties, DriverError> {
        let reply = send!(self: get_properties base::GetPropertiesRequest { extra: extra.cloned() });
        Ok(host::BaseProperties {
            width_m: reply.width_meters,
            turning_radius_m: reply.turning_radius_meters,
            wheel_circumference_m: reply.wheel_circumference_meters,
        })
    }
}

#[tonic::async_trait]
impl host::Arm for FarArm {
    async fn end_position(&self, extra: Extra<'_>) -> Result<Pose, DriverError> {
        let reply = send!(self: get_end_position arm::GetEndPositionRequest { extra: extra.cloned() });
        Ok(reply.pose.unwrap_or_default())
    }
    async fn move_to_position(&self, permit: &Permit, to: Pose, extra: Extra<'_>) -> Done {
        send!(self, permit: move_to_position arm::MoveToPositionRequest { to: Some(to), extra: extra.cloned() });
        Ok(())
    }
    async fn joint_positions(&self, extra: Extra<'_>) -> Result<Vec<f64>, DriverError> {
        let reply = send!(self: get_joint_positions arm::GetJointPositionsRequest { extra: extra.cloned() });
        Ok(reply.positions.unwrap_or_default().values)
    }
    async fn move_through(&self, permit: &Permit, positions: Vec<Vec<f64>>, extra: Extra<'_>) -> Done {
        let positions = positions.into_iter().map(|values| arm::JointPositions { values }).collect();
        send!(self, permit: move_through_joint_positions arm::MoveThroughJointPositionsRequest {
            positions, options: None, extra: extra.cloned()
        });
        Ok(())
    }
    async fn is_moving(&self) -> Result<bool, DriverError> {
        Ok(send!(self: is_moving arm::IsMovingRequest {}).is_moving)
    }
    async fn kinematics(&self, request: GetKinematicsRequest) -> Result<GetKinematicsResponse, DriverError> {
        let request = GetKinematicsRequest { name: self.name.clone(), ..request };
        self.ask(self.client().get_kinematics(request)).await
    }
    async fn properties(&self, extra: Extra<'_>) -> Result<host::ArmProperties, DriverError> {
        let reply = send!(self: get_properties arm::GetPropertiesRequest { extra: extra.cloned() });
        Ok(host::ArmProperties {
            manual_mode: reply.support_manual_mode,
            cartesian_commands: reply.support_cartesian_commands,
        })
    }
}

#[tonic::async_trait]
impl host::Gripper for FarGripper {
    async fn open(&self, permit: &Permit, extra: Extra<'_>) -> Done {
        send!(self, permit: open gripper::OpenRequest { extra: extra.cloned() });
        Ok(())
    }
    async fn grab(&self, permit: &Permit, extra: Extra<'_>) -> Result<bool, DriverError> {
        Ok(send!(self, permit: grab gripper::GrabRequest { extra: extra.cloned() }).success)
    }
    async fn is_holding(&self, extra: Extra<'_>) -> Result<bool, DriverError> {
        let reply = send!(self: is_holding_something gripper::IsHoldingSomethingRequest { extra: extra.cloned() });
        Ok(reply.is_holding_something)
    }
    async fn is_moving(&self) -> Result<bool, DriverError> {
        Ok(send!(self: is_moving gripper::IsMovingRequest {}).is_moving)
    }
    async fn inputs(&self, extra: Extra<'_>) -> Result<Vec<f64>, DriverError> {
        Ok(send!(self: get_current_inputs gripper::GetCurrentInputsRequest { extra: extra.cloned() }).values)
    }
    async fn go_to_inputs(&self, permit: &Permit, values: Vec<f64>, extra: Extra<'_>) -> Done {
        send!(self, permit: go_to_inputs gripper::GoToInputsRequest { values, extra: extra.cloned() });
        Ok(())
    }
    async fn kinematics(&self, request: GetKinematicsRequest) -> Result<GetKinematicsResponse, DriverError> {
        let request = GetKinematicsRequest { name: self.name.clone(), ..request };
        self.ask(self.client().get_kinematics(request)).await
    }
}

#[tonic::async_trait]
impl host::Servo for FarServo {
    async fn move_to(&self, permit: &Permit, angle_deg: u32, extra: Extra<'_>) -> Done {
        send!(self, permit: r#move servo::MoveRequest { angle_deg, extra: extra.cloned() });
        Ok(())
    }
    async fn position(&self, extra: Extra<'_>) -> Result<u32, DriverError> {
        Ok(send!(self: get_position servo::GetPositionRequest { extra: extra.cloned() }).position_deg)
    }
    async fn is_moving(&self) -> Result<bool, DriverError> {
        Ok(send!(self: is_moving servo::IsMovingRequest {}).is_moving)
    }
}

#[tonic::async_trait]
impl host::Gantry for FarGantry {
    async fn position(&self, extra: Extra<'_>) -> Result<Vec<f64>, DriverError> {
        Ok(send!(self: get_position gantry::GetPositionRequest { extra: extra.cloned() }).positions_mm)
    }
    async fn move_to_position(
        &self,
        permit: &Permit,
        positions_mm: Vec<f64>,
        speeds_mm_per_sec: Vec<f64>,
        extra: Extra<'_>,
    ) -> Done {
        send!(self, permit: move_to_position gantry::MoveToPositionRequest {
            positions_mm, speeds_mm_per_sec, extra: extra.cloned()
        });
        Ok(())
    }
    async fn home(&self, permit: &Permit, extra: Extra<'_>) -> Result<bool, DriverError> {
        Ok(send!(self, permit: home gantry::HomeRequest { extra: extra.cloned() }).homed)
    }
    async fn lengths(&self, extra: Extra<'_>) -> Result<Vec<f64>, DriverError> {
        Ok(send!(self: get_lengths gantry::GetLengthsRequest { extra: extra.cloned() }).lengths_mm)
    }
    async fn is_moving(&self) -> Result<bool, DriverError> {
        Ok(send!(self: is_moving gantry::IsMovingRequest {}).is_moving)
    }
    async fn kinematics(&self, request: GetKinematicsRequest) -> Result<GetKinematicsResponse, DriverError> {
        let request = GetKinematicsRequest { name: self.name.clone(), ..request };
        self.ask(self.client().get_kinematics(request)).await
    }
}

#[tonic::async_trait]
impl host::Sensor for FarSensor {
    async fn readings(&self, extra: Extra<'_>) -> Result<BTreeMap<String, Value>, DriverError> {
        Ok(send!(self: get_readings GetReadingsRequest { extra: extra.cloned() }).readings.into_iter().collect())
    }
}

#[tonic::async_trait]
impl host::MovementSensor for FarMovementSensor {
    async fn properties(&self, extra: Extra<'_>) -> Result<host::MovementProperties, DriverError> {
        let reply = send!(self: get_properties movement::GetPropertiesRequest { extra: extra.cloned() });
        Ok(host::MovementProperties {
            linear_velocity: reply.linear_velocity_supported,
            angular_velocity: reply.angular_velocity_supported,
            orientation: reply.orientation_supported,
            position: reply.position_supported,
            compass_heading: reply.compass_heading_supported,
            linear_acceleration: reply.linear_acceleration_supported,
        })
    }
    async fn linear_velocity(&self, extra: Extra<'_>) -> Result<Vector3, DriverError> {
        let reply = send!(self: get_linear_velocity movement::GetLinearVelocityRequest { extra: extra.cloned() });
        Ok(reply.linear_velocity.unwrap_or_default())
    }
    async fn angular_velocity(&self, extra: Extra<'_>) -> Result<Vector3, DriverError> {
        let reply = send!(self: get_angular_velocity movement::GetAngularVelocityRequest { extra: extra.cloned() });
        Ok(reply.angular_velocity.unwrap_or_default())
    }
    async fn compass_heading(&self, extra: Extra<'_>) -> Result<f64, DriverError> {
        Ok(send!(self: get_compass_heading movement::GetCompassHeadingRequest { extra: extra.cloned() }).value)
    }
    async fn orientation(&self, extra: Extra<'_>) -> Result<Orientation, DriverError> {
        let reply = send!(self: get_orientation movement::GetOrientationRequest { extra: extra.cloned() });
        Ok(reply.orientation.unwrap_or_default())
    }
    async fn position(&self, extra: Extra<'_>) -> Result<host::Fix, DriverError> {
        let reply = send!(self: get_position movement::GetPositionRequest { extra: extra.cloned() });
        let GeoPoint { latitude, longitude } = reply.coordinate.unwrap_or_default();
        Ok(host::Fix { latitude, longitude, altitude_m: reply.altitude_m })
    }
    async fn linear_acceleration(&self, extra: Extra<'_>) -> Result<Vector3, DriverError> {
        let reply =
            send!(self: get_linear_acceleration movement::GetLinearAccelerationRequest { extra: extra.cloned() });
        Ok(reply.linear_acceleration.unwrap_or_default())
    }
    async fn accuracy(&self, extra: Extra<'_>) -> Result<BTreeMap<String, f32>, DriverError> {
        let reply = send!(self: get_accuracy movement::GetAccuracyRequest { extra: extra.cloned() });
        Ok(reply.accuracy.into_iter().collect())
    }
    async fn readings(&self, extra: Extra<'_>) -> Result<BTreeMap<String, Value>, DriverError> {
        Ok(send!(self: get_readings GetReadingsRequest { extra: extra.cloned() }).readings.into_iter().collect())
    }
}

#[tonic::async_trait]
impl host::Camera for FarCamera {
    async fn images(
        &self,
        filter_source_names: Vec<String>,
        extra: Extra<'_>,
    ) -> Result<(Vec<host::Image>, SystemTime), DriverError> {
        let reply = send!(self: get_images camera::GetImagesRequest { filter_source_names, extra: extra.cloned() });
        let taken = reply.response_metadata.and_then(|metadata| metadata.captured_at);
        let taken = taken.and_then(|at| SystemTime::try_from(at).ok()).unwrap_or_else(SystemTime::now);
        let image = |i: camera::Image| host::Image { source: i.source_name, mime_type: i.mime_type, data: i.image };
        Ok((reply.images.into_iter().map(image).collect(), taken))
    }
    async fn point_cloud(&self, mime_type: &str, extra: Extra<'_>) -> Result<(String, Vec<u8>), DriverError> {
        let mime_type = mime_type.to_owned();
        let reply = send!(self: get_point_cloud camera::GetPointCloudRequest { mime_type, extra: extra.cloned() });
        Ok((reply.mime_type, reply.point_cloud))
    }
    async fn properties(&self) -> Result<host::CameraProperties, DriverError> {
        let reply = send!(self: get_properties camera::GetPropertiesRequest {});
        Ok(host::CameraProperties {
            point_clouds: reply.supports_pcd,
            mime_types: reply.mime_types,
            intrinsics: reply.intrinsic_parameters,
        })
    }
}

#[tonic::async_trait]
impl host::Switch for FarSwitch {
    async fn set_position(&self, permit: &Permit, position: u32, extra: Extra<'_>) -> Done {
        send!(self, permit: set_position switch::SetPositionRequest { position, extra: extra.cloned() });
        Ok(())
    }
    async fn position(&self, extra: Extra<'_>) -> Result<u32, DriverError> {
        Ok(send!(self: get_position switch::GetPositionRequest { extra: extra.cloned() }).position)
    }
    async fn positions(&self, extra: Extra<'_>) -> Result<(u32, Vec<String>), DriverError> {
        let reply = send!(self: get_number_of_positions switch::GetNumberOfPositionsRequest { extra: extra.cloned() });
        Ok((reply.number_of_positions, reply.labels))
    }
}

#[tonic::async_trait]
impl host::Button for FarButton {
    async fn push(&self, permit: &Permit, extra: Extra<'_>) -> Done {
        send!(self, permit: push button::PushRequest { extra: extra.cloned() });
        Ok(())
    }
}

impl host::Generic for FarGeneric {}
