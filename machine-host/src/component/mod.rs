//! The components: for each type a driver's trait, and the service that calls it.
//!
//! Writing to an actuator takes a [`Permit`](crate::Permit): a driver enters its gate for each write and leaves it when the write has
//! returned. Whatever shut the call out meanwhile (a Stop, a later command, a lapse) fails the next entry, so a long motion
//! that is written in steps ends there.

mod arm;
mod base;
mod button;
mod camera;
mod gantry;
mod generic;
mod gripper;
mod motor;
mod movement_sensor;
mod sensor;
mod servo;
mod switch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use machine_api::viam::common::v1::Geometry;
use prost_types::Struct;
use tonic::{Request, Status};

use crate::guard::not_found;
use crate::{Actuator, DriverError, Permit, ResourceName};

pub use arm::{Arm, ArmProperties};
pub use base::{Base, BaseProperties};
pub use button::Button;
pub use camera::{Camera, CameraProperties, Image};
pub use gantry::Gantry;
pub use generic::Generic;
pub use gripper::Gripper;
pub use motor::Motor;
pub use movement_sensor::{Fix, MovementProperties, MovementSensor};
pub use sensor::Sensor;
pub use servo::Servo;
pub use switch::Switch;

/// What every component may offer.
#[tonic::async_trait]
pub trait Resource: Send + Sync + 'static {
    /// The resources that its driver writes to, such as a base's wheels. A command to it needs their gates too, and its Stop is theirs.
    fn parts(&self) -> BTreeSet<ResourceName> {
        BTreeSet::new()
    }

    /// Whatever its maker invented. If it moves something it enters the gate first.
    async fn do_command(&self, permit: &Permit, command: Struct) -> Result<Struct, DriverError> {
        let _ = (permit, command);
        Err(DriverError::Unsupported("DoCommand"))
    }

    /// Its state, in words of its own.
    async fn status(&self) -> Result<Struct, DriverError> {
        Ok(Struct::default())
    }

    /// What it fills, in its own frame.
    async fn geometries(&self, extra: Option<&Struct>) -> Result<Vec<Geometry>, DriverError> {
        let _ = extra;
        Ok(Vec::new())
    }
}

/// One row for each type: its variant, the protocol's word for it, its gRPC service, and whether it has a Stop.
macro_rules! components {
    ($($(#[$doc:meta])* $kind:ident $subtype:literal $service:literal $stops:ident;)*) => {
        /// A component of a machine.
        #[derive(Clone)]
        pub enum Component {
            $($(#[$doc])* $kind(Arc<dyn $kind>),)*
        }

        impl Component {
            /// The protocol's word for its type.
            pub fn subtype(&self) -> &'static str {
                match self { $(Self::$kind(_) => $subtype,)* }
            }

            /// What every component has.
            pub(crate) fn resource(&self) -> Arc<dyn Resource> {
                match self { $(Self::$kind(driver) => driver.clone(),)* }
            }

            /// How it is stopped, where it moves.
            pub(crate) fn actuator(&self) -> Option<Arc<dyn Actuator>> {
                match self { $(Self::$kind(driver) => components!(@$stops driver),)* }
            }
        }

        /// Each type's word and gRPC service.
        pub(crate) const SERVICES: &[(&str, &str)] = &[$(($subtype, $service),)*];
    };
    (@stops $driver:ident) => { Some($driver.clone()) };
    (@rests $driver:ident) => {{ let _ = $driver; None }};
}

components! {
    /// A robot arm.
    Arm "arm" "viam.component.arm.v1.ArmService" stops;
    /// Something that drives.
    Base "base" "viam.component.base.v1.BaseService" stops;
    /// A button.
    Button "button" "viam.component.button.v1.ButtonService" rests;
    /// A camera.
    Camera "camera" "viam.component.camera.v1.CameraService" rests;
    /// Linear axes.
    Gantry "gantry" "viam.component.gantry.v1.GantryService" stops;
    /// Anything else.
    Generic "generic" "viam.component.generic.v1.GenericService" rests;
    /// A gripper.
    Gripper "gripper" "viam.component.gripper.v1.GripperService" stops;
    /// A motor.
    Motor "motor" "viam.component.motor.v1.MotorService" stops;
    /// Position, velocity, heading.
    MovementSensor "movement_sensor" "viam.component.movementsensor.v1.MovementSensorService" rests;
    /// Readings of any kind.
    Sensor "sensor" "viam.component.sensor.v1.SensorService" rests;
    /// A servo.
    Servo "servo" "viam.component.servo.v1.ServoService" stops;
    /// A switch of several positions.
    Switch "switch" "viam.component.switch.v1.SwitchService" rests;
}

/// What a machine has at the moment. Clones are the same machine's.
#[derive(Clone, Default)]
pub(crate) struct Components(Arc<RwLock<BTreeMap<ResourceName, Component>>>);

impl Components {
    pub(crate) fn insert(&self, name: ResourceName, component: Component) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name, component);
    }

    pub(crate) fn remove(&self, name: &ResourceName) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    pub(crate) fn names(&self) -> Vec<ResourceName> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    fn get(&self, subtype: &'static str, name: &str) -> Result<Component, Status> {
        let wanted = ResourceName::component(subtype, name);
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&wanted).cloned().ok_or_else(|| not_found(&wanted))
    }
}

