//! Nothing in the tree names the machine that it was made on: a path there means nothing anywhere else.

/// Written in two halves, so that this file doesn't find itself.
const FORBIDDEN: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("../sha", "red/"),
    concat!("/tmp/", "wt/"),
    concat!("py", "pi.org"),
    concat!("registry.", "npmjs"),
    concat!("proxy.", "golang"),
];

/// Files that tools write and that name the registry on every line.
fn is_lock(path: &str) -> bool {
    ["Cargo.lock", "package-lock.json", "go.sum"]
        .iter()
        .any(|lock| path.ends_with(lock))
}

/// Forbidden words in one file.
pub(crate) fn violations(path: &str, text: &str) -> Vec<String> {
    if is_lock(path) {
        return Vec::new();
    }
    let lines = text.lines().enumerate();
    lines
        .flat_map(|(number, line)| {
            let found = FORBIDDEN.iter().filter(move |word| line.contains(**word));
            found.map(move |word| format!("{path}:{}: {word}", number + 1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::violations;

    #[test]
    fn finds_paths_of_a_machine() {
        let bad = format!(
            "cd {}main\nfine\nsee {}",
            concat!("/wo", "rk/"),
            concat!("../sha", "red/x.md")
        );
        assert_eq!(violations("a.md", &bad).len(), 2);
        assert_eq!(violations("go.sum", &bad), [""; 0]);
        assert_eq!(violations("a.md", "the network and framework/"), [""; 0]);
    }
}
