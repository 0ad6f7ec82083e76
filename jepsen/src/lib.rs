//! Real processes under real faults, and checkers of what their clients saw.
//!
//! A run starts a cluster of the real binary ([`db`]), lets clients work on it ([`workload`]) while a seeded schedule
//! ([`schedule`]) of faults ([`nemesis`]) breaks it, and writes down every call and answer ([`history`]) and every fault
//! ([`fault`]). When all is over the checkers ([`checker`]) read what was written and say whether any promise was
//! broken. They see nothing else: no node's memory, no log, no code of the node's. So a history can be checked again at
//! any time, on any machine ([`run::replay`]).
//!
//! A checker that finds nothing proves nothing until it has found something: [`self_test`] plants errors in good
//! histories, and every one must be named.

pub mod checker;
pub mod client;
pub mod clock;
pub mod db;
pub mod doctor;
pub mod endpoint;
pub mod fault;
pub mod history;
pub mod http;
pub mod load;
pub mod matrix;
pub mod nemesis;
pub mod net;
pub mod report;
pub mod run;
pub mod schedule;
pub mod sealed;
pub mod self_test;
pub mod sys;
pub mod workload;
