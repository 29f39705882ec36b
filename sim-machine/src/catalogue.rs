//! Which models there are, and how they are made from a configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use machine_host::component::Component;
use machine_host::config::{ComponentConfig, ConfigError};
use serde_json::{Map, Value};

use crate::drivers::*;
use crate::world::{Axes, Ground, Part, World};

/// What a motor's shaft gains in a second, in revolutions/s.
const MOTOR_ACCELERATION: f64 = 20.0;

/// The longest time that reading a sensor takes, in milliseconds.
const MOST_MS: f64 = 60_000.0;

/// Makes components, and remembers the ground of each base: sensors and cameras ride on it.
pub struct Catalogue {
    world: World,
    grounds: BTreeMap<String, Part<Ground>>,
}

impl Catalogue {
    /// One for a world.
    pub fn new(world: World) -> Self {
        Self { world, grounds: BTreeMap::new() }
    }

    /// Makes the component of a configuration's row `at`.
    pub fn make(&mut self, at: usize, config: &ComponentConfig) -> Result<Component, ConfigError> {
        let field = |name: &str| format!("components[{at}].{name}");
        let model = config.model.rsplit(':').next().unwrap_or_default();
        if !["fake", "sim", "simulated"].contains(&model) {
            let problem = format!("unknown model {:?}; this machine has \"fake\" for every type", config.model);
            return Err(ConfigError::Field { field: field("model"), problem });
        }
        let attributes = Attributes { fields: &config.attributes, path: field("attributes") };
        let (subtype, name) = (&*config.name.subtype, &*config.name.name);
        let axes = |positions: &[f64], acceleration: f64| {
            self.world.part(format!("{subtype}/{name}"), Axes::at(positions, acceleration))
        };
        let still = f64::INFINITY;
        Ok(match subtype {
            "base" => {
                let ground = self.world.part(format!("base/{name}"), Ground::default());
                self.grounds.insert(name.to_owned(), ground.clone());
                Component::Base(Arc::new(SimBase::new(
                    ground,
                    attributes.positive("width_mm", 300.0)?,
                    attributes.positive("max_mm_per_sec", 1000.0)?,
                    attributes.positive("max_degs_per_sec", 180.0)?,
                )))
            }
            "motor" => {
                let max_rpm = attributes.positive("max_rpm", 200.0)?;
                Component::Motor(Arc::new(SimMotor { shaft: axes(&[0.0], MOTOR_ACCELERATION), max_rpm }))
            }
            "arm" => Component::Arm(Arc::new(SimArm::new(axes(&[0.0, 45.0, -60.0, 0.0, 0.0, 0.0], still)))),
            "gripper" => Component::Gripper(Arc::new(SimGripper { jaws: axes(&[1.0], still) })),
            "servo" => Component::Servo(Arc::new(SimServo { horn: axes(&[90.0], still) })),
            "gantry" => {
                let lengths_mm = attributes.numbers("lengths_mm", &[1000.0])?;
                let carriages = axes(&vec![0.0; lengths_mm.len()], still);
                Component::Gantry(Arc::new(SimGantry { carriages, lengths_mm }))
            }
            "sensor" => {
                let takes = Duration::from_secs_f64(attributes.number("takes_ms", 0.0, MOST_MS)? / 1e3);
                Component::Sensor(Arc::new(SimSensor { started: Instant::now(), takes }))
            }
            "movement_sensor" => Component::MovementSensor(Arc::new(SimMovementSensor { ground: self.ground(config) })),
            "camera" => Component::Camera(Arc::new(SimCamera { ground: self.ground(config) })),
            "switch" => {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and few")]
                let positions = attributes.positive("positions", 2.0)?.min(1000.0) as u32;
                Component::Switch(Arc::new(SimSwitch::new(positions)))
            }
            "button" => Component::Button(Arc::new(SimButton::default())),
            "generic" => Component::Generic(Arc::new(SimGeneric)),
            other => {
                let problem = format!("unknown component type {other:?}");
                return Err(ConfigError::Field { field: field("api"), problem });
            }
        })
    }

