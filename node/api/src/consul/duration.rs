//! Durations as Consul's clients write and read them: Go's.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use spine_core::Ttl;

/// A span as Go knows it: a signed number of nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GoDuration(pub i64);

/// Not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("time: invalid duration {0:?}")]
pub(crate) struct InvalidDuration(String);

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// One more than the greatest number of nanoseconds, which a negative span may reach.
const BOUND: u64 = 1 << 63;

impl GoDuration {
    /// Reads what Go's `time.ParseDuration` reads, and nothing else: a sign, then numbers with a unit each, such as
    /// `1h15m30.918s`. A number without a unit is refused, but for a plain `0`.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidDuration> {
        parse_nanos(text)
            .map(Self)
            .ok_or_else(|| InvalidDuration(text.to_owned()))
    }

    /// The span in the core's unit, rounded up to a millisecond; `None` unless it is longer than nothing.
    pub(crate) fn ttl(self) -> Option<Ttl> {
        u64::try_from(self.0)
            .ok()
            .filter(|&nanos| nanos > 0)
            .map(|nanos| Ttl(nanos.div_ceil(1_000_000)))
    }
}

impl From<Ttl> for GoDuration {
    fn from(ttl: Ttl) -> Self {
        Self(i64::try_from(u128::from(ttl.0) * 1_000_000).unwrap_or(i64::MAX))
    }
}

fn parse_nanos(text: &str) -> Option<i64> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if unsigned == "0" {
        return Some(0);
    }
    if unsigned.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    let mut rest = unsigned;
    while !rest.is_empty() {
        let (nanos, behind) = parse_term(rest)?;
        total = total.checked_add(nanos).filter(|&sum| sum <= BOUND)?;
        rest = behind;
    }
    if negative {
        0_i64.checked_sub_unsigned(total)
    } else {
        i64::try_from(total).ok()
    }
}

/// One number with its unit; gives what follows it.
fn parse_term(text: &str) -> Option<(u64, &str)> {
    let (whole, rest) = digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => digits(rest),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let unit_end = rest
        .find(|c: char| c == '.' || c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (name, rest) = rest.split_at(unit_end);
    let unit = UNITS.iter().find(|(unit, _)| *unit == name)?.1;
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let nanos = whole
        .checked_mul(unit)?
        .checked_add(fraction_of(unit, fraction))?;
    (nanos <= BOUND).then_some((nanos, rest))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// `0.fraction` of a unit, in floating point as Go does it, so that both round alike.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "less than one unit, and cut off to whole nanoseconds"
)]
fn fraction_of(unit: u64, fraction: &str) -> u64 {
    let (mut number, mut scale) = (0_u64, 1.0_f64);
    for digit in fraction.bytes() {
        // Digits that don't fit are too small to matter.
        let Some(next) = number
            .checked_mul(10)
            .and_then(|n| n.checked_add(u64::from(digit - b'0')))
        else {
            break;
        };
        if next > BOUND {
            break;
        }
        (number, scale) = (next, scale * 10.0);
    }
    (number as f64 * (unit as f64 / scale)) as u64
}

impl fmt::Display for GoDuration {
    /// As Go prints it: `1h0m0s`, `1m30s`, `1.5s`, `100ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => write!(f, "{}\u{b5}s", decimal(nanos, 1_000)),
            1_000_000..1_000_000_000 => write!(f, "{}ms", decimal(nanos, 1_000_000)),
            _ => {
                let minutes = nanos / 60_000_000_000;
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                write!(f, "{}s", decimal(nanos % 60_000_000_000, 1_000_000_000))
            }
        }
    }
}

/// `nanos / unit` without trailing zeros.
fn decimal(nanos: u64, unit: u64) -> String {
    let width = unit.ilog10() as usize;
    let text = format!("{}.{:0width$}", nanos / unit, nanos % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl<'de> Deserialize<'de> for GoDuration {
    /// A Go duration string, or a number of nanoseconds. An empty string is no time, as for Consul.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Nanos(i64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Nanos(nanos) => Ok(Self(nanos)),
            Written::Text(text) if text.is_empty() => Ok(Self(0)),
            Written::Text(text) => Self::parse(&text).map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        let cases = [
            ("0", 0),
            ("5s", 5_000_000_000),
            ("+5s", 5_000_000_000),
            ("-5s", -5_000_000_000),
            ("-0", 0),
            ("5.s", 5_000_000_000),
            (".5s", 500_000_000),
            ("1.004s", 1_004_000_000),
            ("1m30s", 90_000_000_000),
            ("3h30m", 12_600_000_000_000),
            ("39h9m14.425s", 140_954_425_000_000),
            ("10.5s4m", 250_500_000_000),
            ("12\u{b5}s", 12_000),
            ("12\u{3bc}s", 12_000),
            ("11us9ns", 11_009),
            ("0.3333333333333333333h", 1_200_000_000_000),
            ("0.100000000000000000000h", 360_000_000_000),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ];
        for (text, nanos) in cases {
            assert_eq!(GoDuration::parse(text), Ok(GoDuration(nanos)), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        let cases = [
            "",
            "3",
            "-",
            "s",
            ".",
            "-.",
            ".s",
            "+.s",
            "1d",
            "1 s",
            "1s ",
            "1S",
            "--1s",
            "9223372036854775808ns",
            "3000000h",
            "1e3s",
        ];
        for text in cases {
            assert!(GoDuration::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prints_as_go_prints() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1\u{b5}s"),
            (2_200_000, "2.2ms"),
            (100_000_000, "100ms"),
            (3_300_000_000, "3.3s"),
            (60_000_000_000, "1m0s"),
            (245_000_000_000, "4m5s"),
            (3_600_000_000_000, "1h0m0s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (-90_000_000_000, "-1m30s"),
        ];
        for (nanos, text) in cases {
            assert_eq!(GoDuration(nanos).to_string(), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_printed_is_read_back(nanos: i64) {
            proptest::prop_assert_eq!(GoDuration::parse(&GoDuration(nanos).to_string()), Ok(GoDuration(nanos)));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[-+0-9.a-z\u{b5}]{0,24}") {
            let _ = GoDuration::parse(&text);
        }
    }

    #[test]
    fn a_number_is_nanoseconds() {
        assert_eq!(
            serde_json::from_str::<GoDuration>("15000000000").unwrap(),
            GoDuration(15_000_000_000)
        );
        assert_eq!(
            serde_json::from_str::<GoDuration>("\"15s\"").unwrap(),
            GoDuration(15_000_000_000)
        );
        assert!(serde_json::from_str::<GoDuration>("\"15\"").is_err());
        assert!(serde_json::from_str::<GoDuration>("[]").is_err());
    }
}
