//! Chance: where ids and election timeouts come from.

use std::fmt::Debug;

/// A source of random numbers.
pub trait Rng: Send + Sync + Debug {
    /// 64 random bits.
    fn bits(&self) -> u64;

    /// 128 random bits.
    fn wide_bits(&self) -> u128 {
        u128::from(self.bits()) << 64 | u128::from(self.bits())
    }
}

/// The randomness of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRng;

impl Rng for OsRng {
    #[expect(clippy::disallowed_methods, reason = "this is World's randomness")]
    fn bits(&self) -> u64 {
        rand::random()
    }
}
