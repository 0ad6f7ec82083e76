//! What the tests of more than one crate share.
//!
//! [`spine_process`] runs the binary, [`server`] as often as a test wants, [`cluster`] several that serve together; [`writers`] write to those,
//! [`namespace`] seals a test off, [`compat`] installs programs of others,
//! [`tutorial`] reads the two texts that must run as they are printed; [`wait`] and [`http`] are their tools.
//! [`disk`] is a disk in memory whose power fails, [`ext4`] a real one; [`crash`] knows what must be there afterwards.
//! [`cargo`] builds what a test needs, [`embedded`] the example of a program with its own registry.
//! [`local_api`] is the native API on a registry in memory, in this process.
//! [`trace`] is the ordered history of a simulation, by which two runs are compared.

pub mod cargo;
pub mod cluster;
pub mod compat;
pub mod crash;
pub mod disk;
pub mod embedded;
pub mod ext4;
pub mod http;
pub mod local_api;
pub mod namespace;
pub mod release;
pub mod server;
pub mod spine_process;
pub mod sys;
pub mod trace;
pub mod tutorial;
pub mod wait;
pub mod writers;
