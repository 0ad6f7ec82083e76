//! The harness's own requests: one connection each, one thread, no cache in between. What they tell about a node is
//! never older than the call.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP's status.
    pub status: u16,
    /// Header lines as they came.
    headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Whether the server calls it a success.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as text; empty if it is none.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_default()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.filter_map(|line| line.split_once(": "));
        let answer = Self {
            status,
            headers: headers
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            body: bytes[end + 4..].to_vec(),
        };
        // A server that dies in the middle has not answered.
        let is_whole = answer
            .header("content-length")
            .is_none_or(|length| length.parse() == Ok(answer.body.len()));
        is_whole.then_some(answer)
    }
}

/// Asks for `path`; no part of the exchange may take longer than `patience`.
///
/// # Errors
/// No connection, no answer in time, or not the answer of an HTTP server.
pub fn get(server: SocketAddr, path: &str, patience: Duration) -> io::Result<Answer> {
    call(server, "GET", path, &[], patience)
}

/// Sends `body` to `path`; otherwise as [`get`].
///
/// # Errors
/// As [`get`]: the request may have had its effect nevertheless.
pub fn put(server: SocketAddr, path: &str, body: &[u8], patience: Duration) -> io::Result<Answer> {
    call(server, "PUT", path, body, patience)
}

fn call(server: SocketAddr, method: &str, path: &str, body: &[u8], patience: Duration) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    // By 1.0 the server closes at the end and does not cut the body into chunks.
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.0\r\nHost: {server}\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
    Answer::parse(&answer).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{server}{path}: no answer of HTTP"),
        )
    })
}

/// Bytes of an answer that are read.
const ANSWER_MAX: u64 = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::Answer;

    #[test]
    fn reads_an_answer_or_sees_that_it_is_none() {
        let whole = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nDate: today\r\n\r\nhi";
        let answer = Answer::parse(whole).unwrap();
        assert_eq!((answer.status, answer.text()), (200, "hi"));
        assert_eq!(answer.header("date"), Some("today"));
        assert_eq!(Answer::parse(&whole[..whole.len() - 1]), None, "broken off");
        assert_eq!(Answer::parse(b"SSH-2.0-OpenSSH\r\n\r\n"), None);
    }
}
