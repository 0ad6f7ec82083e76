//! `/v1/agent/metrics`: the node's metrics as Prometheus reads them, or in Consul's JSON.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use super::{
    call::{Call, Handled},
    moment::rfc3339,
    reply::Reply,
};

/// Every metric.
pub(crate) async fn all(call: Call) -> Handled {
    let host = &call.settings().host;
    let text = host.metrics();
    if call.params.first("format") == Some("prometheus") {
        let media_type = "text/plain; version=0.0.4; charset=utf-8";
        return Ok(Reply::bytes(StatusCode::OK, media_type, Bytes::from(text)));
    }
    let lines: Vec<Line<'_>> = text.lines().filter_map(Line::parse).collect();
    let kinds = &kinds(&text);
    let of_kind = |wanted: Kind| lines.iter().filter(move |line| kinds.of(line) == wanted);
    Ok(call.json(&MetricsWire {
        timestamp: rfc3339(host.wall()),
        gauges: of_kind(Kind::Gauge)
            .map(GaugeWire::of)
            .chain(memory(&lines, call.settings().node.as_str()))
            .collect(),
        points: [],
        counters: of_kind(Kind::Counter).map(SampledWire::counter).collect(),
        samples: of_kind(Kind::Distribution)
            .filter_map(|count| SampledWire::distribution(count, &lines))
            .collect(),
    }))
}

/// The gauge by which clients know that it is Consul's list.
fn memory<'a>(lines: &'a [Line<'a>], node: &str) -> Option<GaugeWire<'a>> {
    let memory = lines
        .iter()
        .find(|line| line.name == "process_resident_memory_bytes")?;
    let name = format!("consul.{node}.runtime.alloc_bytes").into();
    Some(GaugeWire {
        name,
        ..GaugeWire::of(memory)
    })
}

/// A line of Prometheus' text format.
#[derive(Debug, PartialEq)]
struct Line<'a> {
    name: &'a str,
    labels: BTreeMap<&'a str, String>,
    value: f64,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let name_end = line.find(['{', ' ']).filter(|_| !line.starts_with('#'))?;
        let (name, rest) = line.split_at(name_end);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            None => (BTreeMap::new(), rest),
        };
        let value: f64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
        // JSON knows no other numbers.
        value.is_finite().then_some(Self { name, labels, value })
    }
}

/// Reads `name="value",…}`; gives what follows.
fn labels(mut rest: &str) -> Option<(BTreeMap<&str, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let (value, behind) = unquote(quoted)?;
        labels.insert(name, value);
        rest = behind;
    }
}

fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            c => value.push(c),
        }
    }
    None
}

/// What a line is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gauge,
    Counter,
    /// The number of values of a histogram; its sum is found from there.
    Distribution,
    /// Another line of a histogram.
    Part,
}

/// The kinds that the text declares, by family.
struct Kinds<'a>(BTreeMap<&'a str, &'a str>);

fn kinds(text: &str) -> Kinds<'_> {
    let declared = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    // A counter is declared with or without its ending.
    Kinds(
        declared
            .map(|(name, kind)| (name.strip_suffix("_total").unwrap_or(name), kind))
            .collect(),
    )
}

impl Kinds<'_> {
    fn of(&self, line: &Line<'_>) -> Kind {
        let ending = ["_bucket", "_sum", "_count", "_total"]
            .into_iter()
            .find(|ending| line.name.ends_with(ending));
        let family = ending
            .and_then(|ending| line.name.strip_suffix(ending))
            .unwrap_or(line.name);
        match (self.0.get(family).copied(), ending) {
            (Some("counter"), _) => Kind::Counter,
            (Some("histogram" | "summary"), Some("_count")) => Kind::Distribution,
            (Some("histogram" | "summary"), _) => Kind::Part,
            _ => Kind::Gauge,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MetricsWire<'a> {
    timestamp: String,
    gauges: Vec<GaugeWire<'a>>,
    points: [(); 0],
    counters: Vec<SampledWire<'a>>,
    samples: Vec<SampledWire<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GaugeWire<'a> {
    name: Cow<'a, str>,
    value: f64,
    labels: &'a BTreeMap<&'a str, String>,
}

impl<'a> GaugeWire<'a> {
    fn of(line: &'a Line<'_>) -> Self {
        Self {
            name: line.name.into(),
            value: line.value,
            labels: &line.labels,
        }
    }
}

/// Since the start of the node; clients read the count as a whole number.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SampledWire<'a> {
    name: &'a str,
    count: u64,
    sum: f64,
    mean: f64,
    labels: &'a BTreeMap<&'a str, String>,
}

impl<'a> SampledWire<'a> {
    fn counter(line: &'a Line<'_>) -> Self {
        Self::of(line.name, line, line.value)
    }

    fn distribution(count: &'a Line<'_>, lines: &[Line<'_>]) -> Option<Self> {
        let family = count.name.strip_suffix("_count")?;
        let is_sum =
            |line: &&Line<'_>| line.name.strip_suffix("_sum") == Some(family) && line.labels == count.labels;
        Some(Self::of(family, count, lines.iter().find(is_sum)?.value))
    }

    fn of(name: &'a str, count: &'a Line<'_>, sum: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counts are whole, and not negative"
        )]
        let whole = count.value as u64;
        let mean = if whole == 0 { 0.0 } else { sum / count.value };
        Self {
            name,
            count: whole,
            sum,
            mean,
            labels: &count.labels,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_their_labels() {
        let line = Line::parse(r#"spine_requests_total{dialect="consul",path="a\"b\\c,}"} 12"#).unwrap();
        assert_eq!(line.name, "spine_requests_total");
        assert_eq!(line.labels["path"], r#"a"b\c,}"#);
        assert!((line.value - 12.0).abs() < f64::EPSILON);
        assert_eq!(Line::parse("up 1 1700000000").unwrap().labels.len(), 0);
        for line in [
            "",
            "# HELP up x",
            "up",
            "up{",
            "up{a=\"} 1",
            "up NaN",
            "up{a=\"b\"}",
        ] {
            assert_eq!(Line::parse(line), None, "{line}");
        }
    }

    #[test]
    fn the_kind_is_the_familys() {
        let kinds = kinds("# TYPE a counter\n# TYPE b histogram\n# TYPE c gauge\n# TYPE d_total counter\n");
        let cases = [
            ("a_total", Kind::Counter),
            ("d_total", Kind::Counter),
            ("b_bucket", Kind::Part),
            ("b_sum", Kind::Part),
            ("b_count", Kind::Distribution),
            ("c", Kind::Gauge),
            ("c_count", Kind::Gauge),
            ("undeclared", Kind::Gauge),
        ];
        for (name, kind) in cases {
            assert_eq!(
                kinds.of(&Line::parse(&format!("{name} 1")).unwrap()),
                kind,
                "{name}"
            );
        }
    }
}
