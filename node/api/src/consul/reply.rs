//! What goes back: a status, header lines, and a body that is in memory as a whole, so that its length is known.

use std::io::Write;

use axum::body::Body;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::limits;

/// An answer to a request.
#[derive(Debug)]
pub(crate) struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    /// Nothing but a status.
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// A plain text.
    pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self::bytes(status, "text/plain; charset=utf-8", Bytes::from(text.into()))
    }

    /// Bytes of some type.
    pub(crate) fn bytes(status: StatusCode, content_type: &'static str, body: Bytes) -> Self {
        let reply = Self {
            status,
            headers: HeaderMap::new(),
            body,
        };
        reply.with(header::CONTENT_TYPE, HeaderValue::from_static(content_type))
    }

    /// A value as JSON, indented if the client wants to read it.
    pub(crate) fn json(status: StatusCode, value: &impl Serialize, pretty: bool) -> Self {
        let mut body = Vec::new();
        let written = if pretty {
            let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut body, formatter))
        } else {
            serde_json::to_writer(&mut body, value)
        };
        written.expect("the wire types have string keys and write to memory");
        if pretty {
            body.push(b'\n');
        }
        Self::bytes(status, "application/json", body.into())
    }

    /// The same with one header line more.
    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The same with header lines more.
    pub(crate) fn with_all(mut self, headers: HeaderMap) -> Self {
        self.headers.extend(headers);
        self
    }

    /// Packed if it is long and the client takes it so.
    pub(crate) fn packed(mut self, request: &HeaderMap) -> Self {
        if self.body.len() <= limits::GZIP_BYTES_MIN || !accepts_gzip(request) {
            return self;
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let packed = encoder.write_all(&self.body).and_then(|()| encoder.finish());
        self.body = packed.expect("writes to memory").into();
        self.with(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))
    }

    /// The form that goes over the wire.
    pub(crate) fn into_response(self) -> Response<Body> {
        let length = HeaderValue::from(self.body.len());
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
        response
            .headers_mut()
            .insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        response
    }
}

fn accepts_gzip(request: &HeaderMap) -> bool {
    let offers = request
        .get_all(header::ACCEPT_ENCODING)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    offers.flat_map(|line| line.split(',')).any(|offer| {
        let (coding, quality) = offer.split_once(';').unwrap_or((offer, "q=1"));
        let refused = quality
            .trim()
            .strip_prefix("q=")
            .is_some_and(|q| q.trim().parse() == Ok(0.0));
        coding.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(accept: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(accept))])
    }

    #[test]
    fn only_long_bodies_are_packed_and_only_for_those_who_take_it() {
        let long = || Reply::text(StatusCode::OK, "x".repeat(limits::GZIP_BYTES_MIN + 1));
        for accept in ["gzip", "deflate, GZIP;q=0.5"] {
            let packed = long().packed(&request(accept));
            assert_eq!(packed.headers[header::CONTENT_ENCODING], "gzip", "{accept}");
            assert!(packed.body.len() < 100, "{accept}");
        }
        for accept in ["", "br", "gzip;q=0", "identity, gzip; q=0.0"] {
            assert!(
                long()
                    .packed(&request(accept))
                    .headers
                    .get(header::CONTENT_ENCODING)
                    .is_none(),
                "{accept}"
            );
        }
        let short = Reply::text(StatusCode::OK, "x".repeat(limits::GZIP_BYTES_MIN)).packed(&request("gzip"));
        assert!(short.headers.get(header::CONTENT_ENCODING).is_none());
    }
}
