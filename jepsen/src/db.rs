//! The cluster under test: processes of the real binary, started, stopped and awaited.
