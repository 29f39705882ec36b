//! Motors, servos, grippers and gantries: whatever has axes.

use machine_host::component::{Gantry, Gripper, Motor, Resource, Servo};
use machine_host::{Actuator, DriverError, Permit};
use prost_types::Struct;
use serde_json::json;

use super::finite;
use crate::world::{Axes, Body, Goal, Part};

/// A motor with inertia and an encoder. Positions in revolutions.
pub struct SimMotor {
    /// Its shaft.
    pub shaft: Part<Axes>,
    /// At full power.
    pub max_rpm: f64,
}

/// A servo of 180 degrees.
pub struct SimServo {
    /// Its horn, in degrees.
    pub horn: Part<Axes>,
}

/// Jaws: 0 is closed, 1 is open. It never holds anything.
pub struct SimGripper {
    /// Its jaws.
    pub jaws: Part<Axes>,
}

/// Rails, in millimetres.
pub struct SimGantry {
    /// Its carriages.
    pub carriages: Part<Axes>,
    /// How long each rail is.
    pub lengths_mm: Vec<f64>,
}

macro_rules! stops_its_axes {
    ($($driver:ident $axes:ident),*) => { $(
        impl Actuator for $driver {
            fn stop(&self, _: Option<&Struct>) -> Result<(), DriverError> {
                self.$axes.write("stop", json!(null), Axes::halt);
                Ok(())
            }
        }

        impl Resource for $driver {}
    )* };
}
stops_its_axes!(SimMotor shaft, SimServo horn, SimGripper jaws, SimGantry carriages);

/// One write of one goal to the first axis; it waits for the axis' rest where it is to `arrive`.
async fn go(axes: &Part<Axes>, permit: &Permit, cause: &str, goal: Goal, arrive: bool) -> Result<(), DriverError> {
    let value = match goal {
        Goal::Velocity(velocity) => json!({ "velocity": velocity }),
        Goal::Position { to, speed } => json!({ "position": to, "speed": speed }),
    };
    let inside = permit.enter(None).await?;
    axes.write(cause, value, |axes| axes.0.iter_mut().take(1).for_each(|axis| axis.goal = goal));
    drop(inside);
    if arrive {
        axes.rest().await;
    }
    Ok(())
}

impl SimMotor {
    /// Revolutions per second of `rpm`, no faster than it can.
    fn speed(&self, rpm: f64) -> Result<f64, DriverError> {
        Ok(finite("rpm", rpm)?.clamp(-self.max_rpm, self.max_rpm) / 60.0)
    }

    fn position(&self) -> f64 {
        self.shaft.read(|axes| axes.0[0].position)
    }
}

#[tonic::async_trait]
impl Motor for SimMotor {
    async fn set_power(&self, permit: &Permit, power: f64, _: Option<&Struct>) -> Result<(), DriverError> {
        let speed = self.speed(finite("power", power)?.clamp(-1.0, 1.0) * self.max_rpm)?;
        go(&self.shaft, permit, "SetPower", Goal::Velocity(speed), false).await
    }

    async fn go_for(&self, permit: &Permit, rpm: f64, revolutions: f64, _: Option<&Struct>) -> Result<(), DriverError> {
        let (speed, revolutions) = (self.speed(rpm)?, finite("revolutions", revolutions)?);
        if revolutions == 0.0 {
            return go(&self.shaft, permit, "GoFor", Goal::Velocity(speed), false).await;
        }
        if speed == 0.0 {
            return Err(DriverError::invalid("rpm is zero: it would never arrive"));
        }
        let to = self.position() + revolutions * speed.signum();
        go(&self.shaft, permit, "GoFor", Goal::Position { to, speed: speed.abs() }, true).await
    }

    async fn go_to(&self, permit: &Permit, rpm: f64, position: f64, _: Option<&Struct>) -> Result<(), DriverError> {
        let (speed, to) = (self.speed(rpm)?.abs(), finite("position", position)?);
        if speed == 0.0 {
            return Err(DriverError::invalid("rpm is zero: it would never arrive"));
        }
        go(&self.shaft, permit, "GoTo", Goal::Position { to, speed }, true).await
    }

    async fn set_rpm(&self, permit: &Permit, rpm: f64, _: Option<&Struct>) -> Result<(), DriverError> {
        go(&self.shaft, permit, "SetRPM", Goal::Velocity(self.speed(rpm)?), false).await
    }

    async fn reset_zero_position(&self, offset: f64, _: Option<&Struct>) -> Result<(), DriverError> {
        let offset = finite("offset", offset)?;
        // Where the shaft is does not change, only what it is called.
        self.shaft.write("ResetZeroPosition", json!({ "offset": offset }), |axes| {
            let moved = -offset - axes.0[0].position;
            axes.0[0].position += moved;
            if let Goal::Position { to, .. } = &mut axes.0[0].goal {
                *to += moved;
            }
        });
        Ok(())
    }

