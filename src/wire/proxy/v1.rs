//! Version 1: one line of text, `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443` and CR LF.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{Command, Endpoint, Header, Parsed, Reason, begins};

pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// The longest line, its end included.
pub(super) const LINE_BYTES_MAX: usize = 107;

/// The shortest: `PROXY UNKNOWN` and its end.
pub(super) const LINE_BYTES_MIN: usize = 15;

const TCP4: &[u8] = b"TCP4 ";
const TCP6: &[u8] = b"TCP6 ";
const END: &[u8] = b"\r\n";
const NOBODY: &[u8; LINE_BYTES_MIN] = b"PROXY UNKNOWN\r\n";

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    match checked(bytes) {
        Ok(Some(header)) => Parsed::Header(header),
        Ok(None) => Parsed::Incomplete { need: LINE_BYTES_MIN.max(bytes.len() + 1) },
        Err(reason) => Parsed::Invalid(reason),
    }
}

pub(super) fn write(command: &Command) -> Vec<u8> {
    let Command::Proxy { source: Endpoint::Inet(source), destination: Endpoint::Inet(destination) } = command else {
        return NOBODY.to_vec();
    };
    let (from, to) = (source.port(), destination.port());
    let line = match (source, destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            format!("PROXY TCP4 {} {} {from} {to}\r\n", source.ip(), destination.ip())
        }
        (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
            format!("PROXY TCP6 {} {} {from} {to}\r\n", hexadecimal(source.ip()), hexadecimal(destination.ip()))
        }
        _ => return NOBODY.to_vec(),
    };
    line.into_bytes()
}

#[derive(Copy, Clone)]
enum Family {
    Tcp4,
    Tcp6,
    Unknown,
}

/// `None`: it may become a header.
fn checked(bytes: &[u8]) -> Result<Option<Header>, Reason> {
    if !begins(bytes, SIGNATURE).ok_or(Reason::NoHeader)? {
        return Ok(None);
    }
    let rest = &bytes[SIGNATURE.len()..bytes.len().min(LINE_BYTES_MAX)];
    let Some(family) = family(rest)? else { return Ok(None) };
    let end = match family {
        Family::Tcp4 | Family::Tcp6 => line_end(rest)?,
        // Anything may stand in this line, lone CRs and LFs as well.
        Family::Unknown => rest.windows(END.len()).position(|window| window == END),
    };
    let Some(end) = end else {
        return if bytes.len() < LINE_BYTES_MAX { Ok(None) } else { Err(Reason::V1Line) };
    };
    let command = match family {
        Family::Tcp4 => proxy(&rest[TCP4.len()..end], ipv4)?,
        Family::Tcp6 => proxy(&rest[TCP6.len()..end], ipv6)?,
        Family::Unknown => Command::Unknown,
    };
    Ok(Some(Header { bytes: SIGNATURE.len() + end + END.len(), command }))
}

fn family(rest: &[u8]) -> Result<Option<Family>, Reason> {
    let words =
        [(TCP4, Family::Tcp4), (TCP6, Family::Tcp6), (b"UNKNOWN ", Family::Unknown), (b"UNKNOWN\r\n", Family::Unknown)];
    let mut possible = false;
    for (word, family) in words {
        match begins(rest, word) {
            Some(true) => return Ok(Some(family)),
            Some(false) => possible = true,
            None => {}
        }
    }
    if possible { Ok(None) } else { Err(Reason::V1Protocol) }
}

/// Where the line's end begins. A CR or LF that is not part of it may not stand in the line.
fn line_end(rest: &[u8]) -> Result<Option<usize>, Reason> {
    let Some(at) = rest.iter().position(|byte| END.contains(byte)) else { return Ok(None) };
    match begins(&rest[at..], END) {
        Some(whole) => Ok(whole.then_some(at)),
        None => Err(Reason::V1Line),
    }
}

fn proxy(fields: &[u8], ip: fn(&str) -> Option<IpAddr>) -> Result<Command, Reason> {
    let mut fields = fields.split(|byte| *byte == b' ');
    let mut next = || fields.next().ok_or(Reason::V1Fields);
    let [source, destination, from, to] = [next()?, next()?, next()?, next()?];
    if fields.next().is_some() {
        return Err(Reason::V1Fields);
    }
    let endpoint = |address: &[u8], number: &[u8]| -> Result<Endpoint, Reason> {
        let ip = std::str::from_utf8(address).ok().and_then(ip).ok_or(Reason::V1Address)?;
        Ok(Endpoint::Inet(SocketAddr::new(ip, port(number).ok_or(Reason::V1Port)?)))
    };
    Ok(Command::Proxy { source: endpoint(source, from)?, destination: endpoint(destination, to)? })
}

/// The standard library reads exactly four numbers up to 255, without leading zeros.
fn ipv4(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(IpAddr::V4)
}

/// The standard library reads groups of up to four digits and one double colon; also the dotted end of a mapped
/// address, which is how the C library of most senders writes it.
fn ipv6(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(IpAddr::V6)
}

fn port(text: &[u8]) -> Option<u16> {
    let leading_zero = text.len() > 1 && text[0] == b'0';
    if text.is_empty() || leading_zero || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The address in groups of hexadecimal digits alone: a mapped IPv4 address would have a dotted end, of which the
/// specification knows nothing.
fn hexadecimal(ip: &Ipv6Addr) -> String {
    match ip.to_ipv4_mapped() {
        Some(_) => {
            let [.., high, low] = ip.segments();
            format!("::ffff:{high:x}:{low:x}")
        }
        None => ip.to_string(),
    }
}
