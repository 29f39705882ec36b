//! A machine with one motor: everything a driver of your own has to say. Run it, then
//! `lifeline --insecure call 127.0.0.1:8080 wheel SetPower '{"powerPct": 0.5}'`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use machine_host::component::{Component, Motor, Resource};
use machine_host::{Actuator, DriverError, Machine, MachineOptions, Permit};
use prost_types::Struct;
use tokio_util::sync::CancellationToken;

/// The share of full power that the hardware was told last.
#[derive(Default)]
struct Wheel(AtomicU64);

impl Wheel {
    /// Stands for a write to the hardware.
    fn write(&self, power: f64) {
        self.0.store(power.to_bits(), Ordering::SeqCst);
        println!("wheel: {power:+.2}");
    }
}

impl Actuator for Wheel {
    fn stop(&self, _: Option<&Struct>) -> Result<(), DriverError> {
        self.write(0.0);
        Ok(())
    }
}

impl Resource for Wheel {}

#[tonic::async_trait]
impl Motor for Wheel {
    async fn set_power(&self, permit: &Permit, power: f64, _: Option<&Struct>) -> Result<(), DriverError> {
        // Nothing is written for a client that is gone, or after a Stop: the gate does not open.
        let _inside = permit.enter(None).await?;
        self.write(power.clamp(-1.0, 1.0));
        Ok(())
    }
    async fn is_powered(&self, _: Option<&Struct>) -> Result<(bool, f64), DriverError> {
        let power = f64::from_bits(self.0.load(Ordering::SeqCst));
        Ok((power != 0.0, power))
    }
    async fn is_moving(&self) -> Result<bool, DriverError> {
        Ok(self.is_powered(None).await?.0)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let machine = Machine::new(MachineOptions::new("example-main.loc1.viam.cloud"))?;
    machine.configure("wheel", Component::Motor(Arc::new(Wheel::default())))?;
    let shutdown = CancellationToken::new();
    let ended = shutdown.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        ended.cancel();
    });
    machine.listen().await?.serve(shutdown).await?;
    Ok(())
}
