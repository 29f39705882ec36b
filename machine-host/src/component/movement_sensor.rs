//! Movement sensors.

use std::collections::BTreeMap;

use machine_api::viam::common::v1::{GeoPoint, GetReadingsRequest, GetReadingsResponse, Orientation, Vector3};
use machine_api::viam::component::movementsensor::v1::movement_sensor_service_server::{
    MovementSensorService, MovementSensorServiceServer,
};
use machine_api::viam::component::movementsensor::v1::*;
use prost_types::{Struct, Value};

use super::{Resource, service};
use crate::DriverError;

/// Which of its quantities a movement sensor measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MovementProperties {
    /// Linear velocity.
    pub linear_velocity: bool,
    /// Angular velocity.
    pub angular_velocity: bool,
    /// Orientation.
    pub orientation: bool,
    /// Position on the globe.
    pub position: bool,
    /// Compass heading.
    pub compass_heading: bool,
    /// Linear acceleration.
    pub linear_acceleration: bool,
}

/// A position on the globe.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fix {
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
    /// Metres above the sea.
    pub altitude_m: f32,
}

/// A driver of a movement sensor. It measures what [`MovementSensor::properties`] says.
#[tonic::async_trait]
pub trait MovementSensor: Resource {
    /// What it measures.
    async fn properties(&self, extra: Option<&Struct>) -> Result<MovementProperties, DriverError>;
    /// In m/s, in its own frame.
    async fn linear_velocity(&self, extra: Option<&Struct>) -> Result<Vector3, DriverError> {
        let _ = extra;
        Err(DriverError::Unsupported("linear velocity"))
    }
    /// In degrees/s.
    async fn angular_velocity(&self, extra: Option<&Struct>) -> Result<Vector3, DriverError> {
        let _ = extra;
        Err(DriverError::Unsupported("angular velocity"))
    }
    /// In degrees, clockwise from north.
    async fn compass_heading(&self, extra: Option<&Struct>) -> Result<f64, DriverError> {
        let _ = extra;
        Err(DriverError::Unsupported("compass heading"))
    }
    /// As an orientation vector, in degrees.
    async fn orientation(&self, extra: Option<&Struct>) -> Result<Orientation, DriverError> {
        let _ = extra;
        Err(DriverError::Unsupported("orientation"))
    }
    /// On the globe.
    async fn position(&self, extra: Option<&Struct>) -> Result<Fix, DriverError> {
        let _ = extra;
        Err(DriverError::Unsupported("position"))
    }
    /// In m/s^2.
    async fn linear_acceleration(&self, extra: Option<&Struct>) -> Result<Vector3, DriverError> {
        let _ = extra;
        Err(DriverError::Unsupported("linear acceleration"))
    }
    /// How exact it is, by quantity.
    async fn accuracy(&self, extra: Option<&Struct>) -> Result<BTreeMap<String, f32>, DriverError> {
        let _ = extra;
        Err(DriverError::Unsupported("accuracy"))
    }
    /// Everything it measures, by name.
    async fn readings(&self, extra: Option<&Struct>) -> Result<BTreeMap<String, Value>, DriverError> {
        let _ = extra;
        Err(DriverError::Unsupported("readings"))
    }
}

service! { MovementSensor "movement_sensor" MovementSensorService MovementSensorServiceServer [geometries]
    get_linear_velocity(sensor, r: GetLinearVelocityRequest) -> GetLinearVelocityResponse {
        GetLinearVelocityResponse { linear_velocity: Some(sensor.linear_velocity(r.extra.as_ref()).await?) }
    }
    get_angular_velocity(sensor, r: GetAngularVelocityRequest) -> GetAngularVelocityResponse {
        GetAngularVelocityResponse { angular_velocity: Some(sensor.angular_velocity(r.extra.as_ref()).await?) }
    }
    get_compass_heading(sensor, r: GetCompassHeadingRequest) -> GetCompassHeadingResponse {
        GetCompassHeadingResponse { value: sensor.compass_heading(r.extra.as_ref()).await? }
    }
    get_orientation(sensor, r: GetOrientationRequest) -> GetOrientationResponse {
        GetOrientationResponse { orientation: Some(sensor.orientation(r.extra.as_ref()).await?) }
    }
    get_position(sensor, r: GetPositionRequest) -> GetPositionResponse {
        let Fix { latitude, longitude, altitude_m } = sensor.position(r.extra.as_ref()).await?;
        GetPositionResponse { coordinate: Some(GeoPoint { latitude, longitude }), altitude_m }
    }
    get_properties(sensor, r: GetPropertiesRequest) -> GetPropertiesResponse {
        let properties = sensor.properties(r.extra.as_ref()).await?;
        GetPropertiesResponse {
            linear_velocity_supported: properties.linear_velocity,
            angular_velocity_supported: properties.angular_velocity,
            orientation_supported: properties.orientation,
            position_supported: properties.position,
            compass_heading_supported: properties.compass_heading,
            linear_acceleration_supported: properties.linear_acceleration,
        }
    }
    get_accuracy(sensor, r: GetAccuracyRequest) -> GetAccuracyResponse {
        GetAccuracyResponse { accuracy: sensor.accuracy(r.extra.as_ref()).await?.into_iter().collect(), ..Default::default() }
    }
    get_linear_acceleration(sensor, r: GetLinearAccelerationRequest) -> GetLinearAccelerationResponse {
        GetLinearAccelerationResponse { linear_acceleration: Some(sensor.linear_acceleration(r.extra.as_ref()).await?) }
    }
    get_readings(sensor, r: GetReadingsRequest) -> GetReadingsResponse {
        GetReadingsResponse { readings: sensor.readings(r.extra.as_ref()).await?.into_iter().collect() }
    }
}
