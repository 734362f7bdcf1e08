//! The parser against the specification, against its own writer, and against two independent implementations.

mod differential;
mod laws;
mod vectors;

use super::*;

fn inet(source: &str, destination: &str) -> Command {
    let endpoint = |text: &str| Endpoint::Inet(text.parse().unwrap());
    Command::Proxy { source: endpoint(source), destination: endpoint(destination) }
}

fn unix(source: &[u8], destination: &[u8]) -> Command {
    let endpoint = |name: &[u8]| Endpoint::Unix(Box::new(UnixName::new(name).unwrap()));
    Command::Proxy { source: endpoint(source), destination: endpoint(destination) }
}

/// A version 2 header whose length field says how much `rest` there is.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    v2_claiming(command, family, rest.len() as u16, rest)
}

fn v2_claiming(command: u8, family: u8, length: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend(length.to_be_bytes());
    bytes.extend(rest);
    bytes
}

/// An extension.
fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend(value);
    bytes
}

/// The header with the right checksum as its last extension.
fn with_checksum(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = v2(command, family, &[rest, &tlv(3, &[0; 4])].concat());
    let sum = crc32c::crc32c(&bytes).to_be_bytes();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&sum);
    bytes
}
