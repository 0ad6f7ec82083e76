//! The dialects of Spine: each turns what comes over a wire into a command or a query, asks the [`Registry`], and
//! turns the answer back. None of them decides anything; none knows whether the registry behind the door is three
//! nodes or one value in memory ([`local::Local`], which the tests of dialects use).

pub mod consul;
mod draw;
pub mod hub;
pub mod limits;
pub mod local;
pub mod native;
pub mod read;
pub mod registry;
pub mod ui;

pub use self::{
    read::{Blocking, Read},
    registry::{AdminCommand, AdminOutcome, Consistency, Context, Error, NodeStatus, Registry, Role},
};
