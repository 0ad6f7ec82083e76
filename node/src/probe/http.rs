//! The HTTP probe: 2xx passes, 429 warns, all else is critical, a redirect too: it is never followed, so that a target
//! can't send the server elsewhere.

use std::str::FromStr;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use spine_core::{HttpProbe, Status, limits::OUTPUT_BYTES_MAX};
use tokio::io::{AsyncRead, AsyncWrite};
use url::Url;

use super::{
    Finding,
    net::{DialError, NetProber},
    tls::Handshake,
};
use crate::limits::PROBE_HEAD_BYTES_MAX;

#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("invalid URL: {0}")]
    Url(#[from] url::ParseError),
    #[error("only http and https can be probed, not {0:?}")]
    Scheme(String),
    #[error("the URL has no host")]
    NoHost,
    #[error("invalid method {0:?}")]
    Method(String),
    #[error("invalid header {0:?}")]
    Header(String),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{}", deepest(.0))]
    Exchange(#[from] hyper::Error),
}

/// hyper says what it did, its source says what went wrong.
fn deepest(error: &hyper::Error) -> String {
    let cause = std::error::Error::source(error);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// How the output begins. A password in the URL is not shown.
pub(super) fn title(probe: &HttpProbe) -> String {
    let method = if probe.method.is_empty() {
        "GET"
    } else {
        &probe.method
    };
    let url = match Url::parse(&probe.url) {
        Ok(mut url) if url.password().is_some() => {
            // Can only fail for URLs that can't have a password.
            let _ = url.set_password(Some("..."));
            url.to_string()
        }
        _ => probe.url.to_string(),
    };
    format!("HTTP {method} {url}")
}

pub(super) async fn run(prober: &NetProber, probe: &HttpProbe) -> Finding {
    let title = title(probe);
    match ask(prober, probe).await {
        Ok((status, body)) => {
            let health = match status {
                StatusCode::TOO_MANY_REQUESTS => Status::Warning,
                status if status.is_success() => Status::Passing,
                _ => Status::Critical,
            };
            let body = String::from_utf8_lossy(&body);
            Finding::new(health, format!("{title}: {status} Output: {body}"))
        }
        Err(error) => Finding::critical(format!("{title}: {error}")),
    }
}

async fn ask(prober: &NetProber, probe: &HttpProbe) -> Result<(StatusCode, Bytes), ProbeError> {
    let url = Url::parse(&probe.url)?;
    let tls = match url.scheme() {
        "http" => false,
        "https" => true,
        other => return Err(ProbeError::Scheme(other.to_owned())),
    };
    let request = request(probe, &url)?;
    let host = url.host_str().ok_or(ProbeError::NoHost)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().ok_or(ProbeError::NoHost)?;
    let stream = prober.dial(host, port).await?;
    if !tls {
        return exchange(stream, request).await;
    }
    let name = if probe.tls_server_name.is_empty() {
        host
    } else {
        &probe.tls_server_name
    };
    let handshake = Handshake {
        name,
        protocol: b"http/1.1",
        verify: !probe.tls_skip_verify,
    };
    exchange(prober.tls.handshake(stream, handshake).await?, request).await
}

fn request(probe: &HttpProbe, url: &Url) -> Result<Request<Full<Bytes>>, ProbeError> {
    let method = if probe.method.is_empty() {
        "GET"
    } else {
        &probe.method
    };
    let method = Method::from_str(method).map_err(|_| ProbeError::Method(method.to_owned()))?;
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(probe.body.as_bytes())));
    *request.method_mut() = method;
    // A parsed URL's path and query are those of a URI; an empty path is "/".
    let target = url[url::Position::BeforePath..url::Position::AfterQuery].parse();
    *request.uri_mut() = target.map_err(|_| ProbeError::NoHost)?;
    *request.headers_mut() = headers(probe, url)?;
    Ok(request)
}

fn headers(probe: &HttpProbe, url: &Url) -> Result<HeaderMap, ProbeError> {
    let mut headers = HeaderMap::new();
    let own = |value: &str| HeaderValue::from_str(value).map_err(|_| ProbeError::NoHost);
    headers.insert(
        header::HOST,
        own(&url[url::Position::BeforeHost..url::Position::AfterPort])?,
    );
    headers.insert(header::USER_AGENT, HeaderValue::from_static("Spine Health Check"));
    headers.insert(
        header::ACCEPT,
        HeaderValue::from_static("text/plain, text/*, */*"),
    );
    if !url.username().is_empty() {
        let credentials = format!("{}:{}", url.username(), url.password().unwrap_or_default());
        headers.insert(
            header::AUTHORIZATION,
            own(&format!("Basic {}", BASE64_STANDARD.encode(credentials)))?,
        );
    }
    for (name, values) in &probe.header {
        let malformed = || ProbeError::Header(name.to_string());
        let name = HeaderName::from_str(name).map_err(|_| malformed())?;
        headers.remove(&name);
        for value in values {
            headers.append(&name, HeaderValue::from_str(value).map_err(|_| malformed())?);
        }
    }
    // One connection for one question, and its length is hyper's to say.
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::TRANSFER_ENCODING);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), ProbeError> {
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(PROBE_HEAD_BYTES_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        Ok((response.status(), beginning(response).await))
    };
    tokio::pin!(answer, connection);
    // The connection moves the bytes of the answer, so both go on at once, here, without a task of their own.
    tokio::select! {
        biased;
        answer = &mut answer => return answer,
        // It may end with all of the answer already here.
        _ = &mut connection => {}
    }
    answer.await
}

/// As much of the body as an output can hold. Whatever else the target sends, or fails to send, is not read: the status
/// line has said how it is.
async fn beginning(response: Response<Incoming>) -> Bytes {
    let mut body = response.into_body();
    let mut beginning = Vec::new();
    while beginning.len() < OUTPUT_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Ok(data) = frame.into_data() {
            let room = OUTPUT_BYTES_MAX - beginning.len();
            beginning.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    beginning.into()
}
