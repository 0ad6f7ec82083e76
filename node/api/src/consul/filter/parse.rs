//! From words to a tree, by descent. Depth is counted, so that no expression exhausts the stack.

use regex::{Regex, RegexBuilder};

use super::{
    Expr, FilterError, Match, Scalar, Test,
    fields::{Field, Fields, resolve},
    lex::{Token, tokens},
};
use crate::limits;

/// Reads an expression over elements with these fields.
pub(super) fn parse(text: &str, fields: &'static Fields) -> Result<Expr, FilterError> {
    if text.len() > limits::FILTER_BYTES_MAX {
        let limit = limits::FILTER_BYTES_MAX;
        return Err(FilterError(format!(
            "the expression is {} bytes long, at most {limit} are allowed",
            text.len()
        )));
    }
    let mut parser = Parser {
        tokens: tokens(text)?,
        at: 0,
        depth: 0,
        regexes: 0,
        fields,
    };
    let expr = parser.any()?;
    match parser.next() {
        None => Ok(expr),
        Some(token) => Err(unexpected(&token)),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    regexes: usize,
    fields: &'static Fields,
}

/// The left side of a comparison, before its operator tells which of the two it is.
enum Left {
    Word(String),
    Quoted(String),
    Selector(Vec<String>),
}

/// An operator; the flag says whether it is negated.
enum Operator {
    Equal(bool),
    IsEmpty(bool),
    In(bool),
    Contains(bool),
    Matches(bool),
}

impl Parser {
    fn any(&mut self) -> Result<Expr, FilterError> {
        self.list("or", Self::all, Expr::Any)
    }

    fn all(&mut self) -> Result<Expr, FilterError> {
        self.list("and", Self::not, Expr::All)
    }

    fn list(
        &mut self,
        joint: &str,
        part: fn(&mut Self) -> Result<Expr, FilterError>,
        whole: fn(Vec<Expr>) -> Expr,
    ) -> Result<Expr, FilterError> {
        let first = part(self)?;
        if !self.take_word(joint) {
            return Ok(first);
        }
        let mut parts = vec![first, part(self)?];
        while self.take_word(joint) {
            parts.push(part(self)?);
        }
        Ok(whole(parts))
    }

    fn not(&mut self) -> Result<Expr, FilterError> {
        // A field, or a value, may be called `not`: then an operator follows.
        if self.is_word(0, "not") && !self.operator_at(1) {
            self.at += 1;
            return self.deeper(Self::not).map(|expr| Expr::Not(Box::new(expr)));
        }
        if self.take(&Token::Open) {
            let expr = self.deeper(Self::any)?;
            self.expect(&Token::Close)?;
            return Ok(expr);
        }
        self.comparison().map(Expr::Match)
    }

    fn deeper(&mut self, part: fn(&mut Self) -> Result<Expr, FilterError>) -> Result<Expr, FilterError> {
        if self.depth == limits::FILTER_DEPTH_MAX {
            let limit = limits::FILTER_DEPTH_MAX;
            return Err(FilterError(format!("the expression nests deeper than {limit}")));
        }
        self.depth += 1;
        let expr = part(self)?;
        self.depth -= 1;
        Ok(expr)
    }

    fn comparison(&mut self) -> Result<Match, FilterError> {
        let left = self.left()?;
        match self.operator()? {
            Operator::In(negated) => {
                let value = match left {
                    Left::Word(value) | Left::Quoted(value) => value,
                    Left::Selector(_) => {
                        return Err(FilterError("a value stands on the left of \"in\"".into()));
                    }
                };
                let right = self.left()?;
                let path = right.selector()?;
                let field = self.field(&path)?;
                Ok(Match {
                    test: contains(field, &path, value)?,
                    path,
                    negated,
                })
            }
            Operator::Equal(negated) => {
                let (path, field) = self.selected(left)?;
                let value = self.value()?;
                Ok(Match {
                    test: equal(field, &path, value)?,
                    path,
                    negated,
                })
            }
            Operator::IsEmpty(negated) => {
                let (path, field) = self.selected(left)?;
                match field {
                    Field::Text
                    | Field::TextList
                    | Field::TextMap
                    | Field::StructMap(_)
                    | Field::StructList(_) => Ok(Match {
                        test: Test::Empty,
                        path,
                        negated,
                    }),
                    Field::Number | Field::Bool | Field::Struct(_) => {
                        Err(invalid_operator("is empty", &path))
                    }
                }
            }
            Operator::Contains(negated) => {
                let (path, field) = self.selected(left)?;
                let value = self.value()?;
                Ok(Match {
                    test: contains(field, &path, value)?,
                    path,
                    negated,
                })
            }
            Operator::Matches(negated) => {
                let (path, field) = self.selected(left)?;
                let value = self.value()?;
                let Field::Text = field else {
                    return Err(invalid_operator("matches", &path));
                };
                Ok(Match {
                    test: Test::Matches(self.regex(&value)?),
                    path,
                    negated,
                })
            }
        }
    }

    /// A word, a quoted text, or a selector with an index.
    fn left(&mut self) -> Result<Left, FilterError> {
        match self.next() {
            Some(Token::Quoted(text)) => Ok(Left::Quoted(text)),
            Some(Token::Word(word)) if self.peek(0) == Some(&Token::OpenIndex) => {
                let mut path = dotted(&word)?;
                while self.take(&Token::OpenIndex) {
                    let Some(Token::Quoted(key)) = self.next() else {
                        return Err(FilterError("a quoted key stands between \"[\" and \"]\"".into()));
                    };
                    path.push(key);
                    self.expect(&Token::CloseIndex)?;
                    // `Meta["a"].more`: the rest comes as a word that begins with a dot.
                    if let Some(Token::Word(rest)) = self.peek(0)
                        && let Some(rest) = rest.strip_prefix('.')
                    {
                        path.extend(dotted(rest)?);
                        self.at += 1;
                    }
                }
                Ok(Left::Selector(path))
            }
            Some(Token::Word(word)) => Ok(Left::Word(word)),
            Some(token) => Err(unexpected(&token)),
            None => Err(FilterError(
                "the expression ends where a comparison is expected".into(),
            )),
        }
    }

    fn selected(&self, left: Left) -> Result<(Vec<String>, Field), FilterError> {
        let path = left.selector()?;
        let field = self.field(&path)?;
        Ok((path, field))
    }

    fn field(&self, path: &[String]) -> Result<Field, FilterError> {
        resolve(self.fields, path)
            .ok_or_else(|| FilterError(format!("Selector {:?} is not valid", path.join("."))))
    }

    fn operator(&mut self) -> Result<Operator, FilterError> {
        let negated = self.take_word("not");
        let operator = match self.next() {
            Some(Token::Equal) if !negated => Operator::Equal(false),
            Some(Token::NotEqual) if !negated => Operator::Equal(true),
            Some(Token::Word(word)) => match word.as_str() {
                "is" if !negated => {
                    let not = self.take_word("not");
                    if !self.take_word("empty") {
                        return Err(FilterError("\"is\" needs \"empty\" or \"not empty\"".into()));
                    }
                    Operator::IsEmpty(not)
                }
                "in" => Operator::In(negated),
                "contains" => Operator::Contains(negated),
                "matches" => Operator::Matches(negated),
                _ => return Err(FilterError(format!("{word:?} is not an operator"))),
            },
            Some(token) => return Err(unexpected(&token)),
            None => {
                return Err(FilterError(
                    "the expression ends where an operator is expected".into(),
                ));
            }
        };
        Ok(operator)
    }

    /// Whether an operator stands so many words ahead.
    fn operator_at(&self, ahead: usize) -> bool {
        match self.peek(ahead) {
            Some(Token::Equal | Token::NotEqual) => true,
            Some(Token::Word(word)) => match word.as_str() {
                "is" | "in" | "contains" | "matches" => true,
                "not" => ["in", "contains", "matches"]
                    .iter()
                    .any(|word| self.is_word(ahead + 1, word)),
                _ => false,
            },
            _ => false,
        }
    }

    fn value(&mut self) -> Result<String, FilterError> {
        match self.next() {
            Some(Token::Quoted(value) | Token::Word(value)) => Ok(value),
            Some(token) => Err(unexpected(&token)),
            None => Err(FilterError(
                "the expression ends where a value is expected".into(),
            )),
        }
    }

    fn regex(&mut self, pattern: &str) -> Result<Regex, FilterError> {
        self.regexes += 1;
        if self.regexes > limits::FILTER_REGEXES_MAX {
            let limit = limits::FILTER_REGEXES_MAX;
            return Err(FilterError(format!("more than {limit} regular expressions")));
        }
        RegexBuilder::new(pattern)
            .size_limit(limits::FILTER_REGEX_BYTES_MAX)
            .dfa_size_limit(limits::FILTER_REGEX_BYTES_MAX)
            .build()
            .map_err(|error| {
                FilterError(format!(
                    "Failed to compile regular expression {pattern:?}: {error}"
                ))
            })
    }

    fn peek(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.at + ahead)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn take(&mut self, token: &Token) -> bool {
        let there = self.peek(0) == Some(token);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, token: &Token) -> Result<(), FilterError> {
        if self.take(token) {
            Ok(())
        } else {
            Err(FilterError(format!("{token:?} is missing")))
        }
    }

    fn is_word(&self, ahead: usize, word: &str) -> bool {
        matches!(self.peek(ahead), Some(Token::Word(there)) if there == word)
    }

    fn take_word(&mut self, word: &str) -> bool {
        let there = self.is_word(0, word);
        self.at += usize::from(there);
        there
    }
}

impl Left {
    /// The names that it selects by; a quoted text does so in JSON-pointer form.
    fn selector(self) -> Result<Vec<String>, FilterError> {
        match self {
            Self::Selector(path) => Ok(path),
            Self::Word(word) => dotted(&word),
            Self::Quoted(text) => match text.strip_prefix('/') {
                Some(pointer) => Ok(pointer
                    .split('/')
                    .map(|part| part.replace("~1", "/").replace("~0", "~"))
                    .collect()),
                None => Err(FilterError(format!(
                    "{text:?} is a value where a selector is expected"
                ))),
            },
        }
    }
}

fn dotted(word: &str) -> Result<Vec<String>, FilterError> {
    let path: Vec<_> = word.split('.').map(str::to_owned).collect();
    if path.iter().any(String::is_empty) {
        return Err(FilterError(format!("Selector {word:?} is not valid")));
    }
    Ok(path)
}

fn equal(field: Field, path: &[String], value: String) -> Result<Test, FilterError> {
    let scalar = match field {
        Field::Text => Some(Scalar::Text(value)),
        Field::Number => value.parse().ok().map(Scalar::Number),
        Field::Bool => crate::consul::params::parse_bool(&value).map(Scalar::Bool),
        Field::TextList | Field::TextMap | Field::StructMap(_) | Field::Struct(_) | Field::StructList(_) => {
            return Err(invalid_operator("==", path));
        }
    };
    scalar
        .map(Test::Equal)
        .ok_or_else(|| FilterError(format!("the value is not of the type of {:?}", path.join("."))))
}

fn contains(field: Field, path: &[String], value: String) -> Result<Test, FilterError> {
    match field {
        Field::Text | Field::TextList | Field::TextMap | Field::StructMap(_) => Ok(Test::Contains(value)),
        Field::Number | Field::Bool | Field::Struct(_) | Field::StructList(_) => {
            Err(invalid_operator("in", path))
        }
    }
}

fn invalid_operator(operator: &str, path: &[String]) -> FilterError {
    FilterError(format!(
        "Invalid match operator {operator:?} for selector {:?}",
        path.join(".")
    ))
}

fn unexpected(token: &Token) -> FilterError {
    FilterError(format!("unexpected {token:?}"))
}
