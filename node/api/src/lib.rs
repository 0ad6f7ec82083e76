//! The dialects of Spine: each turns what comes over a wire into a command or a query, asks the [`Registry`], and
//! turns the answer back. None of them decides anything; none knows whether the registry behind the door is three
//! nodes or one value in memory ([`local::Local`], which the tests of dialects use).
//!
//! Without the feature `dialects` there is the door alone: a program that carries its own registry knocks there itself.

#[cfg(feature = "dialects")]
pub mod consul;
#[cfg(feature = "dialects")]
mod draw;
pub mod hub;
pub mod limits;
pub mod local;
#[cfg(feature = "dialects")]
pub mod native;
pub mod read;
pub mod registry;
#[cfg(feature = "dialects")]
pub mod ui;

pub use self::{
    read::{Blocking, Read},
    registry::{AdminCommand, AdminOutcome, Consistency, Context, Error, NodeStatus, Registry, Role},
};
