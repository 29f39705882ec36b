//! The simulated components' drivers.

mod arm;
mod axis;
mod base;
mod camera;
mod sensors;
mod simple;

pub use arm::SimArm;
pub use axis::{SimGantry, SimGripper, SimMotor, SimServo};
pub use base::SimBase;
pub use camera::SimCamera;
pub use sensors::{SimMovementSensor, SimSensor};
pub use simple::{SimButton, SimGeneric, SimSwitch};

use machine_host::DriverError;

/// A number that a caller gave, if it is one.
fn finite(what: &str, value: f64) -> Result<f64, DriverError> {
    if value.is_finite() { Ok(value) } else { Err(DriverError::invalid(format!("{what} is {value}, not a number"))) }
}
