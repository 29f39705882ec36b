//! Typed handles of components. They are names, not connections: they survive everything that happens to routes.

use std::collections::HashMap;

use machine_api::viam::common::v1::{
    DoCommandRequest, Geometry, GetGeometriesRequest, GetReadingsRequest, Orientation, Pose, Vector3,
};
use machine_api::viam::component::{
    arm::v1 as arm, base::v1 as base, button::v1 as button, camera::v1 as camera, gantry::v1 as gantry,
    generic::v1 as generic, gripper::v1 as gripper, motor::v1 as motor, movementsensor::v1 as movement,
    sensor::v1 as sensor, servo::v1 as servo, switch::v1 as switch,
};
use prost_types::{Struct, Value};
use tonic::Status;

use crate::{Robot, RobotChannel};

/// Makes handles: a struct, its constructor on [`Robot`], and methods that are one call each.
macro_rules! handles {
    ($($(#[$doc:meta])* $Handle:ident $new:ident $client:path {
        $($(#[$what:meta])* $method:ident($($arg:ident: $T:ty),*) -> $Out:ty { $rpc:ident $Request:expr => |$reply:ident| $result:expr })*
    })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $Handle {
            name: String,
            channel: RobotChannel,
        }

        impl Robot {
            $(#[$doc])*
            pub fn $new(&self, name: &str) -> $Handle {
                $Handle { name: name.to_owned(), channel: self.channel() }
            }
        }

        impl $Handle {
            /// Its name.
            pub fn name(&self) -> &str {
                &self.name
            }

            /// A command of its maker's own.
            pub async fn do_command(&self, command: Struct) -> Result<Struct, Status> {
                let request = DoCommandRequest { name: self.name.clone(), command: Some(command) };
                let reply = <$client>::new(self.channel.clone()).do_command(request).await?;
                Ok(reply.into_inner().result.unwrap_or_default())
            }

            $(
                $(#[$what])*
                pub async fn $method(&self, $($arg: $T),*) -> Result<$Out, Status> {
                    let name = self.name.clone();
                    let request = { let make = $Request; make(name, $($arg),*) };
                    let $reply = <$client>::new(self.channel.clone()).$rpc(request).await?.into_inner();
                    Ok($result)
                }
            )*
        }
    )* };
}

handles! {
    /// Something that drives.
    Base base base::base_service_client::BaseServiceClient<RobotChannel> {
        /// Drives straight; returns when it has arrived.
        move_straight(distance_mm: i64, mm_per_sec: f64) -> () {
            move_straight |name, distance_mm, mm_per_sec| base::MoveStraightRequest { name, distance_mm, mm_per_sec, extra: None } => |_r| ()
        }
        /// Turns on the spot, to the left; returns when it has turned.
        spin(angle_deg: f64, degs_per_sec: f64) -> () {
            spin |name, angle_deg, degs_per_sec| base::SpinRequest { name, angle_deg, degs_per_sec, extra: None } => |_r| ()
        }
        /// Drives with a share of full power, -1 to 1, until told otherwise: y is forward, z turns left.
        set_power(linear: Vector3, angular: Vector3) -> () {
            set_power |name, linear, angular| base::SetPowerRequest { name, linear: Some(linear), angular: Some(angular), extra: None } => |_r| ()
        }
        /// Drives at a velocity, in mm/s and degrees/s, until told otherwise: y is forward, z turns left.
        set_velocity(linear: Vector3, angular: Vector3) -> () {
            set_velocity |name, linear, angular| base::SetVelocityRequest { name, linear: Some(linear), angular: Some(angular), extra: None } => |_r| ()
        }
        /// Stops it. Earlier commands that are not answered yet fail.
        stop() -> () { stop |name| base::StopRequest { name, extra: None } => |_r| () }
        /// Whether it moves.
        is_moving() -> bool { is_moving |name| base::IsMovingRequest { name } => |r| r.is_moving }
        /// What it is like.
        properties() -> base::GetPropertiesResponse { get_properties |name| base::GetPropertiesRequest { name, extra: None } => |r| r }
        /// What it fills.
        geometries() -> Vec<Geometry> { get_geometries |name| GetGeometriesRequest { name, extra: None } => |r| r.geometries }
    }
    /// A motor.
    Motor motor motor::motor_service_client::MotorServiceClient<RobotChannel> {
        /// A share of full power, -1 to 1, until told otherwise.
        set_power(power: f64) -> () { set_power |name, power_pct| motor::SetPowerRequest { name, power_pct, extra: None } => |_r| () }
        /// Turns for some revolutions; returns when it has.
        go_for(rpm: f64, revolutions: f64) -> () {
            go_for |name, rpm, revolutions| motor::GoForRequest { name, rpm, revolutions, extra: None } => |_r| ()
        }
        /// Turns to a position, in revolutions from zero; returns when it is there.
        go_to(rpm: f64, position_revolutions: f64) -> () {
            go_to |name, rpm, position_revolutions| motor::GoToRequest { name, rpm, position_revolutions, extra: None } => |_r| ()
        }
        /// Turns at a speed until told otherwise.
        set_rpm(rpm: f64) -> () { set_rpm |name, rpm| motor::SetRpmRequest { name, rpm, extra: None } => |_r| () }
        /// Calls the present position `offset`.
        reset_zero_position(offset: f64) -> () {
            reset_zero_position |name, offset| motor::ResetZeroPositionRequest { name, offset, extra: None } => |_r| ()
        }
        /// Its position, in revolutions from zero.
        position() -> f64 { get_position |name| motor::GetPositionRequest { name, extra: None } => |r| r.position }
        /// Whether it is powered, and with which share of full power.
        is_powered() -> (bool, f64) { is_powered |name| motor::IsPoweredRequest { name, extra: None } => |r| (r.is_on, r.power_pct) }
        /// Stops it. Earlier commands that are not answered yet fail.
        stop() -> () { stop |name| motor::StopRequest { name, extra: None } => |_r| () }
        /// Whether it moves.
        is_moving() -> bool { is_moving |name| motor::IsMovingRequest { name } => |r| r.is_moving }
    }
    /// An arm.
    Arm arm arm::arm_service_client::ArmServiceClient<RobotChannel> {
        /// Where its end is.
        end_position() -> Pose { get_end_position |name| arm::GetEndPositionRequest { name, extra: None } => |r| r.pose.unwrap_or_default() }
        /// Moves its end; returns when it is there.
        move_to_position(to: Pose) -> () {
            move_to_position |name, to| arm::MoveToPositionRequest { name, to: Some(to), extra: None } => |_r| ()
        }
        /// Where its joints are, in degrees.
        joint_positions() -> Vec<f64> {
            get_joint_positions |name| arm::GetJointPositionsRequest { name, extra: None } => |r| r.positions.unwrap_or_default().values
        }
        /// Moves its joints, in degrees; returns when they are there.
        move_to_joint_positions(values: Vec<f64>) -> () {
            move_to_joint_positions |name, values| arm::MoveToJointPositionsRequest { name, positions: Some(arm::JointPositions { values }), extra: None } => |_r| ()
        }
        /// Stops it. Earlier commands that are not answered yet fail.
        stop() -> () { stop |name| arm::StopRequest { name, extra: None } => |_r| () }
        /// Whether it moves.
        is_moving() -> bool { is_moving |name| arm::IsMovingRequest { name } => |r| r.is_moving }
    }
    /// A gripper.
    Gripper gripper gripper::gripper_service_client::GripperServiceClient<RobotChannel> {
        /// Opens it; returns when it is open.
        open() -> () { open |name| gripper::OpenRequest { name, extra: None } => |_r| () }
        /// Closes it; whether it holds something then.
        grab() -> bool { grab |name| gripper::GrabRequest { name, extra: None } => |r| r.success }
        /// Whether it holds something.
        is_holding_something() -> bool {
            is_holding_something |name| gripper::IsHoldingSomethingRequest { name, extra: None } => |r| r.is_holding_something
        }
        /// Stops it. Earlier commands that are not answered yet fail.
        stop() -> () { stop |name| gripper::StopRequest { name, extra: None } => |_r| () }
        /// Whether it moves.
        is_moving() -> bool { is_moving |name| gripper::IsMovingRequest { name } => |r| r.is_moving }
    }
    /// A servo.
    Servo servo servo::servo_service_client::ServoServiceClient<RobotChannel> {
        /// Turns to an angle, in degrees.
        move_to(angle_deg: u32) -> () { r#move |name, angle_deg| servo::MoveRequest { name, angle_deg, extra: None } => |_r| () }
        /// Its angle, in degrees.
        position() -> u32 { get_position |name| servo::GetPositionRequest { name, extra: None } => |r| r.position_deg }
        /// Stops it. Earlier commands that are not answered yet fail.
        stop() -> () { stop |name| servo::StopRequest { name, extra: None } => |_r| () }
        /// Whether it moves.
        is_moving() -> bool { is_moving |name| servo::IsMovingRequest { name } => |r| r.is_moving }
    }
    /// Linear axes.
    Gantry gantry gantry::gantry_service_client::GantryServiceClient<RobotChannel> {
        /// Where its axes are, in mm.
        position() -> Vec<f64> { get_position |name| gantry::GetPositionRequest { name, extra: None } => |r| r.positions_mm }
        /// Moves its axes, in mm and mm/s; returns when they are there.
        move_to_position(positions_mm: Vec<f64>, speeds_mm_per_sec: Vec<f64>) -> () {
            move_to_position |name, positions_mm, speeds_mm_per_sec| gantry::MoveToPositionRequest { name, positions_mm, speeds_mm_per_sec, extra: None } => |_r| ()
        }
        /// Finds its zero; whether it did.
        home() -> bool { home |name| gantry::HomeRequest { name, extra: None } => |r| r.homed }
        /// How long its axes are, in mm.
        lengths() -> Vec<f64> { get_lengths |name| gantry::GetLengthsRequest { name, extra: None } => |r| r.lengths_mm }
        /// Stops it. Earlier commands that are not answered yet fail.
        stop() -> () { stop |name| gantry::StopRequest { name, extra: None } => |_r| () }
        /// Whether it moves.
        is_moving() -> bool { is_moving |name| gantry::IsMovingRequest { name } => |r| r.is_moving }
    }
    /// Readings of any kind.
    Sensor sensor sensor::sensor_service_client::SensorServiceClient<RobotChannel> {
        /// What it measures, by name.
        readings() -> HashMap<String, Value> { get_readings |name| GetReadingsRequest { name, extra: None } => |r| r.readings.into_iter().collect() }
    }
    /// Position, velocity, heading.
    MovementSensor movement_sensor movement::movement_sensor_service_client::MovementSensorServiceClient<RobotChannel> {
        /// In m/s.
        linear_velocity() -> Vector3 {
            get_linear_velocity |name| movement::GetLinearVelocityRequest { name, extra: None } => |r| r.linear_velocity.unwrap_or_default()
        }
        /// In degrees/s.
        angular_velocity() -> Vector3 {
            get_angular_velocity |name| movement::GetAngularVelocityRequest { name, extra: None } => |r| r.angular_velocity.unwrap_or_default()
        }
        /// In degrees, clockwise from north.
        compass_heading() -> f64 { get_compass_heading |name| movement::GetCompassHeadingRequest { name, extra: None } => |r| r.value }
        /// As an orientation vector.
        orientation() -> Orientation {
            get_orientation |name| movement::GetOrientationRequest { name, extra: None } => |r| r.orientation.unwrap_or_default()
        }
        /// On the globe.
        position() -> movement::GetPositionResponse { get_position |name| movement::GetPositionRequest { name, extra: None } => |r| r }
        /// Which of its quantities it measures.
        properties() -> movement::GetPropertiesResponse { get_properties |name| movement::GetPropertiesRequest { name, extra: None } => |r| r }
        /// Everything it measures, by name.
        readings() -> HashMap<String, Value> { get_readings |name| GetReadingsRequest { name, extra: None } => |r| r.readings.into_iter().collect() }
    }
    /// A camera.
    Camera camera camera::camera_service_client::CameraServiceClient<RobotChannel> {
        /// A picture of each source.
        images() -> Vec<camera::Image> {
            get_images |name| camera::GetImagesRequest { name, filter_source_names: Vec::new(), extra: None } => |r| r.images
        }
        /// What it sees in three dimensions: a format and its bytes.
        point_cloud(mime_type: String) -> (String, Vec<u8>) {
            get_point_cloud |name, mime_type| camera::GetPointCloudRequest { name, mime_type, extra: None } => |r| (r.mime_type, r.point_cloud)
        }
        /// What it can do.
        properties() -> camera::GetPropertiesResponse { get_properties |name| camera::GetPropertiesRequest { name } => |r| r }
    }
    /// A switch of several positions.
    Switch switch switch::switch_service_client::SwitchServiceClient<RobotChannel> {
        /// Moves it.
        set_position(position: u32) -> () { set_position |name, position| switch::SetPositionRequest { name, position, extra: None } => |_r| () }
        /// Where it is.
        position() -> u32 { get_position |name| switch::GetPositionRequest { name, extra: None } => |r| r.position }
        /// How many positions it has, and their names.
        positions() -> (u32, Vec<String>) {
            get_number_of_positions |name| switch::GetNumberOfPositionsRequest { name, extra: None } => |r| (r.number_of_positions, r.labels)
        }
    }
    /// A button.
    Button button button::button_service_client::ButtonServiceClient<RobotChannel> {
        /// Pushes it.
        push() -> () { push |name| button::PushRequest { name, extra: None } => |_r| () }
    }
    /// A component that fits nowhere else.
    Generic generic generic::generic_service_client::GenericServiceClient<RobotChannel> {}
}
