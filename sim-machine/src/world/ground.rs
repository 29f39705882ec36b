//! A body on a plane: what a base drives.

use serde_json::{Value, json};

use super::Body;

/// How it moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Motion {
    /// Not at all.
    Rest,
    /// At these velocities, until told otherwise.
    Steady,
    /// At these velocities for so many seconds, then at rest.
    For(f64),
}

/// Its pose and motion. It starts at the origin, looking along y, as the protocol's bases do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ground {
    /// To the right of where it started, in mm.
    pub x_mm: f64,
    /// Ahead of where it started, in mm.
    pub y_mm: f64,
    /// Turned to the left, in degrees.
    pub theta_deg: f64,
    /// Forward, in mm/s.
    pub forward_mm_s: f64,
    /// Turning left, in degrees/s.
    pub turning_deg_s: f64,
    /// For how long.
    pub motion: Motion,
}

impl Default for Ground {
    fn default() -> Self {
        Self { x_mm: 0.0, y_mm: 0.0, theta_deg: 0.0, forward_mm_s: 0.0, turning_deg_s: 0.0, motion: Motion::Rest }
    }
}

impl Ground {
    /// Moves at these velocities; both zero is rest.
    pub fn drive(&mut self, forward_mm_s: f64, turning_deg_s: f64, motion: Motion) {
        if forward_mm_s == 0.0 && turning_deg_s == 0.0 {
            return self.halt();
        }
        (self.forward_mm_s, self.turning_deg_s, self.motion) = (forward_mm_s, turning_deg_s, motion);
    }

    /// Rests.
    pub fn halt(&mut self) {
        (self.forward_mm_s, self.turning_deg_s, self.motion) = (0.0, 0.0, Motion::Rest);
    }

    /// Exact for constant velocities: the path is a part of a circle.
    fn advance(&mut self, seconds: f64) {
        let turn = (self.turning_deg_s * seconds).to_radians();
        let heading = self.theta_deg.to_radians() + turn / 2.0;
        let half = turn / 2.0;
        let chord = self.forward_mm_s * seconds * if half.abs() < 1e-12 { 1.0 } else { half.sin() / half };
        self.x_mm -= chord * heading.sin();
        self.y_mm += chord * heading.cos();
        self.theta_deg = (self.theta_deg + turn.to_degrees() + 180.0).rem_euclid(360.0) - 180.0;
    }
}

impl Body for Ground {
    fn step(&mut self, seconds: f64) {
        match self.motion {
            Motion::Rest => {}
            Motion::Steady => self.advance(seconds),
            Motion::For(left) if left <= seconds => {
                self.advance(left);
                self.halt();
            }
            Motion::For(left) => {
                self.advance(seconds);
                self.motion = Motion::For(left - seconds);
            }
        }
    }

    fn is_moving(&self) -> bool {
        self.motion != Motion::Rest
    }

    fn state(&self) -> Value {
        json!({
            "x_mm": self.x_mm,
            "y_mm": self.y_mm,
            "theta_deg": self.theta_deg,
            "forward_mm_s": self.forward_mm_s,
            "turning_deg_s": self.turning_deg_s,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_square_closes_whatever_the_steps() {
        let mut ground = Ground::default();
        for side in 0..4u32 {
            for (forward, turning, seconds) in [(400.0, 0.0, 1.25), (0.0, 90.0, 1.0)] {
                ground.drive(forward, turning, Motion::For(seconds));
                while ground.is_moving() {
                    ground.step(0.0017 + f64::from(side) * 0.001);
                }
            }
        }
        assert!(ground.x_mm.hypot(ground.y_mm) < 1e-6 && ground.theta_deg.abs() < 1e-6, "{ground:?}");
    }

    #[test]
    fn half_a_circle_ends_beside_its_start() {
        let mut ground = Ground::default();
        let radius = 500.0;
        ground.drive(std::f64::consts::PI * radius, 180.0, Motion::For(1.0));
        while ground.is_moving() {
            ground.step(0.003);
        }
        assert!((ground.x_mm + 2.0 * radius).abs() < 1e-6 && ground.y_mm.abs() < 1e-6, "{ground:?}");
    }
}
