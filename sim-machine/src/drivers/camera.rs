//! A camera on a base, in a room.

use std::time::SystemTime;

use machine_api::viam::component::camera::v1::IntrinsicParameters;
use machine_host::DriverError;
use machine_host::component::{Camera, CameraProperties, Image, Resource};
use prost_types::Struct;

use crate::world::{Ground, Part};

/// The picture's size, in pixels.
const SIZE: (u16, u16) = (160, 120);
/// The focal length, in pixels: 60 degrees from left to right.
const FOCAL: f64 = 138.56;
/// The room's walls are this far from the origin; its ceiling is 2.4 m above the floor, the camera half of that.
const WALL_MM: f64 = 5000.0;
const EYE_MM: f64 = 1200.0;

/// A camera that looks ahead of a base.
pub struct SimCamera {
    /// What it rides on.
    pub ground: Part<Ground>,
}

impl Resource for SimCamera {}

/// Where a ray from `(x, y)` in direction `(dx, dy)` meets the room's walls: how far away, and which wall it is.
fn wall(x: f64, y: f64, dx: f64, dy: f64) -> (f64, usize) {
    let meets = |at: f64, along: f64, wall: f64| if along * wall > 0.0 { (wall - at) / along } else { f64::INFINITY };
    let walls = [meets(x, dx, WALL_MM), meets(x, dx, -WALL_MM), meets(y, dy, WALL_MM), meets(y, dy, -WALL_MM)];
    let mut nearest = (f64::INFINITY, 0);
    for (which, distance) in walls.into_iter().enumerate() {
        if distance < nearest.0 {
            nearest = (distance.max(1.0), which);
        }
    }
    nearest
}

/// The room from a pose: coloured walls, a floor of tiles, a ceiling.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "colours are clamped")]
fn render(ground: &Ground) -> Vec<u8> {
    const COLOURS: [[f64; 3]; 4] =
        [[200.0, 80.0, 70.0], [80.0, 160.0, 90.0], [80.0, 110.0, 200.0], [210.0, 180.0, 80.0]];
    let (width, height) = (f64::from(SIZE.0), f64::from(SIZE.1));
    // Outside the room there is nothing to see but its nearest wall.
    let (x, y) = (ground.x_mm.clamp(1.0 - WALL_MM, WALL_MM - 1.0), ground.y_mm.clamp(1.0 - WALL_MM, WALL_MM - 1.0));
    let heading = ground.theta_deg.to_radians();
    let mut pixels = Vec::with_capacity(usize::from(SIZE.0) * usize::from(SIZE.1) * 3);
    for row in 0..SIZE.1 {
        for column in 0..SIZE.0 {
            let right = (f64::from(column) - width / 2.0) / FOCAL;
            let down = (f64::from(row) - height / 2.0) / FOCAL;
            let (dx, dy) = (-heading.sin() + right * heading.cos(), heading.cos() + right * heading.sin());
            let (far, which) = wall(x, y, dx, dy);
            let floor = if down.abs() < 1e-9 { f64::INFINITY } else { EYE_MM / down.abs() };
            let colour = if floor >= far {
                let shade = (1.0 - far / 20_000.0).clamp(0.2, 1.0);
                COLOURS[which].map(|c| c * shade)
            } else if down < 0.0 {
                [225.0; 3]
            } else {
                let (tx, ty) = ((x + dx * floor) / 500.0, (y + dy * floor) / 500.0);
                let light = (tx.floor() + ty.floor()).rem_euclid(2.0) < 1.0;
                [if light { 150.0 } else { 100.0 }; 3]
            };
            pixels.extend(colour.map(|c| c.clamp(0.0, 255.0) as u8));
        }
    }
    pixels
}

fn png(pixels: &[u8]) -> Result<Vec<u8>, png::EncodingError> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, SIZE.0.into(), SIZE.1.into());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fast);
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(file)
}

#[tonic::async_trait]
impl Camera for SimCamera {
    async fn images(&self, sources: Vec<String>, _: Option<&Struct>) -> Result<(Vec<Image>, SystemTime), DriverError> {
        if sources.iter().any(|s| s != "color") {
            return Err(DriverError::invalid(format!("sources {sources:?}: this camera has \"color\" only")));
        }
        let (taken, ground) = (SystemTime::now(), self.ground.read(|g| *g));
        let data = tokio::task::spawn_blocking(move || png(&render(&ground))).await;
        let data =
            data.map_err(|e| DriverError::failed(e.to_string()))?.map_err(|e| DriverError::failed(e.to_string()))?;
        Ok((vec![Image { source: "color".into(), mime_type: "image/png".into(), data }], taken))
    }

    async fn properties(&self) -> Result<CameraProperties, DriverError> {
        let intrinsics = IntrinsicParameters {
            width_px: SIZE.0.into(),
            height_px: SIZE.1.into(),
            focal_x_px: FOCAL,
            focal_y_px: FOCAL,
            center_x_px: f64::from(SIZE.0) / 2.0,
            center_y_px: f64::from(SIZE.1) / 2.0,
        };
        Ok(CameraProperties { point_clouds: false, mime_types: vec!["image/png".into()], intrinsics: Some(intrinsics) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_sees_changes_as_the_base_turns() {
        let middle = |ground: &Ground| {
            let pixels = render(ground);
            let at = (usize::from(SIZE.1) / 2 * usize::from(SIZE.0) + usize::from(SIZE.0) / 2) * 3;
            (pixels[at], pixels[at + 1], pixels[at + 2])
        };
        let ahead = middle(&Ground::default());
        let left = middle(&Ground { theta_deg: 90.0, ..Ground::default() });
        assert_ne!(ahead, left);
        let near = middle(&Ground { y_mm: 4500.0, ..Ground::default() });
        assert!(near > ahead, "nearer walls are brighter: {near:?} {ahead:?}");
        assert_eq!(&png(&render(&Ground::default())).expect("a picture")[1..4], b"PNG");
    }
}
