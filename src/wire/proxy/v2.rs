//! Version 2: a signature, two bytes of what and how, the length of the rest; then addresses, then extensions (TLV).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Command, Endpoint, Header, Parsed, Reason, UNIX_NAME_BYTES, UnixName, begins};
use crate::limits::PROXY_HEADER_BYTES_MAX;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and protocol, length.
pub(super) const PREAMBLE_BYTES: usize = 16;

const VERSION: u8 = 2;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;

const UNSPECIFIED: u8 = 0;
const INET: u8 = 1;
const INET6: u8 = 2;
const UNIX: u8 = 3;

const STREAM: u8 = 1;
const DATAGRAM: u8 = 2;

/// Type and length of an extension.
const EXTENSION_HEAD_BYTES: usize = 3;
const CHECKSUM: u8 = 3;

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    match checked(bytes) {
        Ok(Some(header)) => Parsed::Header(header),
        Ok(None) => Parsed::Incomplete { need: length(bytes).unwrap_or(PREAMBLE_BYTES) },
        Err(reason) => Parsed::Invalid(reason),
    }
}

pub(super) fn write(command: &Command) -> Vec<u8> {
    let (source, destination) = match command {
        Command::Local => return preamble(LOCAL, UNSPECIFIED, UNSPECIFIED, 0),
        Command::Unknown => return preamble(PROXY, UNSPECIFIED, UNSPECIFIED, 0),
        Command::Proxy { source, destination } => (source, destination),
    };
    match (source, destination) {
        (Endpoint::Inet(SocketAddr::V4(source)), Endpoint::Inet(SocketAddr::V4(destination))) => {
            let mut bytes = preamble(PROXY, INET, STREAM, address_bytes(INET));
            bytes.extend(source.ip().octets());
            bytes.extend(destination.ip().octets());
            bytes.extend(source.port().to_be_bytes());
            bytes.extend(destination.port().to_be_bytes());
            bytes
        }
        (Endpoint::Inet(SocketAddr::V6(source)), Endpoint::Inet(SocketAddr::V6(destination))) => {
            let mut bytes = preamble(PROXY, INET6, STREAM, address_bytes(INET6));
            bytes.extend(source.ip().octets());
            bytes.extend(destination.ip().octets());
            bytes.extend(source.port().to_be_bytes());
            bytes.extend(destination.port().to_be_bytes());
            bytes
        }
        (Endpoint::Unix(source), Endpoint::Unix(destination)) => {
            let mut bytes = preamble(PROXY, UNIX, STREAM, address_bytes(UNIX));
            bytes.extend(source.as_bytes());
            bytes.extend(destination.as_bytes());
            bytes
        }
        // The protocol has no pair of two families.
        _ => preamble(PROXY, UNSPECIFIED, UNSPECIFIED, 0),
    }
}

fn preamble(command: u8, family: u8, protocol: u8, rest: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PREAMBLE_BYTES + rest);
    bytes.extend(SIGNATURE);
    bytes.extend([VERSION << 4 | command, family << 4 | protocol]);
    bytes.extend((rest as u16).to_be_bytes());
    bytes
}

/// How long the whole header is, where enough of it is there to say.
fn length(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(PREAMBLE_BYTES - 2..PREAMBLE_BYTES)?;
    Some(PREAMBLE_BYTES + usize::from(u16::from_be_bytes([length[0], length[1]])))
}

