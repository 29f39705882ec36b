//! `lifeline status`, `sessions`, `ops` and `cancel`: what a machine is, and who and what runs on it.

use machine_api::viam::robot::v1::robot_service_client::RobotServiceClient;
use machine_api::viam::robot::v1::{
    CancelOperationRequest, GetOperationsRequest, GetSessionsRequest, GetVersionRequest, PeerConnectionType,
};
use robot_client::{Robot, RobotChannel};
use serde_json::json;

use crate::arguments::ConnectionArguments;
use crate::connection;
use crate::failure::Failure;
use crate::report;

fn client(robot: &Robot) -> RobotServiceClient<RobotChannel> {
    RobotServiceClient::new(robot.channel())
}

pub async fn status(common: &ConnectionArguments, address: &str, json: bool) -> Result<(), Failure> {
    let robot = connection::connect(common, address).await?;
    let resources = robot.resource_names().await?;
    // Machines without GetVersion are machines all the same.
    let version = client(&robot).get_version(GetVersionRequest {}).await.map(|v| v.into_inner()).unwrap_or_default();
    let route = robot.watch_route().borrow().clone();
    robot.close().await;
    let standby = route.standby.map(|link| link.route);
    let rtt = route.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0);
    let route = route.link.map(|link| link.route);
    let names: Vec<_> = resources.iter().map(|r| json!({ "type": r.subtype, "name": r.name })).collect();
    let value = json!({
        "address": address,
        "route": route,
        "rtt_ms": rtt,
        "standby": standby,
        "platform": version.platform,
        "version": version.version,
        "resources": names,
    });
    report::print(json, &value, || {
        println!("machine   {address}");
        if let Some(route) = &route {
            println!("route     {route}, {:.1} ms", rtt.unwrap_or_default());
        }
        if let Some(standby) = &standby {
            println!("standby   ready over {standby}");
        }
        if !version.version.is_empty() {
            println!("version   {} {}", version.platform, version.version);
        }
        let rows: Vec<_> = resources.iter().map(|r| vec![r.subtype.clone(), r.name.clone()]).collect();
        println!();
        report::table(&["TYPE", "NAME"], &rows);
    });
    Ok(())
}

pub async fn sessions(common: &ConnectionArguments, address: &str, json: bool) -> Result<(), Failure> {
    let robot = connection::connect(common, address).await?;
    let answer = client(&robot).get_sessions(GetSessionsRequest {}).await;
    robot.close().await;
    let rows: Vec<_> = answer?
        .into_inner()
        .sessions
        .into_iter()
        .map(|session| {
            let peer = session.peer_connection_info.unwrap_or_default();
            let kind = match peer.r#type() {
                PeerConnectionType::Grpc => "grpc",
                PeerConnectionType::Webrtc => "webrtc",
                PeerConnectionType::Unspecified => "unknown",
            };
            vec![session.id, kind.to_owned(), peer.remote_address.unwrap_or_default()]
        })
        .collect();
    let list: Vec<_> = rows.iter().map(|r| json!({ "id": r[0], "type": r[1], "remote": r[2] })).collect();
    report::print(json, &json!({ "sessions": list }), || report::table(&["SESSION", "TYPE", "REMOTE"], &rows));
    Ok(())
}

pub async fn operations(common: &ConnectionArguments, address: &str, json: bool) -> Result<(), Failure> {
    let robot = connection::connect(common, address).await?;
    let answer = client(&robot).get_operations(GetOperationsRequest {}).await;
    robot.close().await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    let rows: Vec<_> = answer?
        .into_inner()
        .operations
        .into_iter()
        .map(|op| {
            let started = op.started.unwrap_or_default();
            let age = now - started.seconds as f64 - f64::from(started.nanos) * 1e-9;
            (op.id, op.method, age.max(0.0), op.session_id)
        })
        .collect();
    let list: Vec<_> = rows
        .iter()
        .map(|(id, method, age, session)| json!({ "id": id, "method": method, "seconds": age, "session": session }))
        .collect();
    report::print(json, &json!({ "operations": list }), || {
        let rows: Vec<_> =
            rows.iter().map(|(id, method, age, _)| vec![id.clone(), format!("{age:.1} s"), method.clone()]).collect();
        report::table(&["OPERATION", "RUNS FOR", "METHOD"], &rows);
    });
    Ok(())
}

pub async fn cancel(common: &ConnectionArguments, address: &str, operation: &str, json: bool) -> Result<(), Failure> {
    let robot = connection::connect(common, address).await?;
    let answer = client(&robot).cancel_operation(CancelOperationRequest { id: operation.to_owned() }).await;
    robot.close().await;
    answer?;
    report::print(json, &json!({ "cancelled": operation }), || println!("cancelled {operation}"));
    Ok(())
}
