//! Sensors.

use std::collections::BTreeMap;

use machine_api::viam::common::v1::{GetReadingsRequest, GetReadingsResponse};
use machine_api::viam::component::sensor::v1::sensor_service_server::{SensorService, SensorServiceServer};
use prost_types::{Struct, Value};

use super::{Resource, service};
use crate::DriverError;

/// A driver of a sensor.
#[tonic::async_trait]
pub trait Sensor: Resource {
    /// What it measures, by name.
    async fn readings(&self, extra: Option<&Struct>) -> Result<BTreeMap<String, Value>, DriverError>;
}

service! { Sensor "sensor" SensorService SensorServiceServer [geometries]
    get_readings(sensor, r: GetReadingsRequest) -> GetReadingsResponse {
        GetReadingsResponse { readings: sensor.readings(r.extra.as_ref()).await?.into_iter().collect() }
    }
}