    async fn position(&self, _: Option<&Struct>) -> Result<f64, DriverError> {
        Ok(self.position())
    }

    async fn position_reporting(&self) -> Result<bool, DriverError> {
        Ok(true)
    }

    async fn is_powered(&self, _: Option<&Struct>) -> Result<(bool, f64), DriverError> {
        let speed = self.shaft.read(|axes| axes.0[0].velocity);
        Ok((self.shaft.read(Body::is_moving), speed * 60.0 / self.max_rpm))
    }

    async fn is_moving(&self) -> Result<bool, DriverError> {
        Ok(self.shaft.read(Body::is_moving))
    }
}

#[tonic::async_trait]
impl Servo for SimServo {
    async fn move_to(&self, permit: &Permit, angle_deg: u32, _: Option<&Struct>) -> Result<(), DriverError> {
        if angle_deg > 180 {
            return Err(DriverError::invalid(format!("{angle_deg} degrees: this servo turns from 0 to 180")));
        }
        go(&self.horn, permit, "Move", Goal::Position { to: f64::from(angle_deg), speed: 120.0 }, true).await
    }

    async fn position(&self, _: Option<&Struct>) -> Result<u32, DriverError> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 180")]
        Ok(self.horn.read(|axes| axes.0[0].position.round().clamp(0.0, 180.0) as u32))
    }

    async fn is_moving(&self) -> Result<bool, DriverError> {
        Ok(self.horn.read(Body::is_moving))
    }
}

#[tonic::async_trait]
impl Gripper for SimGripper {
    async fn open(&self, permit: &Permit, _: Option<&Struct>) -> Result<(), DriverError> {
        go(&self.jaws, permit, "Open", Goal::Position { to: 1.0, speed: 2.0 }, true).await
    }

    async fn grab(&self, permit: &Permit, _: Option<&Struct>) -> Result<bool, DriverError> {
        go(&self.jaws, permit, "Grab", Goal::Position { to: 0.0, speed: 2.0 }, true).await?;
        Ok(false)
    }

    async fn is_holding(&self, _: Option<&Struct>) -> Result<bool, DriverError> {
        Ok(false)
    }

    async fn is_moving(&self) -> Result<bool, DriverError> {
        Ok(self.jaws.read(Body::is_moving))
    }

    async fn inputs(&self, _: Option<&Struct>) -> Result<Vec<f64>, DriverError> {
        Ok(self.jaws.read(Axes::positions))
    }
}

impl SimGantry {
    async fn go(&self, permit: &Permit, cause: &str, to: Vec<f64>, speed: f64) -> Result<(), DriverError> {
        let inside = permit.enter(None).await?;
        self.carriages.write(cause, json!({ "positions": to }), |axes| axes.go_together(&to, speed));
        drop(inside);
        self.carriages.rest().await;
        Ok(())
    }
}

#[tonic::async_trait]
impl Gantry for SimGantry {
    async fn position(&self, _: Option<&Struct>) -> Result<Vec<f64>, DriverError> {
        Ok(self.carriages.read(Axes::positions))
    }

    async fn move_to_position(
        &self,
        permit: &Permit,
        positions_mm: Vec<f64>,
        speeds_mm_per_sec: Vec<f64>,
        _: Option<&Struct>,
    ) -> Result<(), DriverError> {
        if positions_mm.len() != self.lengths_mm.len() {
            let axes = self.lengths_mm.len();
            return Err(DriverError::invalid(format!("{} positions for {axes} axes", positions_mm.len())));
        }
        for (to, length) in positions_mm.iter().zip(&self.lengths_mm) {
            if !(0.0..=*length).contains(to) {
                return Err(DriverError::invalid(format!("{to} mm is not on a rail of {length} mm")));
            }
        }
        let fastest = speeds_mm_per_sec.into_iter().filter(|s| s.is_finite() && *s > 0.0).fold(0.0, f64::max);
        self.go(permit, "MoveToPosition", positions_mm, if fastest > 0.0 { fastest } else { 100.0 }).await
    }

    async fn home(&self, permit: &Permit, _: Option<&Struct>) -> Result<bool, DriverError> {
        self.go(permit, "Home", vec![0.0; self.lengths_mm.len()], 100.0).await?;
        Ok(true)
    }

    async fn lengths(&self, _: Option<&Struct>) -> Result<Vec<f64>, DriverError> {
        Ok(self.lengths_mm.clone())
    }

    async fn is_moving(&self) -> Result<bool, DriverError> {
        Ok(self.carriages.read(Body::is_moving))
    }
}
