//! The same bytes, read and written by two independent implementations.

use proptest::prelude::*;
use proxy_header::{ParseConfig, ProxiedAddress, ProxyHeader, Tlv};

use super::laws::{pair, stream};
use super::*;

fn endpoints(command: &Command) -> Option<(SocketAddr, SocketAddr)> {
    match command {
        Command::Proxy { source: Endpoint::Inet(source), destination: Endpoint::Inet(destination) } => {
            Some((*source, *destination))
        }
        _ => None,
    }
}

/// What `ppp` makes of a header: its length and the two addresses, if it has them.
fn by_ppp(bytes: &[u8]) -> Option<(usize, Option<(SocketAddr, SocketAddr)>)> {
    use ppp::v2::{Command, Protocol};
    match ppp::HeaderResult::parse(bytes) {
        ppp::HeaderResult::V1(header) => {
            let header = header.ok()?;
            let pair = match header.addresses {
                ppp::v1::Addresses::Unknown => None,
                ppp::v1::Addresses::Tcp4(ip) => Some((
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                )),
                ppp::v1::Addresses::Tcp6(ip) => Some((
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                )),
            };
            Some((header.header.len(), pair))
        }
        ppp::HeaderResult::V2(header) => {
            let header = header.ok()?;
            let pair = match header.addresses {
                ppp::v2::Addresses::IPv4(ip) => Some((
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                )),
                ppp::v2::Addresses::IPv6(ip) => Some((
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                )),
                ppp::v2::Addresses::Unspecified | ppp::v2::Addresses::Unix(_) => None,
            };
            // It leaves to its caller what to do with addresses that do not count.
            let counts = header.command == Command::Proxy && header.protocol == Protocol::Stream;
            Some((header.len(), pair.filter(|_| counts)))
        }
    }
}

/// What `proxy-header` makes of it.
fn by_proxy_header(bytes: &[u8]) -> Option<(usize, Option<(SocketAddr, SocketAddr)>)> {
    let (header, length) = ProxyHeader::parse(bytes, ParseConfig::default()).ok()?;
    let stream = |address: &&ProxiedAddress| address.protocol == proxy_header::Protocol::Stream;
    Some((length, header.proxied_address().filter(stream).map(|address| (address.source, address.destination))))
}

/// Headers that are right by the specification and that the others refuse all the same.
fn ppp_refuses(bytes: &[u8], command: &Command) -> bool {
    // It wants addresses where they do not count: in LOCAL, and behind a protocol that is not specified. And it does not
    // let a line of UNKNOWN hold what is no text, or a lone CR.
    let idle = bytes[0] == b'\r' && (*command == Command::Local || bytes[13] & 0x0f == 0);
    idle || bytes.starts_with(b"PROXY UNKNOWN")
}

fn proxy_header_refuses(bytes: &[u8], command: &Command) -> bool {
    // Likewise; and it knows the usual pairs of family and protocol only.
    let unusual = bytes[0] == b'\r' && *command == Command::Unknown;
    *command == Command::Local || unusual || bytes.starts_with(b"PROXY UNKNOWN")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever is a header to us is one to the others, of the same length and with the same addresses.
    #[test]
    fn what_we_accept_others_read_alike(bytes in stream()) {
        let Parsed::Header(header) = parse(&bytes) else { return Ok(()) };
        let ours = (header.bytes, endpoints(&header.command));
        match by_ppp(&bytes) {
            Some(theirs) => prop_assert_eq!(ours, theirs),
            None => prop_assert!(ppp_refuses(&bytes, &header.command), "ppp refuses {bytes:?}"),
        }
        match by_proxy_header(&bytes) {
            Some(theirs) => prop_assert_eq!(ours, theirs),
            None => prop_assert!(proxy_header_refuses(&bytes, &header.command), "proxy-header refuses {bytes:?}"),
        }
    }

    /// What the others write is a header to us, and says the same.
    #[test]
    fn what_others_write_we_read_alike((source, destination) in pair(), id in proptest::collection::vec(any::<u8>(), 0..64)) {
        let expected = Command::Proxy { source: Endpoint::Inet(source), destination: Endpoint::Inet(destination) };
        let addresses = (source, destination);
        let mut headers = Vec::new();
        headers.push(ppp::v1::Addresses::from(addresses).to_string().into_bytes());
        let builder = ppp::v2::Builder::with_addresses(
            ppp::v2::Version::Two | ppp::v2::Command::Proxy, ppp::v2::Protocol::Stream, addresses);
        headers.push(builder.write_tlv(ppp::v2::Type::UniqueId, &id).unwrap().build().unwrap());
        let mut theirs = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
        let mut bytes = Vec::new();
        theirs.encode_v1(&mut bytes).unwrap();
        headers.push(bytes);
        theirs.append_tlv(Tlv::UniqueId((&id[..]).into()));
        let mut bytes = Vec::new();
        theirs.encode_v2(&mut bytes).unwrap();
        headers.push(bytes);
        for bytes in headers {
            let header = Header { bytes: bytes.len(), command: expected.clone() };
            prop_assert_eq!(parse(&bytes), Parsed::Header(header), "{:?}", bytes);
        }
    }
}
