//! `lifeline stop`: some components, or everything.

use futures_util::future::join_all;
use robot_client::Robot;
use serde_json::json;

use crate::arguments::ConnectionArguments;
use crate::call::find_component;
use crate::connection;
use crate::failure::Failure;
use crate::report;

pub async fn run(
    common: &ConnectionArguments,
    address: &str,
    components: &[String],
    all: bool,
    json: bool,
) -> Result<(), Failure> {
    let robot = connection::connect(common, address).await?;
    let done = if all { robot.stop_all().await.map_err(Failure::from) } else { some(&robot, components).await };
    robot.close().await;
    done?;
    let stopped = if all { vec!["everything".to_owned()] } else { components.to_vec() };
    report::print(json, &json!({ "stopped": stopped }), || println!("stopped {}", stopped.join(", ")));
    Ok(())
}

/// Stops each component, all at the same time; one that cannot be stopped does not keep another from it.
async fn some(robot: &Robot, components: &[String]) -> Result<(), Failure> {
    let results = join_all(components.iter().map(|component| one(robot, component))).await;
    results.into_iter().collect()
}

async fn one(robot: &Robot, component: &str) -> Result<(), Failure> {
    let (subtype, name) = find_component(robot, component).await?;
    match subtype.as_str() {
        "base" => robot.base(&name).stop().await?,
        "motor" => robot.motor(&name).stop().await?,
        "arm" => robot.arm(&name).stop().await?,
        "gripper" => robot.gripper(&name).stop().await?,
        "servo" => robot.servo(&name).stop().await?,
        "gantry" => robot.gantry(&name).stop().await?,
        other => return Err(Failure::usage(format!("{name} is a {other}: there is nothing to stop"))),
    }
    Ok(())
}
