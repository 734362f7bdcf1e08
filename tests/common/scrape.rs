//! Single numbers of `GET /metrics`.

use std::io::{Read, Write};
use std::net::SocketAddr;

use super::net;
use super::ringlb::Ringlb;

/// The body of the answer to a request for `path`, with its status.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = net::connect(address);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: ringlb\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// The sum of the series of that name with this label, written `label="value"` (or "").
pub fn metric(ringlb: &Ringlb, name: &str, label: &str) -> f64 {
    let (status, text) = get(ringlb.metrics_address(), "/metrics");
    assert_eq!(status, 200, "{text}");
    let fits = |series: &str| series.split(['{', ' ']).next() == Some(name) && series.contains(label);
    let numbers = text.lines().filter(|line| fits(line)).filter_map(|line| line.rsplit_once(' '));
    numbers.map(|(_, number)| number.parse::<f64>().expect("a number")).sum()
}
