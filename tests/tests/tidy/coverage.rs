//! What the core can do is covered: every command and every rejection stands in a golden script.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};

use crate::source::{Source, each_stream};

/// Commands that no script runs. The grammar of the scripts says which word stands for which command.
pub(crate) fn commands(variants: &[String], grammar: &Source, scripts: &[String]) -> Vec<String> {
    let words = words_of(grammar);
    let is_used = |word: &String| {
        scripts
            .iter()
            .flat_map(|script| inputs(script))
            .any(|used| used == *word)
    };
    let is_covered = |variant: &&String| words.get(*variant).is_some_and(|words| words.iter().any(is_used));
    let missing = variants.iter().filter(|variant| !is_covered(variant));
    missing
        .map(|variant| format!("no golden script runs Command::{variant}"))
        .collect()
}

/// The ratchet: rejections that no script shows.
pub(crate) const ELSEWHERE: &[&str] = &[];

/// Rejections that no script shows, by the code that the table of rejections gives them.
pub(crate) fn rejections(
    variants: &[String],
    outcomes: &Source,
    scripts: &[String],
    elsewhere: &[&str],
) -> Vec<String> {
    let table = outcomes
        .body("row")
        .expect("the table of rejections is Rejection::row");
    let codes = codes_in(&table);
    let mut found = Vec::new();
    for variant in variants {
        let Some(code) = codes.get(variant) else {
            found.push(format!("Rejection::{variant} has no row in the table"));
            continue;
        };
        let shown = format!("refused {code} ");
        let shows = |script: &String| script.lines().any(|line| format!("{line} ").contains(&shown));
        match (scripts.iter().any(shows), elsewhere.contains(&variant.as_str())) {
            (false, false) => found.push(format!(
                "no golden script shows Rejection::{variant} (refused {code})"
            )),
            (true, true) => found.push(format!(
                "a script shows Rejection::{variant} now: remove it from the list"
            )),
            _ => {}
        }
    }
    found
}

/// The first word of each line above a `---`, without the bracket that hides its output.
fn inputs(script: &str) -> impl Iterator<Item = String> {
    let mut above = true;
    script.lines().filter_map(move |line| {
        if line == "---" {
            above = false;
        } else if line.is_empty() {
            above = true;
        }
        let words = line.trim_start_matches(['(', '!', '>']).split([' ', ')']);
        // A tag in brackets may stand before the command, and a script may only ask for its bytes.
        let mut words = words.filter(|word| !word.starts_with('[') && *word != "bytes");
        if above {
            words.next().map(str::to_owned)
        } else {
            None
        }
    })
}

/// For each command the words of the grammar that make it: the arms `"word" => …` whose body, or a function called there, names it.
fn words_of(grammar: &Source) -> BTreeMap<String, BTreeSet<String>> {
    let mut words: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    each_stream(&grammar.tokens, &mut |tokens| {
        let mut arm: BTreeSet<String> = BTreeSet::new();
        let mut is_body = false;
        for (at, token) in tokens.iter().enumerate() {
            let opens_body = matches!(token, TokenTree::Punct(punct) if punct.as_char() == '>')
                && at > 0
                && matches!(&tokens[at - 1], TokenTree::Punct(punct) if punct.as_char() == '=');
            match token {
                TokenTree::Literal(literal) if is_arm(&tokens[at + 1..]) => {
                    if is_body {
                        arm.clear();
                        is_body = false;
                    }
                    arm.insert(literal.to_string().trim_matches('"').to_owned());
                }
                _ if opens_body => is_body = true,
                _ if is_body && !arm.is_empty() => {
                    let mut made = commands_in(&tokens[at..=at.saturating_add(3).min(tokens.len() - 1)]);
                    if let TokenTree::Ident(function) = token {
                        made.extend(
                            grammar
                                .body(&function.to_string())
                                .map(|body| commands_within(&body))
                                .unwrap_or_default(),
                        );
                    } else if let TokenTree::Group(group) = token {
                        made.extend(commands_within(&group.stream()));
                    }
                    for command in made {
                        words.entry(command).or_default().extend(arm.iter().cloned());
                    }
                }
                _ => {}
            }
        }
    });
    words
}

