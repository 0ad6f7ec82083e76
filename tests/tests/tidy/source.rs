//! A Rust file as its tokens: which paths it names, how long its functions are, where it is unsafe.
//!
//! Tokens, not a syntax tree: bodies of macros are seen too, and comments and strings are not.

use std::str::FromStr;

use proc_macro2::{Delimiter, Group, Spacing, TokenStream, TokenTree};

use crate::tree;

/// One parsed file.
pub(crate) struct Source {
    /// From the root of the repository.
    pub(crate) path: String,
    pub(crate) lines: usize,
    pub(crate) tokens: TokenStream,
}

/// A path such as `crate::kv::range`, with every branch of a `use` written out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) line: usize,
    /// As written: begins with a crate, `crate`, `self`, `super` or a local name.
    pub(crate) segments: Vec<String>,
    /// Module that it is written in.
    pub(crate) module: Vec<String>,
}

/// A function and how many lines it takes.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

impl Source {
    /// Every Rust file of the repository.
    pub(crate) fn all() -> Vec<Self> {
        tree::files()
            .iter()
            .filter(|path| tree::has_extension(path, "rs"))
            .map(|path| Self::of(path))
            .collect()
    }

    /// One file of the repository.
    pub(crate) fn of(path: &str) -> Self {
        Self::parse(path, &tree::read(path))
    }

    /// A file of the given name and text.
    pub(crate) fn parse(path: &str, text: &str) -> Self {
        let tokens = TokenStream::from_str(text).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self {
            path: path.to_owned(),
            lines: text.lines().count(),
            tokens,
        }
    }

    /// The module path of the file inside its crate: `node/core/src/kv/mvcc.rs` is `kv::mvcc`.
    pub(crate) fn module(&self) -> Vec<String> {
        let Some((_, inside)) = self.path.split_once("src/") else {
            return Vec::new();
        };
        let mut module: Vec<String> = inside
            .trim_end_matches(".rs")
            .split('/')
            .map(str::to_owned)
            .collect();
        if module
            .last()
            .is_some_and(|name| matches!(name.as_str(), "mod" | "lib" | "main"))
        {
            module.pop();
        }
        module
    }

    /// Every path that the file names.
    pub(crate) fn names(&self) -> Vec<Named> {
        let mut names = Vec::new();
        collect_names(&self.tokens, &[], &self.module(), &mut names);
        names
    }

    /// Every function with a body.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let mut functions = Vec::new();
        each_stream(&self.tokens, &mut |tokens| {
            for (at, pair) in tokens.windows(2).enumerate() {
                let (true, TokenTree::Ident(name)) = (is_word(&pair[0], "fn"), &pair[1]) else {
                    continue;
                };
                let Some(body) = body_after(&tokens[at + 2..]) else {
                    continue;
                };
                let line = pair[0].span().start().line;
                let lines = body.span_close().end().line + 1 - line;
                functions.push(Function {
                    name: name.to_string(),
                    line,
                    lines,
                });
            }
        });
        functions
    }

    /// The body of the function of this name.
    pub(crate) fn body(&self, name: &str) -> Option<TokenStream> {
        let mut found = None;
        each_stream(&self.tokens, &mut |tokens| {
            for (at, pair) in tokens.windows(2).enumerate() {
                if is_word(&pair[0], "fn") && is_word(&pair[1], name) {
                    found = found
                        .take()
                        .or_else(|| body_after(&tokens[at + 2..]).map(Group::stream));
                }
            }
        });
        found
    }

    /// The lines on which a word of the language or a name stands.
    pub(crate) fn lines_of(&self, word: &str) -> Vec<usize> {
        let mut lines = Vec::new();
        each_stream(&self.tokens, &mut |tokens| {
            lines.extend(
                tokens
                    .iter()
                    .filter(|token| is_word(token, word))
                    .map(|token| token.span().start().line),
            );
        });
        lines
    }

    /// The variants of an enum, in order.
    pub(crate) fn variants(&self, name: &str) -> Vec<String> {
        let mut variants = Vec::new();
        each_stream(&self.tokens, &mut |tokens| {
            for (at, pair) in tokens.windows(2).enumerate() {
                if is_word(&pair[0], "enum") && is_word(&pair[1], name) {
                    let body = body_after(&tokens[at + 2..]).expect("an enum has a body");
                    variants = variants_in(body);
                }
            }
        });
        assert!(
            !variants.is_empty(),
            "{}: no enum {name} with variants",
            self.path
        );
        variants
    }
}

/// Calls `see` with the tokens of the stream and of each group inside it.
pub(crate) fn each_stream(stream: &TokenStream, see: &mut impl FnMut(&[TokenTree])) {
    let tokens: Vec<TokenTree> = stream.clone().into_iter().collect();
    see(&tokens);
    for token in &tokens {
        if let TokenTree::Group(group) = token {
            each_stream(&group.stream(), see);
        }
    }
}

/// Whether the token is this word.
pub(crate) fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if *ident == word)
}

/// Whether `::` begins at this place.
fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':' && punct.spacing() == Spacing::Joint)
        && matches!(tokens.get(at + 1), Some(TokenTree::Punct(punct)) if punct.as_char() == ':')
}

