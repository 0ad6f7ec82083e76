//! The words of a filter expression.

use std::{iter::Peekable, str::CharIndices};

use super::FilterError;

/// A word.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A keyword, a selector, a number or a bare value.
    Word(String),
    /// A value in quotes.
    Quoted(String),
    Open,
    Close,
    /// `[`, which begins an index right behind a selector.
    OpenIndex,
    CloseIndex,
    Equal,
    NotEqual,
}

/// Splits an expression into words.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, FilterError> {
    let mut chars = text.char_indices().peekable();
    let mut tokens = Vec::new();
    while let Some((at, c)) = chars.next() {
        let token = match c {
            c if c.is_ascii_whitespace() => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            '[' => Token::OpenIndex,
            ']' => Token::CloseIndex,
            '=' if chars.next_if(|&(_, c)| c == '=').is_some() => Token::Equal,
            '!' if chars.next_if(|&(_, c)| c == '=').is_some() => Token::NotEqual,
            '"' => Token::Quoted(quoted(at, &mut chars)?),
            '`' => Token::Quoted(raw(at, &mut chars)?),
            c if is_word(c) => Token::Word(word(c, &mut chars)),
            c => return Err(FilterError(format!("unexpected {c:?} at {at}"))),
        };
        tokens.push(token);
    }
    Ok(tokens)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '+')
}

fn word(first: char, chars: &mut Peekable<CharIndices<'_>>) -> String {
    let mut word = String::from(first);
    while let Some((_, c)) = chars.next_if(|&(_, c)| is_word(c)) {
        word.push(c);
    }
    word
}

/// Up to the closing quote; a backslash takes the next character as it is.
fn quoted(at: usize, chars: &mut Peekable<CharIndices<'_>>) -> Result<String, FilterError> {
    let mut value = String::new();
    while let Some((_, c)) = chars.next() {
        match c {
            '"' => return Ok(value),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 't')) => value.push('\t'),
                Some((_, c @ ('"' | '\\'))) => value.push(c),
                // Not an escape: regular expressions are written this way.
                Some((_, c)) => value.extend(['\\', c]),
                None => break,
            },
            c => value.push(c),
        }
    }
    Err(FilterError(format!("the quote at {at} is not closed")))
}

fn raw(at: usize, chars: &mut Peekable<CharIndices<'_>>) -> Result<String, FilterError> {
    let mut value = String::new();
    for (_, c) in chars {
        if c == '`' {
            return Ok(value);
        }
        value.push(c);
    }
    Err(FilterError(format!("the quote at {at} is not closed")))
}