    /// Forgets a component that was removed.
    pub fn forget(&mut self, config: &ComponentConfig) {
        if &*config.name.subtype == "base" {
            self.grounds.remove(&*config.name.name);
        }
    }

    /// The ground that a component rides on: of the base that it depends on, else of the first.
    fn ground(&self, config: &ComponentConfig) -> Part<Ground> {
        let named = config.depends_on.iter().find_map(|name| self.grounds.get(name));
        let ground = named.or_else(|| self.grounds.values().next()).cloned();
        ground.unwrap_or_else(|| self.world.part(config.name.to_string(), Ground::default()))
    }
}

struct Attributes<'a> {
    fields: &'a Map<String, Value>,
    path: String,
}

impl Attributes<'_> {
    fn positive(&self, name: &str, default: f64) -> Result<f64, ConfigError> {
        let Some(value) = self.fields.get(name) else { return Ok(default) };
        value.as_f64().filter(|v| v.is_finite() && *v > 0.0).ok_or_else(|| self.wrong(name, "a number above zero"))
    }

    /// From zero to `most`.
    fn number(&self, name: &str, default: f64, most: f64) -> Result<f64, ConfigError> {
        let Some(value) = self.fields.get(name) else { return Ok(default) };
        let number = value.as_f64().filter(|v| (0.0..=most).contains(v));
        number.ok_or_else(|| self.wrong(name, &format!("a number from 0 to {most}")))
    }

    fn numbers(&self, name: &str, default: &[f64]) -> Result<Vec<f64>, ConfigError> {
        let Some(value) = self.fields.get(name) else { return Ok(default.to_vec()) };
        let wrong = || self.wrong(name, "a list of 1 to 12 numbers above zero");
        let list = value.as_array().filter(|l| (1..=12).contains(&l.len())).ok_or_else(wrong)?;
        list.iter().map(|v| v.as_f64().filter(|v| v.is_finite() && *v > 0.0).ok_or_else(wrong)).collect()
    }

    fn wrong(&self, name: &str, expected: &str) -> ConfigError {
        ConfigError::Field { field: format!("{}.{name}", self.path), problem: format!("expected {expected}") }
    }
}

#[cfg(test)]
mod tests {
    use machine_host::config::Config;

    use super::*;
    use crate::observer::Observer;

    fn make(row: &str) -> Result<Component, String> {
        let config = Config::parse(&format!(r#"{{"components": [{row}]}}"#)).expect("a file");
        let world = World::new(Observer::none()).expect("a thread");
        Catalogue::new(world).make(0, &config.components[0]).map_err(|e| e.to_string())
    }

    #[test]
    fn every_type_has_a_model() {
        for subtype in [
            "base",
            "motor",
            "arm",
            "gripper",
            "servo",
            "gantry",
            "sensor",
            "movement_sensor",
            "camera",
            "switch",
            "button",
            "generic",
        ] {
            let made =
                make(&format!(r#"{{"name": "x", "api": "rdk:component:{subtype}", "model": "rdk:builtin:fake"}}"#));
            assert_eq!(made.expect(subtype).subtype(), subtype);
        }
    }

    #[test]
    fn what_there_is_not_is_named_by_its_field() {
        for (row, field) in [
            (r#"{"name": "x", "type": "base", "model": "agilex"}"#, "components[0].model"),
            (r#"{"name": "x", "type": "kettle", "model": "fake"}"#, "components[0].api"),
            (
                r#"{"name": "x", "type": "sensor", "model": "fake", "attributes": {"takes_ms": 1e9}}"#,
                "components[0].attributes.takes_ms",
            ),
            (
                r#"{"name": "x", "type": "base", "model": "fake", "attributes": {"width_mm": "wide"}}"#,
                "components[0].attributes.width_mm",
            ),
        ] {
            let error = make(row).err().expect(row);
            assert!(error.starts_with(field), "{error}");
        }
    }
}
