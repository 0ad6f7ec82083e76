//! The client library over the native API, on registries in memory: numbered writes, resolvers, balanced channels.

#![expect(clippy::unwrap_used, reason = "a test")]

mod balanced;
mod cluster;
mod examples;
mod numbered;
mod resolver;
