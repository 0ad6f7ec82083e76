//! The client library over the native API, on registries in memory: numbered writes, and leaders that are lost.

#![expect(clippy::unwrap_used, reason = "a test")]

mod cluster;
mod numbered;
