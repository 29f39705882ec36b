//! What becomes of a base's move when something else comes.

mod rig;

use std::io::Write;
use std::sync::{Arc, Mutex};

use machine_api::viam::common::v1::Vector3;
use machine_api::viam::component::base::v1::base_service_client::BaseServiceClient;
use machine_api::viam::component::base::v1::{
    MoveStraightRequest, SetPowerRequest, SetVelocityRequest, SpinRequest, StopRequest,
};
use machine_host::component::Component;
use rig::Served;
use serde_json::Value;
use sim_machine::drivers::SimBase;
use sim_machine::observer::Observer;
use sim_machine::world::{Body, Ground, Part, World};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// What the observer saw.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u8>>>);

impl Write for Seen {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Seen {
    /// The causes of what the driver was told since it was told to move, oldest first.
    fn writes(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let writes = lines.filter(|seen| seen["event"] == "write");
        let causes = writes.filter_map(|seen| seen["cause"].as_str().map(str::to_owned));
        // Whatever is there when the machine begins to serve is stopped first.
        causes.skip_while(|cause| cause == "stop").collect()
    }
}

/// A machine with a base, and a client of no session for it.
struct Drive {
    served: Served,
    seen: Seen,
    ground: Part<Ground>,
}

impl Drive {
    async fn start() -> Self {
        let served = Served::start().await;
        let seen = Seen::default();
        let world = World::new(Observer::start(seen.clone()).expect("a thread")).expect("a thread");
        let ground = world.part("base/b", Ground::default());
        let base = SimBase::new(ground.clone(), 300.0, 1000.0, 180.0);
        served.machine.configure("b", Component::Base(Arc::new(base))).expect("a stop thread");
        Self { served, seen, ground }
    }

    fn base(&self) -> BaseServiceClient<Channel> {
        let address = format!("http://{}", self.served.address);
        BaseServiceClient::new(Endpoint::from_shared(address).expect("an address").connect_lazy())
    }
}

#[tokio::test]
async fn s44_whatever_comes_next_ends_a_move_which_writes_nothing_more() {
    let far = || MoveStraightRequest { name: "b".into(), distance_mm: 100_000, mm_per_sec: 100.0, extra: None };
    let (forward, still) = (Vector3 { x: 0.0, y: 50.0, z: 0.0 }, Vector3::default());
    for next in ["Spin", "SetPower", "SetVelocity", "stop"] {
        let drive = Drive::start().await;
        let (mut first, mut second) = (drive.base(), drive.base());
        let moving = tokio::spawn(async move { first.move_straight(far()).await });
        drive.served.until("it moves", |_| drive.ground.read(Body::is_moving)).await;
        let name = || "b".to_owned();
        let answered = match next {
            "Spin" => {
                let short = SpinRequest { name: name(), angle_deg: 9.0, degs_per_sec: 180.0, extra: None };
                second.spin(short).await.map(drop)
            }
            "SetPower" => {
                let half = Vector3 { x: 0.0, y: 0.5, z: 0.0 };
                let power = SetPowerRequest { name: name(), linear: Some(half), angular: Some(still), extra: None };
                second.set_power(power).await.map(drop)
            }
            "SetVelocity" => {
                let velocity =
                    SetVelocityRequest { name: name(), linear: Some(forward), angular: Some(still), extra: None };
                second.set_velocity(velocity).await.map(drop)
            }
            _ => second.stop(StopRequest { name: name(), extra: None }).await.map(drop),
        };
        answered.unwrap_or_else(|status| panic!("{next}: {status}"));
        let ended = moving.await.expect("no panic").expect_err("pre-empted");
        assert_eq!(ended.code(), Code::Cancelled, "{next}: {ended}");
        drive.served.until("the observer writes", |_| drive.seen.writes().len() >= 2).await;
        assert_eq!(drive.seen.writes(), ["MoveStraight", next], "and no Stop between them");
        assert_eq!(drive.ground.read(Body::is_moving), ["SetPower", "SetVelocity"].contains(&next), "{next}");
    }
}
