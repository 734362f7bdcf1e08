//! The admin API over its unix socket, by hand: what the product's own client does is not assumed.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::DEADLINE;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its header, as it came.
    pub header: String,
    /// Its body.
    pub text: String,
}

/// Connects, with a deadline on every later read and write.
pub fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap_or_else(|error| panic!("{}: {error}", socket.display()));
    stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
    stream.set_write_timeout(Some(DEADLINE)).expect("a write timeout");
    stream
}

/// One request on a connection of its own.
pub fn call(socket: &Path, method: &str, path: &str, body: &str) -> Answer {
    call_with(socket, method, path, "", body)
}

/// The same with further header lines, each with its end.
pub fn call_with(socket: &Path, method: &str, path: &str, lines: &str, body: &str) -> Answer {
    let mut stream = connect(socket);
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{lines}\r\n");
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).expect("a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (header, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {text}"));
    let status = header.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, header: header.to_owned(), text: body.to_owned() }
}

impl Answer {
    /// The body, of an answer with this status.
    #[track_caller]
    pub fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The code of a refusal with this status.
    #[track_caller]
    pub fn code(&self, status: u16) -> String {
        self.json(status)["error"]["code"].as_str().expect("a code").to_owned()
    }

    /// Its `ETag`.
    pub fn etag(&self) -> &str {
        self.header.lines().find_map(|line| line.strip_prefix("etag: ")).expect("an ETag")
    }
}

/// The names in a list of an answer.
pub fn names(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|name| name.as_str().expect("a name")).collect()
}
