//! One call on a live link: `SetPower` through `robot.channel()` with a session, and a read, each beside plain tonic over TLS to the same
//! machine, calls interleaved. `cargo bench -p sim-machine --bench unary`.

mod support;

use std::time::{Duration, Instant};

use machine_api::viam::component::motor::v1::motor_service_client::MotorServiceClient;
use machine_api::viam::component::motor::v1::{IsMovingRequest, SetPowerRequest};
use machine_api::viam::robot::v1::StartSessionRequest;
use machine_api::viam::robot::v1::robot_service_client::RobotServiceClient;
use machine_api::{ORDER_HEADER, SESSION_HEADER};
use robot_client::Sessions;
use support::{Samples, Served, authenticate, bar};
use tonic::Request;
use tonic::metadata::AsciiMetadataValue;

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let served = Served::start(Duration::from_secs(2), false);
    runtime.block_on(async {
        let address = format!("localhost:{}", served.address.port());
        let [robot, reader, off] = [Sessions::Auto, Sessions::Auto, Sessions::Off]
            .map(|sessions| served.client(&address).sessions(sessions).connect());
        let [robot, reader, off] = [robot.await, reader.await, off.await].map(|robot| robot.expect("connected"));
        let [mut ours, mut reads, mut without] =
            [&robot, &reader, &off].map(|robot| MotorServiceClient::new(robot.channel()));
        // Every kind of call has a link of its own: none finds its link warmer than another does.
        let mut plain = Vec::new();
        for _ in 0..4 {
            plain.push(served.plain(&served.tls()).await);
        }
        let bearer: AsciiMetadataValue = authenticate(plain[0].clone()).await.parse().expect("a header");
        // What an existing client does in a session, and what numbers add to that at the machine.
        let session = with_token(StartSessionRequest { resume: String::new() }, &bearer);
        let session = RobotServiceClient::new(plain[0].clone()).start_session(session).await.expect("a session");
        let session: AsciiMetadataValue = session.into_inner().id.parse().expect("a header");
        let mut plain: Vec<_> = plain.into_iter().map(MotorServiceClient::new).collect();
        let power = || SetPowerRequest { name: "m1".into(), power_pct: 0.5, extra: None };
        let moving = || IsMovingRequest { name: "m1".into() };
        let mut call = async |which: usize, number: usize| {
            let read = with_token(moving(), &bearer);
            let mut plain_power = with_token(power(), &bearer);
            if which == 1 || which == 2 {
                plain_power.metadata_mut().insert(SESSION_HEADER, session.clone());
            }
            if which == 2 {
                let order = format!("00000000000000ff-{number}; open=");
                plain_power.metadata_mut().insert(ORDER_HEADER, order.parse().expect("a header"));
            }
            let started = Instant::now();
            match which {
                0..=2 => drop(plain[which].set_power(plain_power).await.expect("moved")),
                3 => drop(without.set_power(power()).await.expect("moved")),
                4 => drop(ours.set_power(power()).await.expect("moved")),
                5 => drop(plain[3].is_moving(read).await.expect("read")),
                _ => drop(reads.is_moving(moving()).await.expect("read")),
            }
            started
        };
        let mut number = 0;
        // What a call is made of: every kind in turn, each of which finds the processor's caches full of the others.
        let mut samples: [Samples; 7] = Default::default();
        for round in 0..3_000 {
            // Whoever comes after whom matters on a machine with few cores: each comes after each other as often.
            let stride = 1 + round % 6;
            for place in 0..7 {
                let which = (round + place * stride) % 7;
                number += 1;
                let started = call(which, number).await;
                if round >= 500 {
                    samples[which].add(started);
                }
            }
        }
        let kinds = [
            "SetPower, plain tonic",
            "SetPower, plain tonic, in a session",
            "SetPower, plain tonic, in a session, numbered",
            "SetPower, ours, without a session",
            "SetPower, ours, in a session",
            "IsMoving, plain tonic",
            "IsMoving, ours",
        ];
        println!("every kind in turn:");
        samples.iter().zip(kinds).for_each(|(samples, kind)| samples.print(kind));
        println!("ours and plain tonic in turn:");
        for (what, plain, ours) in [("SetPower in a session", 0, 4), ("IsMoving", 5, 6)] {
            let mut samples: [Samples; 2] = Default::default();
            for round in 0..6_000 {
                // Who comes first goes round too.
                for place in 0..2 {
                    let ours_now = (round + place) % 2;
                    number += 1;
                    let started = call([plain, ours][ours_now], number).await;
                    // The first thousand warm everything up.
                    if round >= 1_000 {
                        samples[ours_now].add(started);
                    }
                }
            }
            samples[0].print(&format!("{what}, plain tonic"));
            samples[1].print(&format!("{what}, ours"));
            let above = samples[1].median().saturating_sub(samples[0].median());
            bar(&format!("{what}, above plain tonic"), above, Duration::from_micros(15));
        }
        for robot in [robot, reader, off] {
            robot.close().await;
        }
    });
}

/// A request of somebody who was let in.
fn with_token<T>(message: T, bearer: &AsciiMetadataValue) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", bearer.clone());
    request
}
