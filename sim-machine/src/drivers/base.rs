//! A base on a plane.

use machine_api::viam::common::v1::Vector3;
use machine_host::component::{Base, BaseProperties, Resource};
use machine_host::{Actuator, DriverError, Permit};
use prost_types::Struct;
use serde_json::json;

use super::finite;
use crate::world::{Body, Ground, Motion, Part};

/// A base that drives where it is told, at once.
pub struct SimBase {
    ground: Part<Ground>,
    width_mm: f64,
    max_mm_per_sec: f64,
    max_degs_per_sec: f64,
}

impl SimBase {
    /// A base of some width and greatest speeds.
    pub fn new(ground: Part<Ground>, width_mm: f64, max_mm_per_sec: f64, max_degs_per_sec: f64) -> Self {
        Self { ground, width_mm, max_mm_per_sec, max_degs_per_sec }
    }

    /// One write: velocities, and for how long.
    async fn drive(
        &self,
        permit: &Permit,
        cause: &str,
        forward: f64,
        turning: f64,
        motion: Motion,
    ) -> Result<(), DriverError> {
        let forward = forward.clamp(-self.max_mm_per_sec, self.max_mm_per_sec);
        let turning = turning.clamp(-self.max_degs_per_sec, self.max_degs_per_sec);
        let _inside = permit.enter(None).await?;
        let value = json!({ "forward_mm_s": forward, "turning_deg_s": turning });
        self.ground.write(cause, value, |ground| ground.drive(forward, turning, motion));
        Ok(())
    }

    /// Travels `way` at the `speed` of its sign: negative ones go back, as existing bases do it.
    fn travel(way: f64, speed: f64, fastest: f64) -> Result<(f64, f64), DriverError> {
        let (way, speed) = (finite("the distance", way)?, finite("the speed", speed)?);
        if speed == 0.0 && way != 0.0 {
            return Err(DriverError::invalid("the speed is zero: it would never arrive"));
        }
        let velocity = speed.abs().min(fastest) * way.signum() * speed.signum();
        Ok((velocity, if way == 0.0 { 0.0 } else { (way / velocity).abs() }))
    }
}

impl Actuator for SimBase {
    fn stop(&self, _: Option<&Struct>) -> Result<(), DriverError> {
        self.ground.write("stop", json!(null), Ground::halt);
        Ok(())
    }
}

#[tonic::async_trait]
impl Resource for SimBase {
    async fn status(&self) -> Result<Struct, DriverError> {
        Ok(super::sensors::to_struct(self.ground.read(Body::state)))
    }
}

#[tonic::async_trait]
impl Base for SimBase {
    async fn move_straight(
        &self,
        permit: &Permit,
        distance_mm: i64,
        mm_per_sec: f64,
        _: Option<&Struct>,
    ) -> Result<(), DriverError> {
        #[allow(clippy::cast_precision_loss, reason = "beyond 2^53 mm nobody measures")]
        let (velocity, seconds) = Self::travel(distance_mm as f64, mm_per_sec, self.max_mm_per_sec)?;
        if seconds > 0.0 {
            self.drive(permit, "MoveStraight", velocity, 0.0, Motion::For(seconds)).await?;
            self.ground.rest().await;
        }
        Ok(())
    }

    async fn spin(
        &self,
        permit: &Permit,
        angle_deg: f64,
        degs_per_sec: f64,
        _: Option<&Struct>,
    ) -> Result<(), DriverError> {
        let (velocity, seconds) = Self::travel(angle_deg, degs_per_sec, self.max_degs_per_sec)?;
        if seconds > 0.0 {
            self.drive(permit, "Spin", 0.0, velocity, Motion::For(seconds)).await?;
            self.ground.rest().await;
        }
        Ok(())
    }

    async fn set_power(
        &self,
        permit: &Permit,
        linear: Vector3,
        angular: Vector3,
        _: Option<&Struct>,
    ) -> Result<(), DriverError> {
        let forward = finite("linear.y", linear.y)?.clamp(-1.0, 1.0) * self.max_mm_per_sec;
        let turning = finite("angular.z", angular.z)?.clamp(-1.0, 1.0) * self.max_degs_per_sec;
        self.drive(permit, "SetPower", forward, turning, Motion::Steady).await
    }

    async fn set_velocity(
        &self,
        permit: &Permit,
        linear: Vector3,
        angular: Vector3,
        _: Option<&Struct>,
    ) -> Result<(), DriverError> {
        let (forward, turning) = (finite("linear.y", linear.y)?, finite("angular.z", angular.z)?);
        self.drive(permit, "SetVelocity", forward, turning, Motion::Steady).await
    }

    async fn is_moving(&self) -> Result<bool, DriverError> {
        Ok(self.ground.read(Body::is_moving))
    }

    async fn properties(&self, _: Option<&Struct>) -> Result<BaseProperties, DriverError> {
        let width_m = self.width_mm / 1000.0;
        Ok(BaseProperties { width_m, turning_radius_m: 0.0, wheel_circumference_m: 0.2 * std::f64::consts::PI })
    }
}
