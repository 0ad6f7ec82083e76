//! Request bodies as Consul's clients write them.
//!
//! Field names are matched without regard to case or underscores, for clients send `Name`, `name`, `ServiceID`,
//! `service_id`. So a body is read as JSON first, the names of its fields are folded, and the structures below are
//! taken from that. Maps whose keys are the client's own (metadata, header lines) are left as they are. A `null`
//! is as good as nothing, and unknown fields are ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{duration::GoDuration, error::Failure};

/// Reads a body.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    let refuse = |error: serde_json::Error| Failure::Decode(error.to_string());
    let value: Value = serde_json::from_slice(body).map_err(refuse)?;
    // A list would be taken for the fields in order.
    if !value.is_object() {
        return Err(Failure::Decode("the body is not a JSON object".into()));
    }
    serde_json::from_value(fold(value)).map_err(refuse)
}

/// Reads a body that is a list of objects.
pub(crate) fn decode_list<T: DeserializeOwned>(body: &[u8]) -> Result<Vec<T>, String> {
    let refuse = |error: serde_json::Error| error.to_string();
    let elements: Vec<Map<String, Value>> = serde_json::from_slice(body).map_err(refuse)?;
    let elements = elements.into_iter().map(|element| fold(Value::Object(element)));
    elements
        .map(|element| serde_json::from_value(element).map_err(refuse))
        .collect()
}

/// Fields whose value is a map with keys of the client's own to values that have no field names.
const CLIENTS_MAPS: [&str; 3] = ["meta", "nodemeta", "header"];
/// The one map with keys of the client's own to structures.
const TAGGED_ADDRESSES: &str = "taggedaddresses";

fn fold(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(fields.into_iter().filter_map(fold_field).collect()),
        Value::Array(elements) => Value::Array(elements.into_iter().map(fold).collect()),
        other => other,
    }
}

fn fold_field((name, value): (String, Value)) -> Option<(String, Value)> {
    if value.is_null() {
        return None;
    }
    let mut name = name.replace('_', "");
    name.make_ascii_lowercase();
    let value = match value {
        value if CLIENTS_MAPS.contains(&name.as_str()) => value,
        Value::Object(addresses) if name == TAGGED_ADDRESSES => {
            let folded: Map<_, _> = addresses
                .into_iter()
                .map(|(key, value)| (key, fold(value)))
                .collect();
            Value::Object(folded)
        }
        value => fold(value),
    };
    Some((name, value))
}

/// A service: of `agent/service/register`, where its name is `Name`, and of `catalog/register`, where it is `Service`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceBody {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) service: String,
    pub(crate) kind: String,
    pub(crate) tags: Vec<String>,
    pub(crate) address: String,
    pub(crate) port: u16,
    pub(crate) taggedaddresses: BTreeMap<String, AddressBody>,
    pub(crate) socketpath: String,
    pub(crate) meta: BTreeMap<String, String>,
    pub(crate) weights: Option<WeightsBody>,
    pub(crate) enabletagoverride: bool,
    pub(crate) proxy: Option<Value>,
    pub(crate) connect: Option<Value>,
    pub(crate) check: Option<CheckBody>,
    pub(crate) checks: Vec<CheckBody>,
    /// Of transactions alone.
    pub(crate) modifyindex: u64,
}

/// An address with a port.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AddressBody {
    pub(crate) address: String,
    pub(crate) port: u16,
}

/// Weights; what is left out of the structure is 0, as for Consul.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WeightsBody {
    pub(crate) passing: u16,
    pub(crate) warning: u16,
}

/// A check that an agent is to keep: of `agent/check/register`, or within a service.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "the wire's fields")]
pub(crate) struct CheckBody {
    pub(crate) id: String,
    pub(crate) checkid: String,
    pub(crate) name: String,
    pub(crate) notes: String,
    pub(crate) status: String,
    pub(crate) serviceid: String,
    pub(crate) ttl: GoDuration,
    pub(crate) http: String,
    pub(crate) tcp: String,
    pub(crate) grpc: String,
    pub(crate) udp: String,
    pub(crate) h2ping: String,
    pub(crate) osservice: String,
    pub(crate) dockercontainerid: String,
    pub(crate) shell: String,
    pub(crate) aliasnode: String,
    pub(crate) aliasservice: String,
    pub(crate) args: Vec<String>,
    pub(crate) scriptargs: Vec<String>,
    pub(crate) script: String,
    pub(crate) interval: GoDuration,
    pub(crate) timeout: GoDuration,
    pub(crate) method: String,
    pub(crate) header: BTreeMap<String, Vec<String>>,
    pub(crate) body: String,
    pub(crate) tlsservername: String,
    pub(crate) tlsskipverify: bool,
    pub(crate) disableredirects: bool,
    pub(crate) tcpusetls: bool,
    pub(crate) grpcusetls: bool,
    pub(crate) deregistercriticalserviceafter: GoDuration,
    pub(crate) successbeforepassing: u32,
    pub(crate) failuresbeforewarning: u32,
    pub(crate) failuresbeforecritical: u32,
}