/// `None`: it may become a header. Each check is made as soon as its byte is there, so that a stranger is told at once.
fn checked(bytes: &[u8]) -> Result<Option<Header>, Reason> {
    begins(bytes, SIGNATURE).ok_or(Reason::NoHeader)?;
    let Some(&what) = bytes.get(SIGNATURE.len()) else { return Ok(None) };
    let (version, command) = (what >> 4, what & 0x0f);
    if version != VERSION {
        return Err(Reason::V2Version);
    }
    if !matches!(command, LOCAL | PROXY) {
        return Err(Reason::V2Command);
    }
    let Some(&how) = bytes.get(SIGNATURE.len() + 1) else { return Ok(None) };
    let (family, protocol) = (how >> 4, how & 0x0f);
    // With LOCAL the family is to be ignored, whatever it is.
    if command == PROXY {
        if !matches!(family, UNSPECIFIED | INET | INET6 | UNIX) {
            return Err(Reason::V2Family);
        }
        if !matches!(protocol, UNSPECIFIED | STREAM | DATAGRAM) {
            return Err(Reason::V2Protocol);
        }
    }
    let Some(length) = length(bytes) else { return Ok(None) };
    if length > PROXY_HEADER_BYTES_MAX {
        return Err(Reason::V2Long);
    }
    let named = command == PROXY && family != UNSPECIFIED && protocol != UNSPECIFIED;
    if named && length < PREAMBLE_BYTES + address_bytes(family) {
        return Err(Reason::V2Short);
    }
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    let extensions = PREAMBLE_BYTES + address_bytes(family);
    match checksum(header, extensions) {
        Ok(at) => at.map_or(Ok(()), |at| verify(header, at))?,
        // Where no addresses are announced nothing tells what stands in their place: it is skipped.
        Err(reason) if named => return Err(reason),
        Err(_) => {}
    }
    let addresses = &header[PREAMBLE_BYTES..];
    let command = match (command, family, protocol) {
        (LOCAL, ..) => Command::Local,
        (_, INET, STREAM) => inet(addresses, |bytes: [u8; 4]| Ipv4Addr::from(bytes).into()).ok_or(Reason::V2Short)?,
        (_, INET6, STREAM) => inet(addresses, |bytes: [u8; 16]| Ipv6Addr::from(bytes).into()).ok_or(Reason::V2Short)?,
        (_, UNIX, STREAM) => unix(addresses).ok_or(Reason::V2Short)?,
        _ => Command::Unknown,
    };
    Ok(Some(Header { bytes: length, command }))
}

/// How many bytes the two addresses of a family take, their ports included.
const fn address_bytes(family: u8) -> usize {
    match family {
        INET => 2 * 4 + 2 * 2,
        INET6 => 2 * 16 + 2 * 2,
        UNIX => 2 * UNIX_NAME_BYTES,
        _ => 0,
    }
}

fn inet<const N: usize>(bytes: &[u8], ip: impl Fn([u8; N]) -> std::net::IpAddr) -> Option<Command> {
    let (source, rest) = bytes.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (from, rest) = rest.split_first_chunk::<2>()?;
    let (to, _) = rest.split_first_chunk::<2>()?;
    let endpoint =
        |bytes: &[u8; N], port: &[u8; 2]| Endpoint::Inet(SocketAddr::new(ip(*bytes), u16::from_be_bytes(*port)));
    Some(Command::Proxy { source: endpoint(source, from), destination: endpoint(destination, to) })
}

fn unix(bytes: &[u8]) -> Option<Command> {
    let (source, rest) = bytes.split_first_chunk()?;
    let (destination, _) = rest.split_first_chunk()?;
    let endpoint = |name: &[u8; UNIX_NAME_BYTES]| Endpoint::Unix(Box::new(UnixName(*name)));
    Some(Command::Proxy { source: endpoint(source), destination: endpoint(destination) })
}

/// Walks through the extensions, which begin at `at` and must fill the header exactly, and says where the checksum's
/// value stands, if there is one.
fn checksum(header: &[u8], mut at: usize) -> Result<Option<usize>, Reason> {
    let mut found = None;
    while at != header.len() {
        let head = header.get(at..at + EXTENSION_HEAD_BYTES).ok_or(Reason::V2Extensions)?;
        let bytes = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let value = at + EXTENSION_HEAD_BYTES;
        // With two checksums neither could be computed as the other demands.
        if head[0] == CHECKSUM && (bytes != size_of::<u32>() || found.replace(value).is_some()) {
            return Err(Reason::V2Extensions);
        }
        at = value + bytes;
    }
    Ok(found)
}

/// The checksum covers the whole header, with zeros in its own place.
fn verify(header: &[u8], at: usize) -> Result<(), Reason> {
    let (before, rest) = header.split_at(at);
    let (value, after) = rest.split_first_chunk::<4>().ok_or(Reason::V2Extensions)?;
    let sum = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    let sum = crc32c::crc32c_append(sum, after);
    if sum == u32::from_be_bytes(*value) { Ok(()) } else { Err(Reason::V2Checksum) }
}
