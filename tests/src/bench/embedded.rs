//! What a program pays for carrying its own registry: the example in `examples/embedded`, optimized and stripped.

use spine_tests::embedded;

use crate::Done;

pub(crate) fn measure() -> Done {
    let crates = embedded::crates()?;
    let program = embedded::build_optimized()?;
    #[expect(clippy::cast_precision_loss, reason = "the size of a program")]
    let mib = std::fs::metadata(&program)?.len() as f64 / 1_048_576.0;
    println!("{} crates, {mib:.1} MiB optimized and stripped", crates.len());
    Ok(())
}
