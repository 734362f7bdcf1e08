//! Laws that hold for every input.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

pub(super) fn address(six: bool) -> BoxedStrategy<SocketAddr> {
    let ip = if six {
        any::<[u8; 16]>().prop_map(IpAddr::from).boxed()
    } else {
        any::<[u8; 4]>().prop_map(IpAddr::from).boxed()
    };
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port)).boxed()
}

fn name() -> impl Strategy<Value = Endpoint> {
    proptest::collection::vec(any::<u8>(), 0..=UNIX_NAME_BYTES)
        .prop_map(|name| Endpoint::Unix(Box::new(UnixName::new(&name).unwrap())))
}

/// Two addresses of one family.
pub(super) fn pair() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    any::<bool>().prop_flat_map(|six| (address(six), address(six)))
}

fn command() -> impl Strategy<Value = Command> {
    let inet = pair().prop_map(|(source, destination)| Command::Proxy {
        source: Endpoint::Inet(source),
        destination: Endpoint::Inet(destination),
    });
    let unix = (name(), name()).prop_map(|(source, destination)| Command::Proxy { source, destination });
    prop_oneof![4 => inet, 2 => unix, 1 => Just(Command::Local), 1 => Just(Command::Unknown)]
}

/// Headers of both versions, with extensions and with one byte spoilt now and then, and sheer noise.
pub(super) fn stream() -> impl Strategy<Value = Vec<u8>> {
    let extension =
        (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..20)).prop_map(|(kind, value)| tlv(kind % 8, &value));
    let extensions = proptest::collection::vec(extension, 0..4).prop_map(|extensions| extensions.concat());
    let v1 = command().prop_map(|command| write(Version::V1, &command));
    let v2 = (command(), extensions, any::<bool>()).prop_map(|(command, extensions, sum)| {
        let header = write(Version::V2, &command);
        let rest = [&header[16..], &extensions].concat();
        if sum { with_checksum(header[12], header[13], &rest) } else { v2(header[12], header[13], &rest) }
    });
    let noise = proptest::collection::vec(any::<u8>(), 0..300);
    let line = "PROXY (TCP4|TCP6|UNKNOWN|TCP)[ ]{0,2}[0-9a-f:. ]{0,60}\r?\n?".prop_map(String::into_bytes);
    let whole = prop_oneof![3 => v1, 5 => v2, 2 => line, 1 => noise];
    let tail = proptest::collection::vec(any::<u8>(), 0..40);
    (whole, tail, proptest::option::of((any::<Index>(), any::<u8>()))).prop_map(|(mut bytes, tail, fault)| {
        if let Some((at, byte)) = fault
            && !bytes.is_empty()
        {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend(tail);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// What is written is read as it was meant, and takes all bytes.
    #[test]
    fn what_is_written_is_read(command in command()) {
        for version in [Version::V1, Version::V2] {
            let bytes = write(version, &command);
            prop_assert!(bytes.len() <= WRITTEN_BYTES_MAX);
            let expected = match (version, &command) {
                (Version::V1, Command::Local | Command::Proxy { source: Endpoint::Unix(_), .. }) => Command::Unknown,
                _ => command.clone(),
            };
            prop_assert_eq!(parse(&bytes), Parsed::Header(Header { bytes: bytes.len(), command: expected }));
        }
    }

    /// However a stream is cut, the verdict is that of the whole, and comes no later than the parser has announced.
    #[test]
    fn a_stream_in_pieces_is_read_as_the_whole(bytes in stream()) {
        let whole = parse(&bytes);
        let mut decided = false;
        for end in 0..=bytes.len() {
            match parse(&bytes[..end]) {
                Parsed::Incomplete { need } => {
                    prop_assert!(!decided, "undecided again at {end}");
                    prop_assert!(need > end);
                    let header_end = match &whole { Parsed::Header(header) => header.bytes, _ => usize::MAX };
                    prop_assert!(need <= header_end, "{need} of {header_end}");
                }
                verdict => {
                    prop_assert_eq!(&verdict, &whole, "at {}", end);
                    decided = true;
                }
            }
        }
        if let Parsed::Header(header) = &whole {
            let unfinished = matches!(parse(&bytes[..header.bytes - 1]), Parsed::Incomplete { .. });
            prop_assert!(unfinished, "the last byte of a header makes it one");
        }
    }

    /// No input makes the parser panic or claim bytes that are not there.
    #[test]
    fn noise_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Parsed::Header(header) = parse(&bytes) {
            prop_assert!(header.bytes <= bytes.len());
        }
    }
}
