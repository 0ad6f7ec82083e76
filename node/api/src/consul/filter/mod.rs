//! `?filter=`: boolean expressions over what a list holds (consul-compatible, "Filtering").
//!
//! An expression is read once into a tree, with bounds on its length, its depth and the size of its regular
//! expressions, and checked against the [`Fields`] of the element listed, so that a misspelt selector is refused
//! even where the list is empty. Then each element is asked: its JSON form, the one that the client gets, is what
//! the expression is evaluated on, and so the two can't differ.

mod eval;
mod fields;
mod lex;
mod parse;

use regex::Regex;
use serde::Serialize;

pub(crate) use self::fields::{CATALOG_SERVICE, CHECK, ENDPOINT, Fields, NODE, SERVICE};

/// A filter, ready to be asked.
#[derive(Debug)]
pub(crate) struct Filter(Expr);

/// Why an expression is none: a text for the one who wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct FilterError(pub String);

impl Filter {
    /// Reads an expression over elements with these fields.
    pub(crate) fn compile(text: &str, fields: &'static Fields) -> Result<Self, FilterError> {
        parse::parse(text, fields).map(Self)
    }

    /// Whether it holds for an element.
    pub(crate) fn holds(&self, element: &impl Serialize) -> bool {
        // What can't be written as JSON can't be listed either.
        serde_json::to_value(element).is_ok_and(|element| eval::holds(&self.0, &element))
    }
}

/// An expression.
#[derive(Debug)]
enum Expr {
    Any(Vec<Expr>),
    All(Vec<Expr>),
    Not(Box<Expr>),
    Match(Match),
}

/// One comparison.
#[derive(Debug)]
struct Match {
    /// The names that lead to the field.
    path: Vec<String>,
    test: Test,
    /// `!=`, `is not`, `not in`, `not contains`, `not matches`.
    negated: bool,
}

/// What is asked of a field.
#[derive(Debug)]
enum Test {
    Equal(Scalar),
    Empty,
    /// Membership in a list, a key of a map, a part of a text.
    Contains(String),
    Matches(Regex),
}

/// A value, as the field's type reads it.
#[derive(Debug, PartialEq)]
enum Scalar {
    Text(String),
    Number(i64),
    Bool(bool),
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::limits;

    fn endpoint() -> serde_json::Value {
        json!({
            "Node": {"Node": "n1", "Address": "10.0.0.1", "Meta": {"rack": "a"}, "TaggedAddresses": {}},
            "Service": {
                "ID": "web-1", "Service": "web", "Tags": ["v1", "blue"], "Port": 80, "EnableTagOverride": false,
                "Meta": {"version": "2", "dotted.key": "x"}, "Address": "",
                "TaggedAddresses": {"lan": {"Address": "10.0.0.1", "Port": 80}},
                "Weights": {"Passing": 10, "Warning": 1},
            },
            "Checks": [
                {"CheckID": "serfHealth", "Status": "passing", "Name": "Serf", "ServiceTags": []},
                {"CheckID": "service:web-1", "Status": "critical", "Name": "Web", "ServiceTags": ["v1"]},
            ],
        })
    }

    #[test]
    fn holds_for_what_it_says() {
        for text in [
            r#"Service.Service == "web""#,
            "Service.Service==web",
            "Service.Service == `web`",
            "Service.Port == 80",
            "Service.Port != 81",
            "Service.EnableTagOverride == false",
            "Service.EnableTagOverride != true",
            "v1 in Service.Tags",
            r#""v1" in Service.Tags"#,
            "v3 not in Service.Tags",
            "Service.Tags contains blue",
            "Service.Tags not contains green",
            "version in Service.Meta",
            "Service.Meta contains version",
            "eb in Service.Service",
            "Service.Meta.version == 2",
            r#"Service.Meta["dotted.key"] == x"#,
            r#""/Service/Meta/version" == "2""#,
            r#""/Service/Meta/dotted.key" is not empty"#,
            "Service.Meta.absent != 1",
            "not Service.Meta.absent == 1",
            "Service.Meta.absent is empty",
            "Service.Meta is not empty",
            "Node.TaggedAddresses is empty",
            "Service.TaggedAddresses.lan.Port == 80",
            "Service.Weights.Passing == 10",
            r#"Service.Service matches "^w.b$""#,
            "Service.Service not matches `^x`",
            "Service.Meta.absent not matches x",
            // Any element of a list that is crossed will do.
            "Checks.Status == passing",
            "Checks.Status == critical",
            "Checks.Status != critical",
            "v1 in Checks.ServiceTags",
            "not (Checks.Status == warning)",
            "Service.Port == 1 or Service.Port == 80 and Service.Service == web",
            "(Service.Port == 1 or Service.Port == 80) and not Service.Service == db",
            "not not Service.Port == 80",
            "  Service.Port\n==\t80  ",
        ] {
            let filter = Filter::compile(text, &ENDPOINT).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(filter.holds(&endpoint()), "{text}");
            let opposite = Filter::compile(&format!("not ({text})"), &ENDPOINT).unwrap();
            assert!(!opposite.holds(&endpoint()), "not ({text})");
        }
    }

    #[test]
    fn does_not_hold_for_what_is_not_so() {
        for text in [
            "Service.Service == Web",
            "Service.Meta.absent == 2",
            "Service.Meta.absent matches ``",
            "absent in Service.Meta",
            "v3 in Service.Tags",
            "Checks.Status == warning",
            "Service.Address is not empty",
            "Service.Port == 80 and Service.Port == 81",
        ] {
            let filter = Filter::compile(text, &ENDPOINT).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(!filter.holds(&endpoint()), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_expression() {
        let deep = format!("{}Service.Port == 80{}", "(".repeat(1_000), ")".repeat(1_000));
        let nots = format!("{}Service.Port == 80", "not ".repeat(1_000));
        let long = format!("Service.ID == `{}`", "x".repeat(limits::FILTER_BYTES_MAX));
        let regexes = vec!["Service.ID matches x"; limits::FILTER_REGEXES_MAX + 1].join(" or ");
        for text in [
            "",
            " ",
            "Service",
            "Service.Port",
            "Service.Port ==",
            "Service.Port == == 80",
            "Service.Port == 80 and",
            "Service.Port == 80 Service.Port",
            "Service.Port == 80)",
            "(Service.Port == 80",
            "Service.Port == eighty",
            "Service.Port = 80",
            "Service.Port is full",
            "Service.Port is empty",
            "Service.Port contains 8",
            "Service.Tags == v1",
            "Service.Meta == v1",
            "Service.EnableTagOverride == yes",
            "Service.Service == \"web",
            "Service.Service == `web",
            "Service.Service matches `(`",
            r"Service.Service matches `(?=x)`",
            r"Service.Service matches `\pL{1000}{1000}`",
            "Service.Nothing == 1",
            "service.Port == 80",
            "Nothing == 1",
            "Service.Port.More == 1",
            "Service.CreateIndex == 1",
            "Checks == 1",
            "Service.Meta.a.b == 1",
            "Service.Meta[version] == 1",
            r#"Service.Meta["version" == 1"#,
            "\"v1\" == Service.Tags",
            "AND",
            "not",
            "Service.Port == 80 AND Service.Port == 80",
            "\u{e9}\u{e9} == 1",
            &deep,
            &nots,
            &long,
            &regexes,
        ] {
            assert!(Filter::compile(text, &ENDPOINT).is_err(), "{text}");
        }
    }
}
