//! Buttons, switches and what fits nowhere else.

use std::sync::atomic::{AtomicU32, Ordering};

use machine_host::component::{Button, Generic, Resource, Switch};
use machine_host::{DriverError, Permit};
use prost_types::Struct;

/// A button that counts.
#[derive(Default)]
pub struct SimButton {
    pushed: AtomicU32,
}

/// A switch of several positions.
pub struct SimSwitch {
    at: AtomicU32,
    positions: u32,
}

/// Answers every command with the command.
#[derive(Default)]
pub struct SimGeneric;

impl SimSwitch {
    /// A switch of so many positions, at the first.
    pub fn new(positions: u32) -> Self {
        Self { at: AtomicU32::new(0), positions }
    }
}

impl Resource for SimButton {}
impl Resource for SimSwitch {}

#[tonic::async_trait]
impl Resource for SimGeneric {
    async fn do_command(&self, _: &Permit, command: Struct) -> Result<Struct, DriverError> {
        Ok(command)
    }
}

impl Generic for SimGeneric {}

#[tonic::async_trait]
impl Button for SimButton {
    async fn push(&self, permit: &Permit, _: Option<&Struct>) -> Result<(), DriverError> {
        let _inside = permit.enter(None).await?;
        self.pushed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[tonic::async_trait]
impl Switch for SimSwitch {
    async fn set_position(&self, permit: &Permit, position: u32, _: Option<&Struct>) -> Result<(), DriverError> {
        if position >= self.positions {
            let last = self.positions.saturating_sub(1);
            return Err(DriverError::invalid(format!("position {position}: this switch has 0 to {last}")));
        }
        let _inside = permit.enter(None).await?;
        self.at.store(position, Ordering::Relaxed);
        Ok(())
    }

    async fn position(&self, _: Option<&Struct>) -> Result<u32, DriverError> {
        Ok(self.at.load(Ordering::Relaxed))
    }

    async fn positions(&self, _: Option<&Struct>) -> Result<(u32, Vec<String>), DriverError> {
        Ok((self.positions, Vec::new()))
    }
}
