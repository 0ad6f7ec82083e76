//! The seams between the node and the world outside: small traits and their real versions.
//!
//! Nothing else in the node touches the real thing, so a simulator that hands over other implementations runs
//! exactly the node's own code.

pub mod files;