/// Whether a literal is the pattern of an arm: `=>` or `|` follows.
fn is_arm(rest: &[TokenTree]) -> bool {
    matches!(rest.first(), Some(TokenTree::Punct(punct)) if punct.as_char() == '|')
        || matches!(rest, [TokenTree::Punct(equals), TokenTree::Punct(greater), ..]
            if equals.as_char() == '=' && greater.as_char() == '>')
}

fn commands_within(stream: &TokenStream) -> BTreeSet<String> {
    let mut commands = BTreeSet::new();
    each_stream(stream, &mut |tokens| commands.extend(commands_in(tokens)));
    commands
}

/// The `X` of every `Command::X`.
fn commands_in(tokens: &[TokenTree]) -> BTreeSet<String> {
    let named = tokens
        .windows(4)
        .filter(|four| matches!(&four[0], TokenTree::Ident(ident) if *ident == "Command"));
    named.map(|four| four[3].to_string()).collect()
}

/// The code of each variant: the first text after `Self::Variant … =>`.
fn codes_in(table: &TokenStream) -> BTreeMap<String, String> {
    let mut codes = BTreeMap::new();
    each_stream(table, &mut |tokens| {
        let mut variant = None;
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Ident(ident) if *ident == "Self" => {
                    variant = tokens.get(at + 3).map(ToString::to_string);
                }
                TokenTree::Group(group) => {
                    let code = group.stream().into_iter().find_map(|token| match token {
                        TokenTree::Literal(literal) => Some(literal.to_string().trim_matches('"').to_owned()),
                        _ => None,
                    });
                    if let (Some(code), Some(variant)) = (code, &variant) {
                        codes.entry(variant.clone()).or_insert(code);
                    }
                }
                _ => {}
            }
        }
    });
    codes
}

#[cfg(test)]
mod tests {
    use super::{commands, rejections};
    use crate::source::Source;

    const GRAMMAR: &str = r#"
        fn command(words: &str) -> Command {
            match words {
                "put" => Command::Put(Put { key: key() }),
                "revoke" | "drop" => { Command::Revoke(id()) }
                "report" => report(words),
                "pulse" => Command::Pulse,
            }
        }
        fn report(words: &str) -> Command { Command::Update(words.into()) }
    "#;

    #[test]
    fn finds_commands_without_a_script() {
        let variants = ["Put", "Revoke", "Update", "Pulse", "New"].map(str::to_owned);
        let grammar = Source::parse("parse.rs", GRAMMAR);
        let script =
            "# pulse is not run here\n(drop 7)\nput k\n---\nreport\n\nbytes report a\n---\n".to_owned();
        let found = commands(&variants, &grammar, &[script]);
        assert_eq!(
            found,
            [
                "no golden script runs Command::Pulse",
                "no golden script runs Command::New"
            ]
        );
    }

    #[test]
    fn finds_rejections_without_a_script_or_a_row() {
        let table = r#"fn row(&self) -> Row { let (a, b) = match self {
            Self::Invalid(_) => ("invalid", "m"), Self::Large { .. } => ("too_large", "m"), }; }"#;
        let outcomes = Source::parse("outcome.rs", table);
        let variants = ["Invalid", "Large", "New"].map(str::to_owned);
        let found = rejections(
            &variants,
            &outcomes,
            &["3: refused invalid — no\n4: refused too_large_by_far".to_owned()],
            &["Invalid"],
        );
        assert_eq!(
            found,
            [
                "a script shows Rejection::Invalid now: remove it from the list",
                "no golden script shows Rejection::Large (refused too_large)",
                "Rejection::New has no row in the table"
            ]
        );
    }
}
