//! The scripts in `tests/bounds`, with bounds that they can reach: see [`crate::limits`].

#[path = "../tests/script/mod.rs"]
mod script;

#[test]
fn bounds_hold() {
    script::run_all(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bounds"));
}
