//! The query string: parameters by name, and the forms that their values take.

use percent_encoding::percent_decode_str;

use super::{duration::GoDuration, error::Failure};

/// The parameters of a request, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Reads a query string. A plus is a space; bytes that are no UTF-8 become the replacement character.
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(name), unescape(value))
        });
        Self(pairs.collect())
    }

    /// Whether it is there, with or without a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// The first value; empty if it stands bare.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(there, _)| there == name)
            .map(|(_, value)| value.as_str())
    }

    /// The first value that is not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.first(name).filter(|value| !value.is_empty())
    }

    /// Every value, in order.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(there, _)| there == name)
            .map(|(_, value)| value.as_str())
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A switch: absent is `None`, bare is on, and a value says which.
    pub(crate) fn switch(&self, name: &'static str) -> Result<Option<bool>, Failure> {
        match self.first(name) {
            None => Ok(None),
            Some("") => Ok(Some(true)),
            Some(value) => parse_bool(value)
                .map(Some)
                .ok_or(Failure::InvalidParameter { name }),
        }
    }

    /// A whole number.
    pub(crate) fn number(&self, name: &'static str) -> Result<Option<u64>, Failure> {
        self.first(name)
            .map(|value| value.parse().map_err(|_| Failure::InvalidParameter { name }))
            .transpose()
    }

    /// A duration that is not negative.
    pub(crate) fn duration(&self, name: &str) -> Option<Result<std::time::Duration, ()>> {
        self.text(name).map(|value| {
            let nanos = GoDuration::parse(value)
                .ok()
                .and_then(|span| u64::try_from(span.0).ok());
            nanos.map(std::time::Duration::from_nanos).ok_or(())
        })
    }

    /// Refuses more than one of `names`.
    pub(crate) fn at_most_one_of(&self, names: &[&str]) -> Result<(), Failure> {
        let given: Vec<_> = names.iter().copied().filter(|name| self.has(name)).collect();
        if given.len() > 1 {
            Err(Failure::ConflictingFlags(given.join(", ")))
        } else {
            Ok(())
        }
    }
}

fn unescape(text: &str) -> String {
    percent_decode_str(&text.replace('+', " "))
        .decode_utf8_lossy()
        .into_owned()
}

/// Reads what Go's `strconv.ParseBool` reads.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_bare_repeated_and_escaped_parameters() {
        let params = Params::parse("recurse&tag=a&tag=b%26c&filter=x+%3D%3D+y&bad=%ff&=&&dc=");
        assert!(params.has("recurse") && params.has("dc") && !params.has("wait"));
        assert_eq!(params.all("tag").collect::<Vec<_>>(), ["a", "b&c"]);
        assert_eq!(params.text("filter"), Some("x == y"));
        assert_eq!(params.text("bad"), Some("\u{fffd}"));
        assert_eq!(params.text("dc"), None);
    }

    #[test]
    fn a_switch_is_bare_or_says_which() {
        let params = Params::parse("a&b=true&c=0&d=maybe");
        assert_eq!(params.switch("a").unwrap(), Some(true));
        assert_eq!(params.switch("b").unwrap(), Some(true));
        assert_eq!(params.switch("c").unwrap(), Some(false));
        assert_eq!(params.switch("e").unwrap(), None);
        assert_eq!(
            params.switch("d").unwrap_err().to_string(),
            "Invalid value for ?d"
        );
    }
}
