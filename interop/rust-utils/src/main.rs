//! The published `viam-rust-utils`, unmodified, drives our machine.
//!
//! Usage: rust-utils-client ADDRESS KEY_ID KEY LEG [direct|named]
//!
//! Legs: `drive` lists the resources, moves the base for a second and stops it, and then calls a thousand times; `dials` connects
//! twenty times, one after another, until a call is answered; `told` does so for each address that is a line of standard input; `hold`
//! sets the base in motion and then waits until it is killed. With `direct` it uses no WebRTC; with `named` it looks for the
//! address by mDNS. Every step is a JSON line on standard output.

use std::future::Future;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use http::uri::PathAndQuery;
use serde_json::{Value, json};
use tonic::client::Grpc;
use tonic::codec::ProstCodec;
use viam_rust_utils::rpc::dial::{DialOptions, RPCCredentials, ViamChannel};

/// The few messages that the calls need.
mod messages {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Empty {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ResourceNames {
        #[prost(message, repeated, tag = "1")]
        pub resources: Vec<ResourceName>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ResourceName {
        #[prost(string, tag = "3")]
        pub subtype: String,
        #[prost(string, tag = "4")]
        pub name: String,
    }

    /// Asks something of a named component.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Named {
        #[prost(string, tag = "1")]
        pub name: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct SetVelocity {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(message, optional, tag = "2")]
        pub linear: Option<Vector3>,
        #[prost(message, optional, tag = "3")]
        pub angular: Option<Vector3>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Vector3 {
        #[prost(double, tag = "2")]
        pub y: f64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct IsMoving {
        #[prost(bool, tag = "1")]
        pub is_moving: bool,
    }
}

use messages::{Empty, IsMoving, Named, ResourceNames, SetVelocity, Vector3};

fn say(step: &str, mut facts: Value) {
    let t = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64();
    (facts["step"], facts["t"]) = (step.into(), t.into());
    println!("{facts}");
}

/// One unary call.
async fn call<Q, A>(channel: &ViamChannel, path: &'static str, request: Q) -> Result<A>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    Ok(grpc.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec).await?.into_inner())
}

async fn names(channel: &ViamChannel) -> Result<Vec<String>> {
    let found: ResourceNames = call(channel, "/viam.robot.v1.RobotService/ResourceNames", Empty {}).await?;
    Ok(found.resources.into_iter().map(|r| format!("{}/{}", r.subtype, r.name)).collect())
}

fn base() -> Named {
    Named { name: "base".into() }
}

async fn forward(channel: &ViamChannel) -> Result<()> {
    let (linear, angular) = (Some(Vector3 { y: 150.0 }), Some(Vector3::default()));
    let request = SetVelocity { name: "base".into(), linear, angular };
    let Empty {} = call(channel, "/viam.component.base.v1.BaseService/SetVelocity", request).await?;
    Ok(())
}

async fn moving(channel: &ViamChannel) -> Result<bool> {
    let answer: IsMoving = call(channel, "/viam.component.base.v1.BaseService/IsMoving", base()).await?;
    Ok(answer.is_moving)
}

async fn drive(channel: &ViamChannel) -> Result<()> {
    say("resources", json!({ "names": names(channel).await? }));
    forward(channel).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let during = moving(channel).await?;
    let Empty {} = call(channel, "/viam.component.base.v1.BaseService/Stop", base()).await?;
    say("driven", json!({ "moving": during, "after": moving(channel).await? }));
    let mut took = Vec::new();
    for _ in 0..1000 {
        let started = Instant::now();
        moving(channel).await?;
        took.push(started.elapsed().as_secs_f64());
    }
    say("called", json!({ "seconds": took }));
    Ok(())
}

/// Twenty of them, each with a call.
async fn dials<F: Future<Output = Result<ViamChannel>>>(dial: impl Fn() -> F) -> Result<()> {
    let mut seconds = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        let channel = dial().await?;
        names(&channel).await?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    say("dials", json!({ "seconds": seconds }));
    Ok(())
}

/// How long a dial may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(25);

/// One with a call for each address that it is told of. One that fails is told, and does not end the others.
async fn told<F: Future<Output = Result<ViamChannel>>>(dial: impl Fn(String) -> F) -> Result<()> {
    for address in std::io::stdin().lines() {
        let started = Instant::now();
        let dialed = async {
            let channel = dial(address?).await?;
            ensure!(!names(&channel).await?.is_empty(), "it lists nothing");
            anyhow::Ok((started.elapsed().as_secs_f64(), channel))
        };
        match tokio::time::timeout(PATIENCE, dialed).await.unwrap_or_else(|late| Err(late.into())) {
            Ok((seconds, channel)) => {
                if let ViamChannel::WebRTC(channel) = channel {
                    channel.close().await;
                }
                say("dialed", json!({ "seconds": seconds }));
            }
            Err(error) => say("dialed", json!({ "error": format!("{error:#}") })),
        }
    }
    Ok(())
}

async fn run(arguments: &[String]) -> Result<()> {
    let [address, id, key, leg, how @ ..] = arguments else { anyhow::bail!("see the top of main.rs") };
    let (direct, named) = (how == ["direct"], how == ["named"]);
    let dial_to = |address: String| async move {
        let credentials = RPCCredentials::new(Some(id.clone()), "api-key".into(), key.clone());
        let options = DialOptions::builder().uri(&address).with_credentials(credentials);
        let options = if named { options } else { options.disable_mdns() };
        let options = if direct { options.disable_webrtc() } else { options };
        let channel = options.connect().await?;
        // Where WebRTC fails it goes on without. Where mDNS found the address it uses none.
        ensure!(named || direct != matches!(channel, ViamChannel::WebRTC(_)), "it did not connect as it was told to");
        Ok(channel)
    };
    let dial = || dial_to(address.clone());
    if leg == "dials" {
        return dials(dial).await;
    }
    if leg == "told" {
        return told(dial_to).await;
    }
    let started = Instant::now();
    let channel = dial().await?;
    say("connected", json!({ "seconds": started.elapsed().as_secs_f64() }));
    if leg == "hold" {
        forward(&channel).await?;
        say("moving", json!({}));
        std::future::pending::<()>().await;
    }
    drive(&channel).await?;
    say("closed", json!({}));
    Ok(())
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Err(error) = run(&arguments).await {
        say("failed", json!({ "error": format!("{error:#}") }));
        std::process::exit(1);
    }
}
