//! The release that a server runs, as far as the others must know it.

use spine_core::RULES_KNOWN;

/// The release of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Its number; empty where it didn't say.
    pub version: String,
    /// The newest rules that it knows.
    pub rules: u32,
}

impl Release {
    /// The one that runs here.
    pub fn own() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            rules: RULES_KNOWN,
        }
    }

    /// The one that a server spoke of. Releases before 0.3.0 didn't, and know rules 1.
    pub fn said(version: String, rules: u32) -> Self {
        Self {
            version,
            rules: rules.max(1),
        }
    }

    /// Whether the server `name` can take part where the rules `in_force` hold.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn fits(&self, name: &str, in_force: u32) -> Result<(), String> {
        let Self { version, rules } = self;
        if *rules >= in_force {
            return Ok(());
        }
        let version = if version.is_empty() {
            "an older release"
        } else {
            version
        };
        Err(format!(
            "the cluster is at rules {in_force}, and {name} runs {version}, which knows up to {rules}: start it with a newer \
             release (`spine members` shows what the others run)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_fits_as_long_as_it_knows_the_rules_in_force() {
        let old = Release::said(String::new(), 0);
        assert_eq!(old.fits("n3", 1), Ok(()));
        let refused = old.fits("n3", 2).unwrap_err();
        assert!(
            refused.contains("n3 runs an older release") && refused.contains("newer release"),
            "{refused}"
        );
        assert_eq!(Release::own().fits("n1", RULES_KNOWN), Ok(()));
        let refused = Release::said("0.3.0".into(), 2).fits("n1", 3).unwrap_err();
        assert!(
            refused.contains("n1 runs 0.3.0, which knows up to 2"),
            "{refused}"
        );
    }
}