/// The body of `agent/check/update`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CheckUpdateBody {
    pub(crate) status: String,
    pub(crate) output: String,
}

/// The body of `catalog/register`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RegisterBody {
    pub(crate) datacenter: String,
    pub(crate) id: String,
    pub(crate) node: String,
    pub(crate) address: String,
    pub(crate) taggedaddresses: BTreeMap<String, String>,
    pub(crate) nodemeta: BTreeMap<String, String>,
    pub(crate) service: Option<ServiceBody>,
    pub(crate) check: Option<CatalogCheckBody>,
    pub(crate) checks: Vec<CatalogCheckBody>,
    pub(crate) skipnodeupdate: bool,
}

/// A check whose state somebody else finds out and registers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CatalogCheckBody {
    pub(crate) node: String,
    pub(crate) checkid: String,
    pub(crate) name: String,
    pub(crate) notes: String,
    pub(crate) status: String,
    pub(crate) output: String,
    pub(crate) serviceid: String,
    /// Of transactions alone.
    pub(crate) modifyindex: u64,
}

/// The body of `catalog/deregister`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DeregisterBody {
    pub(crate) datacenter: String,
    pub(crate) node: String,
    pub(crate) serviceid: String,
    pub(crate) checkid: String,
}

/// The body that the mount `/hex` takes.
#[derive(Debug, Deserialize)]
pub(crate) struct HexBody {
    pub(crate) value: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_names_are_matched_without_case_and_underscores() {
        for body in [
            r#"{"Name":"web","EnableTagOverride":true,"Check":{"DeregisterCriticalServiceAfter":"1m","TTL":"10s"}}"#,
            r#"{"name":"web","enabletagoverride":true,"check":{"deregistercriticalserviceafter":"1m","ttl":"10s"}}"#,
            r#"{"name":"web","enable_tag_override":true,"check":{"deregister_critical_service_after":"60s","ttl":10000000000}}"#,
        ] {
            let service: ServiceBody = decode(body.as_bytes()).unwrap();
            assert_eq!(service.name, "web");
            assert!(service.enabletagoverride);
            let check = service.check.unwrap();
            assert_eq!(check.ttl, GoDuration(10_000_000_000));
            assert_eq!(check.deregistercriticalserviceafter, GoDuration(60_000_000_000));
        }
    }

    #[test]
    fn keys_of_the_clients_own_are_left_alone() {
        let body = r#"{"Meta":{"My_Key":"A"},"Tagged_Addresses":{"LAN_v4":{"Address":"a","Port":1}},
            "Check":{"Header":{"X-My_Header":["B"]}}}"#;
        let service: ServiceBody = decode(body.as_bytes()).unwrap();
        assert_eq!(service.meta["My_Key"], "A");
        assert_eq!(service.taggedaddresses["LAN_v4"].port, 1);
        assert_eq!(service.check.unwrap().header["X-My_Header"], ["B"]);
        let register: RegisterBody =
            decode(br#"{"Node_Meta":{"A_b":"c"},"TaggedAddresses":{"Wan_v6":"::1"}}"#).unwrap();
        assert_eq!(register.nodemeta["A_b"], "c");
        assert_eq!(register.taggedaddresses["Wan_v6"], "::1");
    }

    #[test]
    fn null_is_nothing_and_unknown_fields_are_ignored() {
        let service: ServiceBody =
            decode(br#"{"Name":"web","Tags":null,"Check":null,"Proxy":null,"Whatever":{"x":[1]}}"#).unwrap();
        assert!(service.tags.is_empty() && service.check.is_none() && service.proxy.is_none());
    }

    #[test]
    fn what_is_no_body_is_refused() {
        for body in [
            "",
            "{",
            "[]",
            "3",
            "{\"Port\":\"80\"}",
            "{\"Port\":65536}",
            "{\"Tags\":[1]}",
            "{\"Check\":{\"TTL\":\"10\"}}",
        ] {
            let error = decode::<ServiceBody>(body.as_bytes()).unwrap_err();
            assert!(
                error.to_string().starts_with("Request decode failed: "),
                "{body}: {error}"
            );
        }
        assert!(decode::<ServiceBody>("[".repeat(100_000).as_bytes()).is_err());
    }
}
