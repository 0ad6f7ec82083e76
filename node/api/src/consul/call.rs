//! One request, decoded as far as all of them are alike.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use spine_core::{Command, Outcome, Register, State};

use super::{
    Dialect, Settings,
    error::Failure,
    filter::{Fields, Filter},
    params::Params,
    reply::Reply,
    wire::Encoding,
};
use crate::registry::{Consistency, Context, Credential, Registry};

/// What a handler gives.
pub(crate) type Handled = Result<Reply, Failure>;

/// A request on its way to its handler.
pub(crate) struct Call {
    pub(crate) dialect: Arc<Dialect>,
    /// The path, as it came.
    pub(crate) path: String,
    /// What is behind the route in it.
    pub(crate) rest: String,
    pub(crate) params: Params,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// How the mount writes values.
    pub(crate) encoding: Encoding,
    pub(crate) peer: Option<Arc<str>>,
}

impl Call {
    pub(crate) fn registry(&self) -> &dyn Registry {
        &*self.dialect.registry
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.dialect.settings
    }

    pub(crate) fn datacenter(&self) -> &str {
        &self.dialect.settings.datacenter
    }

    /// The name at the end of the path, its escapes undone once; it may hold slashes.
    pub(crate) fn name(&self) -> Result<String, Failure> {
        let decoded = percent_decode_str(&self.rest).decode_utf8();
        decoded
            .map(std::borrow::Cow::into_owned)
            .map_err(|_| Failure::PathEncoding)
    }

    /// The name at the end of the path, which must not be empty.
    pub(crate) fn name_or(&self, missing: Failure) -> Result<String, Failure> {
        let name = self.name()?;
        if name.is_empty() { Err(missing) } else { Ok(name) }
    }

    /// Who asks, and how fresh a read must be.
    pub(crate) fn context(&self, consistency: Consistency) -> Context {
        Context {
            credential: credential(&self.params, &self.headers),
            peer: self.peer.clone(),
            consistency,
            ..Context::new(spine_core::Dialect::Consul)
        }
    }

    /// The present state of this server: what an agent knows of itself, leader or not.
    pub(crate) async fn local_state(&self) -> Result<Arc<State>, Failure> {
        Ok(self.registry().view(&self.context(Consistency::Stale)).await?)
    }

    /// Changes the state.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, Failure> {
        let applied = self
            .registry()
            .propose(&self.context(Consistency::Linearizable), command)
            .await?;
        Ok(applied.result?)
    }

    /// Registers; an unknown instance is then one that a check names.
    pub(crate) async fn propose_checks(&self, register: Register) -> Result<Outcome, Failure> {
        match self.propose(Command::Register(Box::new(register))).await {
            Err(Failure::UnknownServiceId(id)) => Err(Failure::NoServiceForCheck(id)),
            outcome => outcome,
        }
    }

    /// The filter, if there is one, over elements with these fields.
    pub(crate) fn filter(&self, fields: &'static Fields) -> Result<Keep, Failure> {
        let filter = self
            .params
            .text("filter")
            .map(|text| Filter::compile(text, fields))
            .transpose()?;
        Ok(Keep(filter))
    }

    /// A value as JSON.
    pub(crate) fn json(&self, value: &impl Serialize) -> Reply {
        self.json_with(StatusCode::OK, value)
    }

    /// A value as JSON with another status.
    pub(crate) fn json_with(&self, status: StatusCode, value: &impl Serialize) -> Reply {
        let pretty = self
            .params
            .first("pretty")
            .is_some_and(|value| !matches!(value, "0" | "false"));
        Reply::json(status, value, pretty)
    }
}

/// What a filter keeps; without one, everything.
pub(crate) struct Keep(Option<Filter>);

impl Keep {
    /// Whether an element is kept.
    pub(crate) fn holds(&self, element: &impl Serialize) -> bool {
        self.0.as_ref().is_none_or(|filter| filter.holds(element))
    }
}

/// The token; the first place that holds one wins.
fn credential(params: &Params, headers: &HeaderMap) -> Option<Credential> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = || {
        let (scheme, token) = header(header::AUTHORIZATION.as_str())?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    };
    let places = [params.text("token"), header("x-consul-token"), bearer()];
    let token = places.into_iter().flatten().find(|token| !token.is_empty())?;
    Some(Credential(token.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(query: &str, headers: &[(&'static str, &'static str)]) -> Option<String> {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (
                    (*name).parse().expect("a name"),
                    (*value).parse().expect("a value"),
                )
            })
            .collect();
        credential(&Params::parse(query), &headers).map(|Credential(token)| token.to_string())
    }

    #[test]
    fn the_first_place_that_holds_a_token_wins() {
        let all = [
            ("x-consul-token", "of-header"),
            ("authorization", "Bearer of-bearer"),
        ];
        assert_eq!(token("token=of-query", &all).as_deref(), Some("of-query"));
        assert_eq!(token("", &all).as_deref(), Some("of-header"));
        assert_eq!(token("token=", &all).as_deref(), Some("of-header"));
        assert_eq!(token("", &all[1..]).as_deref(), Some("of-bearer"));
        assert_eq!(token("", &[("authorization", "Basic b2Y6YmFzaWM=")]), None);
        assert_eq!(token("", &[("x-consul-token", "")]), None);
    }
}
