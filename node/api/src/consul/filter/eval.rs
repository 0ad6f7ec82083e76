//! Asking an element.

use serde_json::Value;

use super::{Expr, Match, Scalar, Test};

/// Whether an expression holds for an element.
pub(super) fn holds(expr: &Expr, element: &Value) -> bool {
    match expr {
        Expr::Any(parts) => parts.iter().any(|part| holds(part, element)),
        Expr::All(parts) => parts.iter().all(|part| holds(part, element)),
        Expr::Not(inner) => !holds(inner, element),
        Expr::Match(comparison) => compare(comparison, &comparison.path, element),
    }
}

/// Follows the path; where it crosses a list, one element for which the comparison holds is enough.
fn compare(comparison: &Match, path: &[String], value: &Value) -> bool {
    match (path.split_first(), value) {
        (None, value) => answers(&comparison.test, value) != comparison.negated,
        (Some(_), Value::Array(elements)) => {
            elements.iter().any(|element| compare(comparison, path, element))
        }
        (Some((name, rest)), Value::Object(fields)) => match fields.get(name) {
            Some(value) => compare(comparison, rest, value),
            None => absent(comparison),
        },
        (Some(_), _) => absent(comparison),
    }
}

/// A map has no such key, or the field is left out because it is empty.
fn absent(comparison: &Match) -> bool {
    let holds = match &comparison.test {
        Test::Empty => true,
        Test::Equal(_) | Test::Contains(_) | Test::Matches(_) => false,
    };
    holds != comparison.negated
}

/// Whether a value is what the test asks for.
fn answers(question: &Test, value: &Value) -> bool {
    match question {
        Test::Equal(Scalar::Text(text)) => value.as_str() == Some(text),
        Test::Equal(Scalar::Number(number)) => value.as_i64() == Some(*number),
        Test::Equal(Scalar::Bool(bool)) => value.as_bool() == Some(*bool),
        Test::Empty => match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        },
        Test::Contains(wanted) => match value {
            Value::String(text) => text.contains(wanted.as_str()),
            Value::Array(list) => list.iter().any(|element| element.as_str() == Some(wanted)),
            Value::Object(map) => map.contains_key(wanted),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        },
        Test::Matches(regex) => value.as_str().is_some_and(|text| regex.is_match(text)),
    }
}
