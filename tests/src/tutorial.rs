//! The tutorials as programs: their fenced code blocks, taken from the text at test time.
//!
//! `tests/compat/tutorials/` holds the only copy of each text, byte for byte; nothing of them is written down again.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// A tutorial's file and the SHA-256 of its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Tutorial {
    file: &'static str,
    sha256: &'static str,
}

/// Register loop, discovery, heartbeat, circuit breaker and health loop against plain Consul calls.
pub const BACKBONE: Tutorial = Tutorial {
    file: "backbone.md",
    sha256: "d64f2b77ef6c268f88828df5869db66ccffaf755dfbee207fb9d5a461ca708dd",
};

/// The same with the SDK `hms_spine`: register, lookup, open circuit, upgrade without an outage.
pub const SPINE: Tutorial = Tutorial {
    file: "spine.md",
    sha256: "0934d3980e2e7dd30ea85b72b77b9953683f979bdb5ca5f5e0a6e133a27f3b8f",
};

impl Tutorial {
    /// Its code blocks in the order of the text; refuses a text that is not the original.
    pub fn blocks(self) -> Blocks {
        let path = directory().join(self.file);
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let found = format!("{:x}", Sha256::digest(&bytes));
        assert_eq!(found, self.sha256, "{} is not the original text", path.display());
        let text = String::from_utf8(bytes).expect("the tutorials are UTF-8");
        Blocks(fenced(&text))
    }
}

/// Where the tutorials, and what is needed to run them, lie.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compat/tutorials")
}

/// One fenced code block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What stands behind the opening fence: `python`, `bash`, …
    pub language: String,
    /// The lines between the fences.
    pub text: String,
}

impl Block {
    /// The file that the first line's comment names, as in `# file: identity.py  (a remark)` or `// gateway/circuit.js`.
    pub fn file_name(&self) -> Option<&str> {
        let first = self.text.lines().next()?;
        let comment = first.strip_prefix("# ").or_else(|| first.strip_prefix("// "))?;
        let name = comment
            .strip_prefix("file: ")
            .unwrap_or(comment)
            .split(' ')
            .next()?;
        Path::new(name).extension().map(|_| name)
    }
}

/// The code blocks of one tutorial.
#[derive(Clone, Debug)]
pub struct Blocks(Vec<Block>);

impl Blocks {
    /// The text of the file `name`.
    pub fn file(&self, name: &str) -> &str {
        self.one(name, |block| block.file_name() == Some(name))
    }

    /// The shell block in which `command` stands.
    pub fn shell(&self, command: &str) -> &str {
        self.one(command, |block| {
            block.language == "bash" && block.text.contains(command)
        })
    }

    /// The block without a language (expected output, a drawing) that contains `text`.
    pub fn output(&self, text: &str) -> &str {
        self.one(text, |block| {
            block.language.is_empty() && block.text.contains(text)
        })
    }

    fn one(&self, what: &str, wanted: impl Fn(&Block) -> bool) -> &str {
        let mut found = self.0.iter().filter(|block| wanted(block));
        match (found.next(), found.next()) {
            (Some(block), None) => &block.text,
            (None, _) => panic!("the tutorial has no block for {what:?}"),
            (Some(_), Some(_)) => panic!("the tutorial has several blocks for {what:?}"),
        }
    }
}

fn fenced(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in text.split_inclusive('\n') {
        match (line.trim_end().strip_prefix("```"), open.as_mut()) {
            (Some(language), None) => {
                open = Some(Block {
                    language: language.to_owned(),
                    text: String::new(),
                });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text.push_str(line),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    blocks
}

#[cfg(test)]
mod tests {
    use super::{BACKBONE, Block, SPINE, fenced};

    #[test]
    fn the_texts_are_the_originals_and_have_their_blocks() {
        let backbone = BACKBONE.blocks();
        assert!(backbone.file("notify_svc.py").contains("\"Port\":5001"));
        assert!(backbone.file("registry/heartbeat.go").contains("func Heartbeat("));
        assert!(backbone.shell("docker run").contains("-p 8500:8500"));
        let spine = SPINE.blocks();
        assert!(spine.file("identity.py").contains("FastAPI()"));
        assert!(spine.file("hms_spine/core.py").contains("class Spine:"));
        assert!(spine.output("CircuitOpen").contains("(3/3 failures)"));
    }

    #[test]
    fn blocks_are_what_stands_between_fences() {
        let blocks = fenced("a\n```python\n# file: x.py  (mock)\n\n1\n```\nb\n```\nout\n```\n");
        let python = Block {
            language: "python".to_owned(),
            text: "# file: x.py  (mock)\n\n1\n".to_owned(),
        };
        assert_eq!(python.file_name(), Some("x.py"));
        let output = Block {
            language: String::new(),
            text: "out\n".to_owned(),
        };
        assert_eq!(output.file_name(), None);
        assert_eq!(blocks, [python, output]);
    }
}
