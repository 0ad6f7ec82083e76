//! Plain HTTP requests of the tests themselves, where no client of others is under test.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use reqwest::blocking::{Client, Response};
use serde_json::Value;

/// Longer than any server's own deadline, so that the server's answer is what a test sees.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The answer to `GET url`, or `None` if nobody answered.
pub fn get(url: &str) -> Option<Response> {
    client().get(url).send().ok()
}

/// The JSON body of a successful `GET url`.
pub fn get_json(url: &str) -> Option<Value> {
    let body = get(url)
        .filter(|answer| answer.status().is_success())?
        .text()
        .ok()?;
    serde_json::from_str(&body).ok()
}

/// Whether `GET url` is answered with success.
pub fn is_ok(url: &str) -> bool {
    get(url).is_some_and(|answer| answer.status().is_success())
}

/// The answer to `PUT url` with this body, or `None` if nobody answered.
pub fn put(url: &str, body: &str) -> Option<Response> {
    client().put(url).body(body.to_owned()).send().ok()
}

/// The answer to `POST url` with this body, or `None` if nobody answered.
pub fn post(url: &str, body: &str) -> Option<Response> {
    client().post(url).body(body.to_owned()).send().ok()
}

/// A metric of a server, one without labels.
pub fn metric(server: SocketAddr, name: &str) -> Option<f64> {
    let page = get(&format!("http://{server}/metrics"))?.text().ok()?;
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line?.parse().ok()
}

fn client() -> &'static Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        // The client insists on a provider even where no request is encrypted; a second installation changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::builder()
            .timeout(TIMEOUT)
            .no_proxy()
            // A server that was stopped and started again must not be met through a connection of before.
            .pool_max_idle_per_host(0)
            .build()
            .expect("a client without special settings can be built")
    })
}
