//! Drives a base: `square NAME [square|away|home]`. Credentials and trust come from VIAM_API_KEY_ID, VIAM_API_KEY and LIFELINE_CA_FILE.

use std::env::{args, var, var_os};
use std::time::Instant;

use robot_client::Robot;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = args().nth(1).ok_or("usage: square NAME [square|away|home]")?;
    let leg = args().nth(2).unwrap_or_else(|| "square".to_owned());
    let mut builder = Robot::builder(&name);
    if let (Ok(id), Ok(key)) = (var("VIAM_API_KEY_ID"), var("VIAM_API_KEY")) {
        builder = builder.api_key(id, key);
    }
    if let Some(file) = var_os("LIFELINE_CA_FILE") {
        builder = builder.trust_ca(file);
    }
    let started = Instant::now();
    let robot = builder.connect().await?;
    println!("connected in {:.1} ms over {}", started.elapsed().as_secs_f64() * 1e3, robot.route().unwrap_or_default());
    let base = robot.base("base");
    match leg.as_str() {
        "square" => {
            for side in 1..=4 {
                base.move_straight(400, 800.0).await?;
                base.spin(90.0, 180.0).await?;
                println!("side {side} driven");
            }
        }
        // Far enough to be still on the way when somebody ends this program.
        "away" => base.move_straight(100_000, 300.0).await?,
        "home" => home(&robot, "odometry").await?,
        other => return Err(format!("no leg is called {other}: square, away or home").into()),
    }
    robot.close().await;
    Ok(())
}

/// Drives back to where the base started, by what a movement sensor says.
async fn home(robot: &Robot, odometry: &str) -> Result<(), Box<dyn std::error::Error>> {
    let readings = robot.movement_sensor(odometry).readings().await?;
    let number = |name: &str| match readings.get(name).and_then(|v| v.kind.clone()) {
        Some(prost_types::value::Kind::NumberValue(value)) => Ok(value),
        _ => Err(format!("{odometry} does not tell {name}")),
    };
    let (x, y, heading) = (number("x_mm")?, number("y_mm")?, number("theta_deg")?);
    // A heading of zero looks along y, and turns to the left.
    let wanted = x.atan2(-y).to_degrees();
    let turn = (wanted - heading + 180.0).rem_euclid(360.0) - 180.0;
    let base = robot.base("base");
    base.spin(turn, 180.0).await?;
    #[allow(clippy::cast_possible_truncation, reason = "millimetres of a room")]
    base.move_straight(x.hypot(y).round() as i64, 800.0).await?;
    println!("drove {:.0} mm home", x.hypot(y));
    Ok(())
}
