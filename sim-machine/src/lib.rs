//! A simulated machine: the drivers of `machine-host`'s components over a small world of physics.
//!
//! [`world`] moves bodies in real time and tells the [`observer`] what really moved: not what was asked for, but what was written to a
//! driver and what came of it. [`drivers`] are what a real machine's drivers are: gates entered, writes made. [`catalogue`] makes them from
//! a configuration.

pub mod catalogue;
pub mod cloud;
pub mod drivers;
pub mod observer;
pub mod world;
