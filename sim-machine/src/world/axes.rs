//! Axes: motors, joints, rails, jaws.

use serde_json::{Value, json};

use super::Body;

/// Where an axis is going.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// A velocity, until told otherwise; 0 is rest.
    Velocity(f64),
    /// A position, at a speed.
    Position {
        /// Where to.
        to: f64,
        /// How fast; positive.
        speed: f64,
    },
}

/// One axis, in units of its own: revolutions, degrees, millimetres.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    /// Where it is.
    pub position: f64,
    /// How fast it moves.
    pub velocity: f64,
    /// How fast its velocity changes at most; infinite for one without inertia.
    pub acceleration: f64,
    /// Where it is going.
    pub goal: Goal,
}

impl Axis {
    /// One at rest.
    pub fn new(position: f64, acceleration: f64) -> Self {
        Self { position, velocity: 0.0, acceleration, goal: Goal::Velocity(0.0) }
    }

    fn is_moving(&self) -> bool {
        self.velocity != 0.0 || self.goal != Goal::Velocity(0.0)
    }

    fn step(&mut self, seconds: f64) {
        let wanted = match self.goal {
            Goal::Velocity(velocity) => velocity,
            Goal::Position { to, speed } => {
                let way = to - self.position;
                // No faster than it can brake from.
                let braking = (2.0 * self.acceleration * way.abs()).sqrt();
                way.signum() * speed.min(braking).min(if seconds > 0.0 { way.abs() / seconds } else { speed })
            }
        };
        let change = self.acceleration * seconds;
        self.velocity += (wanted - self.velocity).clamp(-change, change);
        self.position += self.velocity * seconds;
        if let Goal::Position { to, .. } = self.goal {
            let near = (to - self.position).abs();
            if near <= 1e-9 || (near < 1e-3 && self.velocity.abs() <= change.max(1e-3)) {
                (self.position, self.velocity, self.goal) = (to, 0.0, Goal::Velocity(0.0));
            }
        }
    }
}

/// Axes that are commanded together.
#[derive(Clone, Debug, PartialEq)]
pub struct Axes(pub Vec<Axis>);

impl Axes {
    /// Axes at rest at these positions.
    pub fn at(positions: &[f64], acceleration: f64) -> Self {
        Self(positions.iter().map(|p| Axis::new(*p, acceleration)).collect())
    }

    /// Where they are.
    pub fn positions(&self) -> Vec<f64> {
        self.0.iter().map(|axis| axis.position).collect()
    }

    /// Lets them come to rest as fast as they can.
    pub fn halt(&mut self) {
        for axis in &mut self.0 {
            axis.goal = Goal::Velocity(0.0);
            if axis.acceleration.is_infinite() {
                axis.velocity = 0.0;
            }
        }
    }

    /// Sends all of them to positions, so that they arrive together, the one with the longest way at `speed`. What stands in for a missing
    /// position is where the axis is.
    pub fn go_together(&mut self, to: &[f64], speed: f64) {
        let ways = self.0.iter().zip(to).map(|(axis, to)| (to - axis.position).abs());
        let longest = ways.fold(0.0, f64::max);
        if longest <= 0.0 {
            return;
        }
        for (axis, to) in self.0.iter_mut().zip(to) {
            let way = (to - axis.position).abs();
            if way > 0.0 {
                axis.goal = Goal::Position { to: *to, speed: speed * way / longest };
            }
        }
    }
}

impl Body for Axes {
    fn step(&mut self, seconds: f64) {
        self.0.iter_mut().for_each(|axis| axis.step(seconds));
    }

    fn is_moving(&self) -> bool {
        self.0.iter().any(Axis::is_moving)
    }

    fn state(&self) -> Value {
        let velocities: Vec<_> = self.0.iter().map(|axis| axis.velocity).collect();
        json!({ "positions": self.positions(), "velocities": velocities })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(axes: &mut Axes) -> f64 {
        let mut seconds = 0.0;
        while axes.is_moving() {
            axes.step(0.002);
            seconds += 0.002;
            assert!(seconds < 100.0, "it never rests: {axes:?}");
        }
        seconds
    }

    #[test]
    fn an_axis_with_inertia_arrives_and_rests_where_it_was_sent() {
        let mut axes = Axes::at(&[0.0], 10.0);
        axes.0[0].goal = Goal::Position { to: 5.0, speed: 2.0 };
        let seconds = settle(&mut axes);
        assert_eq!(axes.positions(), [5.0]);
        assert!((2.5..3.2).contains(&seconds), "{seconds}");
    }

    #[test]
    fn joints_arrive_together() {
        let mut axes = Axes::at(&[0.0, 0.0, 10.0], f64::INFINITY);
        axes.go_together(&[90.0, -45.0, 10.0], 90.0);
        axes.step(0.5);
        assert_eq!(axes.positions(), [45.0, -22.5, 10.0]);
        let seconds = settle(&mut axes);
        assert!((0.49..0.52).contains(&seconds), "{seconds}");
        assert_eq!(axes.positions(), [90.0, -45.0, 10.0]);
    }

    #[test]
    fn halting_takes_as_long_as_inertia_wants() {
        let mut axes = Axes::at(&[0.0], 4.0);
        axes.0[0].goal = Goal::Velocity(2.0);
        for _ in 0..1000 {
            axes.step(0.002);
        }
        assert!((axes.0[0].velocity - 2.0).abs() < 1e-9);
        axes.halt();
        assert!((0.49..0.52).contains(&settle(&mut axes)));
        let mut free = Axes::at(&[0.0], f64::INFINITY);
        free.0[0].goal = Goal::Velocity(2.0);
        free.step(0.1);
        free.halt();
        assert!(!free.is_moving());
    }
}
