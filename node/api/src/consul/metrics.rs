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
        return Ok(Reply::bytes(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            Bytes::from(text),
        ));
    }
    let samples: Vec<Sample<'_>> = text.lines().filter_map(Sample::parse).collect();
    let kinds = kinds(&text);
    let counts = |sample: &&Sample<'_>| kinds.get(sample.family()).is_some_and(|kind| *kind != "gauge");
    let gauges = samples.iter().filter(|sample| !counts(sample)).map(GaugeWire::of);
    Ok(call.json(&MetricsWire {
        timestamp: rfc3339(host.wall()),
        gauges: gauges
            .chain(memory(&samples, call.settings().node.as_str()))
            .collect(),
        points: [],
        counters: samples.iter().filter(counts).map(CounterWire::of).collect(),
        samples: [],
    }))
}

/// The gauge by which clients know that it is Consul's list.
fn memory<'a>(samples: &'a [Sample<'a>], node: &str) -> Option<GaugeWire<'a>> {
    let memory = samples
        .iter()
        .find(|sample| sample.name == "process_resident_memory_bytes")?;
    Some(GaugeWire {
        name: format!("consul.{node}.runtime.alloc_bytes").into(),
        ..GaugeWire::of(memory)
    })
}

/// A line of Prometheus' text format.
#[derive(Debug, PartialEq)]
struct Sample<'a> {
    name: &'a str,
    labels: BTreeMap<&'a str, String>,
    value: f64,
}

impl<'a> Sample<'a> {
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

    /// The name under which its kind is declared.
    fn family(&self) -> &'a str {
        ["_bucket", "_sum", "_count", "_total"]
            .iter()
            .find_map(|ending| self.name.strip_suffix(ending))
            .unwrap_or(self.name)
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

fn kinds(text: &str) -> BTreeMap<&str, &str> {
    let declared = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    // A counter is declared with or without its ending.
    declared
        .map(|(name, kind)| (name.strip_suffix("_total").unwrap_or(name), kind))
        .collect()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MetricsWire<'a> {
    timestamp: String,
    gauges: Vec<GaugeWire<'a>>,
    points: [(); 0],
    counters: Vec<CounterWire<'a>>,
    samples: [(); 0],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GaugeWire<'a> {
    name: Cow<'a, str>,
    value: f64,
    labels: &'a BTreeMap<&'a str, String>,
}

impl<'a> GaugeWire<'a> {
    fn of(sample: &'a Sample<'_>) -> Self {
        Self {
            name: sample.name.into(),
            value: sample.value,
            labels: &sample.labels,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CounterWire<'a> {
    name: &'a str,
    count: f64,
    sum: f64,
    labels: &'a BTreeMap<&'a str, String>,
}

impl<'a> CounterWire<'a> {
    fn of(sample: &'a Sample<'_>) -> Self {
        Self {
            name: sample.name,
            count: sample.value,
            sum: sample.value,
            labels: &sample.labels,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_their_labels() {
        let sample = Sample::parse(r#"spine_requests_total{dialect="consul",path="a\"b\\c,}"} 12"#).unwrap();
        assert_eq!(sample.name, "spine_requests_total");
        assert_eq!(sample.family(), "spine_requests");
        assert_eq!(sample.labels["path"], r#"a"b\c,}"#);
        assert!((sample.value - 12.0).abs() < f64::EPSILON);
        assert_eq!(Sample::parse("up 1 1700000000").unwrap().labels.len(), 0);
        for line in [
            "",
            "# HELP up x",
            "up",
            "up{",
            "up{a=\"} 1",
            "up NaN",
            "up{a=\"b\"}",
        ] {
            assert_eq!(Sample::parse(line), None, "{line}");
        }
    }
}
