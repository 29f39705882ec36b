//! A six-joint arm that interpolates between joint positions.

use machine_api::viam::common::v1::Pose;
use machine_api::viam::component::arm::v1::TrajectoryPoint;
use machine_host::component::{Arm, ArmProperties, Resource};
use machine_host::{Actuator, DriverError, Permit};
use prost_types::Struct;
use serde_json::json;

use super::finite;
use crate::world::{Axes, Body, Part};

/// Its joints turn as fast as this, in degrees/s.
const SPEED: f64 = 60.0;
/// Upper arm and forearm, in mm.
const LINKS: [f64; 2] = [400.0, 350.0];

/// An arm: joints 1 to 3 place its wrist, 4 to 6 turn it.
pub struct SimArm {
    joints: Part<Axes>,
}

impl SimArm {
    /// Its joints, six.
    pub fn new(joints: Part<Axes>) -> Self {
        Self { joints }
    }

    async fn go(&self, permit: &Permit, cause: &str, to: Vec<f64>, speed: f64) -> Result<(), DriverError> {
        if to.len() != 6 {
            return Err(DriverError::invalid(format!("{} joint positions for 6 joints", to.len())));
        }
        for value in &to {
            finite("a joint position", *value)?;
        }
        // Each step is a write of its own: whatever came meanwhile, the gate does not open again.
        let inside = permit.enter(None).await?;
        self.joints.write(cause, json!({ "joints": to }), |axes| {
            axes.halt();
            axes.go_together(&to, speed);
        });
        drop(inside);
        self.joints.rest().await;
        Ok(())
    }
}

impl Actuator for SimArm {
    fn stop(&self, _: Option<&Struct>) -> Result<(), DriverError> {
        self.joints.write("stop", json!(null), Axes::halt);
        Ok(())
    }
}

impl Resource for SimArm {}

/// Where the wrist is: a turning shoulder, two links in its plane.
fn forward(joints: &[f64]) -> Pose {
    let angle = |at: usize| joints.get(at).copied().unwrap_or(0.0).to_radians();
    let (turn, shoulder, elbow) = (angle(0), angle(1), angle(1) + angle(2));
    let reach = LINKS[0] * shoulder.cos() + LINKS[1] * elbow.cos();
    let height = LINKS[0] * shoulder.sin() + LINKS[1] * elbow.sin();
    Pose {
        x: reach * turn.cos(),
        y: reach * turn.sin(),
        z: height,
        o_x: turn.cos() * elbow.cos(),
        o_y: turn.sin() * elbow.cos(),
        o_z: elbow.sin(),
        theta: joints.get(5).copied().unwrap_or(0.0),
    }
}

/// Joints 1 to 3 for a wrist at that place, elbow up.
fn inverse(to: &Pose) -> Option<[f64; 3]> {
    let reach = to.x.hypot(to.y);
    let squared = reach * reach + to.z * to.z;
    let bend = (squared - LINKS[0].powi(2) - LINKS[1].powi(2)) / (2.0 * LINKS[0] * LINKS[1]);
    if !(-1.0..=1.0).contains(&bend) {
        return None;
    }
    let elbow = -bend.acos();
    let shoulder = to.z.atan2(reach) - (LINKS[1] * elbow.sin()).atan2(LINKS[0] + LINKS[1] * elbow.cos());
    Some([to.y.atan2(to.x).to_degrees(), shoulder.to_degrees(), elbow.to_degrees()])
}

#[tonic::async_trait]
impl Arm for SimArm {
    async fn end_position(&self, _: Option<&Struct>) -> Result<Pose, DriverError> {
        Ok(forward(&self.joints.read(Axes::positions)))
    }

    async fn move_to_position(&self, permit: &Permit, to: Pose, _: Option<&Struct>) -> Result<(), DriverError> {
        let place = inverse(&to).ok_or_else(|| {
            DriverError::invalid(format!("({:.0}, {:.0}, {:.0}) mm is out of this arm's reach", to.x, to.y, to.z))
        })?;
        let mut joints = self.joints.read(Axes::positions);
        joints[..3].copy_from_slice(&place);
        joints[5] = to.theta;
        self.go(permit, "MoveToPosition", joints, SPEED).await
    }

    async fn joint_positions(&self, _: Option<&Struct>) -> Result<Vec<f64>, DriverError> {
        Ok(self.joints.read(Axes::positions))
    }

    async fn move_through(
        &self,
        permit: &Permit,
        positions: Vec<Vec<f64>>,
        _: Option<&Struct>,
    ) -> Result<(), DriverError> {
        for to in positions {
            self.go(permit, "MoveThroughJointPositions", to, SPEED).await?;
        }
        Ok(())
    }

    async fn follow(&self, permit: &Permit, points: Vec<TrajectoryPoint>) -> Result<(), DriverError> {
        for point in points {
            let to = point.positions.ok_or_else(|| DriverError::invalid("a trajectory point without positions"))?;
            self.go(permit, "MoveThroughJointPositionsStreamed", to.values, SPEED).await?;
        }
        Ok(())
    }

    async fn is_moving(&self) -> Result<bool, DriverError> {
        Ok(self.joints.read(Body::is_moving))
    }

    async fn properties(&self, _: Option<&Struct>) -> Result<ArmProperties, DriverError> {
        Ok(ArmProperties { manual_mode: false, cartesian_commands: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_leads_to_where_it_came_from() {
        for joints in [[0.0, 45.0, -30.0], [30.0, 60.0, -90.0], [-120.0, 10.0, -5.0]] {
            let found = inverse(&forward(&joints)).expect("within reach");
            for (a, b) in joints.iter().zip(found) {
                assert!((a - b).abs() < 1e-6, "{joints:?} {found:?}");
            }
        }
        assert_eq!(inverse(&Pose { x: 2000.0, ..Default::default() }), None);
    }
}
