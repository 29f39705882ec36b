//! Sensors.

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::time::{Duration, Instant};

use machine_api::viam::common::v1::{Orientation, Vector3};
use machine_host::DriverError;
use machine_host::component::{Fix, MovementProperties, MovementSensor, Resource, Sensor};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use crate::world::{Body, Ground, Part};

/// Where the plane of the bases lies: degrees north and east.
const ORIGIN: (f64, f64) = (40.7128, -74.006);
/// Metres of a degree of latitude.
const DEGREE_M: f64 = 111_320.0;

/// Measures where a base is.
pub struct SimMovementSensor {
    /// The base; one that never moves where there is none.
    pub ground: Part<Ground>,
}

/// Measures a temperature that swings around 20 degrees, and how long it has run.
pub struct SimSensor {
    /// Since when.
    pub started: Instant,
    /// How long a reading takes.
    pub takes: Duration,
}

impl Resource for SimMovementSensor {}
impl Resource for SimSensor {}

#[tonic::async_trait]
impl MovementSensor for SimMovementSensor {
    async fn properties(&self, _: Option<&Struct>) -> Result<MovementProperties, DriverError> {
        Ok(MovementProperties {
            linear_velocity: true,
            angular_velocity: true,
            orientation: true,
            position: true,
            compass_heading: true,
            linear_acceleration: false,
        })
    }

    async fn linear_velocity(&self, _: Option<&Struct>) -> Result<Vector3, DriverError> {
        Ok(Vector3 { x: 0.0, y: self.ground.read(|g| g.forward_mm_s) / 1000.0, z: 0.0 })
    }

    async fn angular_velocity(&self, _: Option<&Struct>) -> Result<Vector3, DriverError> {
        Ok(Vector3 { x: 0.0, y: 0.0, z: self.ground.read(|g| g.turning_deg_s) })
    }

    async fn compass_heading(&self, _: Option<&Struct>) -> Result<f64, DriverError> {
        Ok((-self.ground.read(|g| g.theta_deg)).rem_euclid(360.0))
    }

    async fn orientation(&self, _: Option<&Struct>) -> Result<Orientation, DriverError> {
        Ok(Orientation { o_x: 0.0, o_y: 0.0, o_z: 1.0, theta: self.ground.read(|g| g.theta_deg) })
    }

    async fn position(&self, _: Option<&Struct>) -> Result<Fix, DriverError> {
        let (x, y) = self.ground.read(|g| (g.x_mm / 1000.0, g.y_mm / 1000.0));
        let (latitude, longitude) = ORIGIN;
        let narrower = (latitude * PI / 180.0).cos();
        Ok(Fix {
            latitude: latitude + y / DEGREE_M,
            longitude: longitude + x / (DEGREE_M * narrower),
            altitude_m: 10.0,
        })
    }

    async fn accuracy(&self, _: Option<&Struct>) -> Result<BTreeMap<String, f32>, DriverError> {
        Ok(BTreeMap::new())
    }

    async fn readings(&self, _: Option<&Struct>) -> Result<BTreeMap<String, Value>, DriverError> {
        let state = to_struct(self.ground.read(Body::state));
        Ok(state.fields)
    }
}

#[tonic::async_trait]
impl Sensor for SimSensor {
    async fn readings(&self, _: Option<&Struct>) -> Result<BTreeMap<String, Value>, DriverError> {
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let temperature = 20.0 + 2.0 * (seconds * 2.0 * PI / 60.0).sin();
        let number = |value: f64| Value { kind: Some(Kind::NumberValue(value)) };
        Ok([("uptime_s".to_owned(), number(seconds)), ("temperature_c".to_owned(), number(temperature))].into())
    }
}

/// JSON as the protocol's struct; what is no object is an empty one.
pub(super) fn to_struct(json: serde_json::Value) -> Struct {
    match value(json).kind {
        Some(Kind::StructValue(fields)) => fields,
        _ => Struct::default(),
    }
}

fn value(json: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(values) => Kind::ListValue(ListValue { values: values.into_iter().map(value).collect() }),
        Json::Object(fields) => {
            Kind::StructValue(Struct { fields: fields.into_iter().map(|(k, v)| (k, value(v))).collect() })
        }
    };
    Value { kind: Some(kind) }
}
