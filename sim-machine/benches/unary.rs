//! One call on a live link: `SetPower` through `robot.channel()` with a session, and a read, each beside plain tonic over TLS to the same
//! machine, calls interleaved. `cargo bench -p sim-machine --bench unary`.

mod support;

use std::time::{Duration, Instant};

use machine_api::viam::component::motor::v1::motor_service_client::MotorServiceClient;
use machine_api::viam::component::motor::v1::{IsMovingRequest, SetPowerRequest};
use support::{Samples, Served, authenticate, bar};
use tonic::Request;
use tonic::metadata::AsciiMetadataValue;

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let served = Served::start(Duration::from_secs(2), false);
    runtime.block_on(async {
        let robot = served.client(&format!("localhost:{}", served.address.port())).connect().await.expect("connected");
        let mut ours = MotorServiceClient::new(robot.channel());
        let address = format!("localhost:{}", served.address.port());
        let off = served.client(&address).sessions(robot_client::Sessions::Off).connect().await.expect("connected");
        let mut without = MotorServiceClient::new(off.channel());
        let channel = served.plain(&served.tls()).await;
        let bearer: AsciiMetadataValue = authenticate(channel.clone()).await.parse().expect("a header");
        let mut plain = MotorServiceClient::new(channel);
        let with = |mut request: Request<SetPowerRequest>| {
            request.metadata_mut().insert("authorization", bearer.clone());
            request
        };
        let power = || SetPowerRequest { name: "m1".into(), power_pct: 0.5, extra: None };
        let moving = || IsMovingRequest { name: "m1".into() };
        let mut samples: [Samples; 5] = Default::default();
        for round in 0..6_000 {
            // Whoever comes after whom matters on a machine with few cores: the order goes round.
            for place in 0..5 {
                let which = (round + place) % 5;
                let mut read = Request::new(moving());
                read.metadata_mut().insert("authorization", bearer.clone());
                let plain_power = with(Request::new(power()));
                let started = Instant::now();
                match which {
                    0 => drop(plain.set_power(plain_power).await.expect("moved")),
                    1 => drop(without.set_power(power()).await.expect("moved")),
                    2 => drop(ours.set_power(power()).await.expect("moved")),
                    3 => drop(plain.is_moving(read).await.expect("read")),
                    _ => drop(ours.is_moving(moving()).await.expect("read")),
                }
                // The first thousand warm everything up.
                if round >= 1_000 {
                    samples[which].add(started);
                }
            }
        }
        let [plain_power, bare_power, our_power, plain_read, our_read] = samples;
        plain_power.print("SetPower, plain tonic");
        bare_power.print("SetPower, ours, without a session");
        our_power.print("SetPower, ours, in a session");
        plain_read.print("IsMoving, plain tonic");
        our_read.print("IsMoving, ours");
        let above = |ours: &Samples, plain: &Samples| ours.median().saturating_sub(plain.median());
        bar("SetPower in a session, above plain tonic", above(&our_power, &plain_power), Duration::from_micros(15));
        bar("IsMoving, above plain tonic", above(&our_read, &plain_read), Duration::from_micros(15));
        robot.close().await;
        off.close().await;
    });
}