/// Every component's gRPC service, on a tonic router.
pub(crate) fn register(routes: &mut tonic::service::RoutesBuilder, components: &Components) {
    arm::register(routes, components);
    base::register(routes, components);
    button::register(routes, components);
    camera::register(routes, components);
    gantry::register(routes, components);
    generic::register(routes, components);
    gripper::register(routes, components);
    motor::register(routes, components);
    movement_sensor::register(routes, components);
    sensor::register(routes, components);
    servo::register(routes, components);
    switch::register(routes, components);
}

/// The permit that the guard gave to a command.
fn permit<T>(request: &Request<T>) -> Result<Permit, Status> {
    let permit = request.extensions().get::<Permit>().cloned();
    permit.ok_or_else(|| Status::internal("the command came without a permit"))
}

/// Implements a gRPC service on [`Components`]. Each method gets its driver, a command its permit too, and the request. DoCommand and
/// GetStatus are the same everywhere, and GetGeometries and Stop (which never comes this far) where they are asked for. `+` takes whole
/// functions, for calls that stream.
macro_rules! service {
    ($kind:ident $subtype:literal $Service:ident $Server:ident [stop geometries] $($rest:tt)*) => {
        service! { @emit $kind $subtype $Service $Server {
            async fn stop(&self, _: tonic::Request<StopRequest>) -> Result<tonic::Response<StopResponse>, tonic::Status> {
                Err(tonic::Status::internal("Stop is answered before the services"))
            }

            async fn get_geometries(
                &self,
                request: tonic::Request<machine_api::viam::common::v1::GetGeometriesRequest>,
            ) -> Result<tonic::Response<machine_api::viam::common::v1::GetGeometriesResponse>, tonic::Status> {
                let request = request.into_inner();
                let geometries = self.get($subtype, &request.name)?.resource().geometries(request.extra.as_ref()).await?;
                Ok(tonic::Response::new(machine_api::viam::common::v1::GetGeometriesResponse { geometries }))
            }
        } $($rest)* }
    };
    ($kind:ident $subtype:literal $Service:ident $Server:ident [geometries] $($rest:tt)*) => {
        service! { @emit $kind $subtype $Service $Server {
            async fn get_geometries(
                &self,
                request: tonic::Request<machine_api::viam::common::v1::GetGeometriesRequest>,
            ) -> Result<tonic::Response<machine_api::viam::common::v1::GetGeometriesResponse>, tonic::Status> {
                let request = request.into_inner();
                let geometries = self.get($subtype, &request.name)?.resource().geometries(request.extra.as_ref()).await?;
                Ok(tonic::Response::new(machine_api::viam::common::v1::GetGeometriesResponse { geometries }))
            }
        } $($rest)* }
    };
    ($kind:ident $subtype:literal $Service:ident $Server:ident [] $($rest:tt)*) => {
        service! { @emit $kind $subtype $Service $Server {} $($rest)* }
    };
    (
        @emit $kind:ident $subtype:literal $Service:ident $Server:ident { $($common:tt)* }
        $($method:ident($driver:ident, $request:ident: $Request:ty) $(with $permit:ident)? -> $Response:ty $body:block)*
        $(+ { $($raw:tt)* })?
    ) => {
        pub(super) fn register(routes: &mut tonic::service::RoutesBuilder, components: &super::Components) {
            let server = $Server::new(components.clone())
                .max_decoding_message_size(machine_api::MAX_MESSAGE)
                .max_encoding_message_size(machine_api::MAX_MESSAGE);
            routes.add_service(server);
        }

        /// The driver of that name.
        #[allow(dead_code, reason = "a generic component has no calls of its own")]
        fn driver(components: &super::Components, name: &str) -> Result<std::sync::Arc<dyn $kind>, tonic::Status> {
            match components.get($subtype, name)? {
                super::Component::$kind(driver) => Ok(driver),
                _ => Err(tonic::Status::internal("a component of another type has this name")),
            }
        }

        #[tonic::async_trait]
        impl $Service for super::Components {
            $(async fn $method(
                &self,
                request: tonic::Request<$Request>,
            ) -> Result<tonic::Response<$Response>, tonic::Status> {
                $(let $permit = super::permit(&request)?;)?
                let $request = request.into_inner();
                let $driver = driver(self, &$request.name)?;
                Ok(tonic::Response::new($body))
            })*

            async fn do_command(
                &self,
                request: tonic::Request<machine_api::viam::common::v1::DoCommandRequest>,
            ) -> Result<tonic::Response<machine_api::viam::common::v1::DoCommandResponse>, tonic::Status> {
                let permit = super::permit(&request)?;
                let request = request.into_inner();
                let component = self.get($subtype, &request.name)?.resource();
                let result = component.do_command(&permit, request.command.unwrap_or_default()).await?;
                Ok(tonic::Response::new(machine_api::viam::common::v1::DoCommandResponse { result: Some(result) }))
            }

            async fn get_status(
                &self,
                request: tonic::Request<machine_api::viam::common::v1::GetStatusRequest>,
            ) -> Result<tonic::Response<machine_api::viam::common::v1::GetStatusResponse>, tonic::Status> {
                let status = self.get($subtype, &request.into_inner().name)?.resource().status().await?;
                Ok(tonic::Response::new(machine_api::viam::common::v1::GetStatusResponse { result: Some(status) }))
            }

            $($common)*
            $($($raw)*)?
        }
    };
}
use service;