/// The first `{…}` before the item ends with `;`.
fn body_after(tokens: &[TokenTree]) -> Option<&Group> {
    tokens
        .iter()
        .take_while(|token| !matches!(token, TokenTree::Punct(punct) if punct.as_char() == ';'))
        .find_map(|token| match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(group),
            _ => None,
        })
}

/// The names at the beginning of the body and after each comma; attributes are groups in brackets and are passed over.
fn variants_in(body: &Group) -> Vec<String> {
    let mut variants = Vec::new();
    let mut awaited = true;
    for token in body.stream() {
        match token {
            TokenTree::Ident(name) if awaited => {
                variants.push(name.to_string());
                awaited = false;
            }
            TokenTree::Punct(punct) if punct.as_char() == ',' => awaited = true,
            _ => {}
        }
    }
    variants
}

fn collect_names(stream: &TokenStream, prefix: &[String], module: &[String], names: &mut Vec<Named>) {
    let tokens: Vec<TokenTree> = stream.clone().into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(word) if *word == "mod" => {
                if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
                    (tokens.get(at + 1), tokens.get(at + 2))
                {
                    let inner = [module, &[name.to_string()]].concat();
                    collect_names(&body.stream(), &[], &inner, names);
                    at += 2;
                }
            }
            TokenTree::Ident(word) => {
                let line = word.span().start().line;
                let mut segments = [prefix, &[word.to_string()]].concat();
                while is_path_separator(&tokens, at + 1) {
                    match tokens.get(at + 3) {
                        Some(TokenTree::Ident(next)) => segments.push(next.to_string()),
                        Some(TokenTree::Group(branches)) if branches.delimiter() == Delimiter::Brace => {
                            collect_names(&branches.stream(), &segments, module, names);
                        }
                        _ => {}
                    }
                    at += 3;
                }
                names.push(Named {
                    line,
                    segments,
                    module: module.to_vec(),
                });
            }
            TokenTree::Group(group) => collect_names(&group.stream(), &[], module, names),
            _ => {}
        }
        at += 1;
    }
}

impl Named {
    /// The path from the root of the crate, or `None` where it begins in another crate or with a local name.
    pub(crate) fn in_crate(&self) -> Option<Vec<String>> {
        let first = self.segments.first()?;
        let supers = self
            .segments
            .iter()
            .take_while(|segment| *segment == "super")
            .count();
        match first.as_str() {
            "crate" => Some(self.segments[1..].to_vec()),
            "self" => Some([&self.module, &self.segments[1..]].concat()),
            "super" => {
                let up = self.module.len().checked_sub(supers)?;
                Some([&self.module[..up], &self.segments[supers..]].concat())
            }
            _ => None,
        }
    }

    /// As it is written.
    pub(crate) fn written(&self) -> String {
        self.segments.join("::")
    }
}

#[cfg(test)]
mod tests {
    use super::Source;

    fn written(text: &str) -> Vec<String> {
        Source::parse("a/src/kv/range.rs", text)
            .names()
            .iter()
            .map(super::Named::written)
            .collect()
    }

    #[test]
    fn writes_out_every_branch_of_a_use() {
        let names = written("use crate::{kv::range, table::{self, Table}};");
        for expected in ["crate::kv::range", "crate::table::self", "crate::table::Table"] {
            assert!(
                names.iter().any(|name| name == expected),
                "{expected} in {names:?}"
            );
        }
    }

    #[test]
    fn sees_into_macros_and_not_into_strings_or_comments() {
        let names = written(
            "fn f() { select! { _ = std::net::bind() => {} } } // std::fs::read\nconst S: &str = \"std::env::var\";",
        );
        assert!(names.iter().any(|name| name == "std::net::bind"));
        assert!(
            !names
                .iter()
                .any(|name| name.starts_with("std::fs") || name.starts_with("std::env"))
        );
    }

    #[test]
    fn resolves_paths_from_where_they_are_written() {
        let source = Source::parse(
            "a/src/kv/range.rs",
            "use super::lock; mod tests { use super::super::txn; }",
        );
        let resolved: Vec<_> = source.names().iter().filter_map(super::Named::in_crate).collect();
        assert!(
            resolved.contains(&vec!["kv".to_owned(), "lock".to_owned()]),
            "{resolved:?}"
        );
        assert!(
            resolved.contains(&vec!["kv".to_owned(), "txn".to_owned()]),
            "{resolved:?}"
        );
    }

    #[test]
    fn measures_functions_and_lists_variants() {
        let source = Source::parse(
            "a.rs",
            "enum E { /// doc\n A, #[x] B(u8, u8), C { d: u8 } }\nfn f()\nwhere u8: Copy {\n\n}\nfn g();",
        );
        assert_eq!(source.variants("E"), ["A", "B", "C"]);
        let functions: Vec<_> = source
            .functions()
            .into_iter()
            .map(|function| (function.name, function.line, function.lines))
            .collect();
        assert_eq!(functions, [("f".to_owned(), 3, 4)]);
    }
}
