//! Headers one by one, with the verdict of the specification.

use super::*;
use crate::limits::PROXY_HEADER_BYTES_MAX;

const SIX: &str = "2001:db8::1";
const FULL: &str = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";

/// What the specification says of some bytes.
#[derive(Clone, Debug)]
enum Verdict {
    Is(Command),
    Not(Reason),
    More,
}

use Verdict::{Is, More, Not};

fn v1_lines() -> Vec<(&'static str, String, Verdict)> {
    let four = || Is(inet("192.0.2.1:56324", "198.51.100.2:443"));
    let line = |text: &str| format!("PROXY {text}\r\n");
    let fields = |source: &str, ports: &str| line(&format!("TCP4 {source} 198.51.100.2 {ports}"));
    let long = |spare: usize| line(&format!("UNKNOWN {FULL} {FULL} 65535 65535{}", " ".repeat(spare)));
    let six = format!("[{FULL}]:65535");
    vec![
        ("IPv4", fields("192.0.2.1", "56324 443"), four()),
        (
            "IPv4 as long as can be",
            fields("255.255.255.255", "65535 65535"),
            Is(inet("255.255.255.255:65535", "198.51.100.2:65535")),
        ),
        ("the smallest numbers", fields("0.0.0.0", "0 0"), Is(inet("0.0.0.0:0", "198.51.100.2:0"))),
        ("IPv6", line(&format!("TCP6 {SIX} ::1 1 2")), Is(inet("[2001:db8::1]:1", "[::1]:2"))),
        ("IPv6 in capitals", line("TCP6 2001:DB8::A ::1 1 2"), Is(inet("[2001:db8::a]:1", "[::1]:2"))),
        (
            "IPv6 with all digits",
            line("TCP6 2001:0db8:0000:0000:0000:0000:0000:0001 :: 1 2"),
            Is(inet("[2001:db8::1]:1", "[::]:2")),
        ),
        ("IPv6 as long as can be", line(&format!("TCP6 {FULL} {FULL} 65535 65535")), Is(inet(&six, &six))),
        (
            "IPv6, mapped, in hexadecimal",
            line("TCP6 ::ffff:c000:201 ::1 1 2"),
            Is(inet("[::ffff:192.0.2.1]:1", "[::1]:2")),
        ),
        (
            "IPv6, mapped, as inet_ntop writes it",
            line("TCP6 ::ffff:192.0.2.1 ::1 1 2"),
            Is(inet("[::ffff:192.0.2.1]:1", "[::1]:2")),
        ),
        ("unknown, short", line("UNKNOWN"), Is(Command::Unknown)),
        ("unknown with anything", line("UNKNOWN \x01 what \r ever \n"), Is(Command::Unknown)),
        ("unknown, 107 bytes", long(0), Is(Command::Unknown)),
        ("unknown, 108 bytes", long(1), Not(Reason::V1Line)),
        ("unknown, not a word", line("UNKNOWNS"), Not(Reason::V1Protocol)),
        ("unknown, ended by LF", "PROXY UNKNOWN\n".into(), Not(Reason::V1Protocol)),
        ("ended by LF", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n".into(), Not(Reason::V1Line)),
        ("ended by CR", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rGET".into(), Not(Reason::V1Line)),
        ("no end in 107 bytes", format!("PROXY TCP4 {}", "1".repeat(96)), Not(Reason::V1Line)),
        ("an end across byte 107", format!("PROXY TCP4 {}\r\n", "1".repeat(95)), Not(Reason::V1Line)),
        ("no end yet", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2".into(), More),
        ("half an end", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r".into(), More),
        ("no signature yet", "PROX".into(), More),
        ("no protocol yet", "PROXY TCP".into(), More),
        ("small letters", "proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n".into(), Not(Reason::NoHeader)),
        ("a protocol in small letters", line("tcp4 192.0.2.1 192.0.2.2 1 2"), Not(Reason::V1Protocol)),
        ("UDP", line("UDP4 192.0.2.1 192.0.2.2 1 2"), Not(Reason::V1Protocol)),
        ("TCP5", line("TCP5 192.0.2.1 192.0.2.2 1 2"), Not(Reason::V1Protocol)),
        ("a tab for a space", "PROXY\tTCP4 192.0.2.1 192.0.2.2 1 2\r\n".into(), Not(Reason::NoHeader)),
        ("two spaces before the protocol", line(" TCP4 192.0.2.1 192.0.2.2 1 2"), Not(Reason::V1Protocol)),
        ("two spaces before an address", line("TCP4  192.0.2.1 192.0.2.2 1 2"), Not(Reason::V1Fields)),
        ("two spaces before a port", line("TCP4 192.0.2.1 192.0.2.2  1 2"), Not(Reason::V1Fields)),
        ("a space before the end", line("TCP4 192.0.2.1 192.0.2.2 1 2 "), Not(Reason::V1Fields)),
        ("no port", line("TCP4 192.0.2.1 192.0.2.2 1"), Not(Reason::V1Fields)),
        ("a field too many", line("TCP4 192.0.2.1 192.0.2.2 1 2 3"), Not(Reason::V1Fields)),
        ("no field", line("TCP4 "), Not(Reason::V1Fields)),
        ("nothing behind the protocol", line("TCP4"), Not(Reason::V1Protocol)),
        ("a leading zero in an address", fields("192.0.02.1", "1 2"), Not(Reason::V1Address)),
        ("256 in an address", fields("192.0.2.256", "1 2"), Not(Reason::V1Address)),
        ("three numbers", fields("192.0.2", "1 2"), Not(Reason::V1Address)),
        ("five numbers", fields("192.0.2.1.1", "1 2"), Not(Reason::V1Address)),
        ("a number for an address", fields("3221225985", "1 2"), Not(Reason::V1Address)),
        ("a name", fields("localhost", "1 2"), Not(Reason::V1Address)),
        ("a byte beyond ASCII", fields("192.0.2.\u{661}", "1 2"), Not(Reason::V1Address)),
        ("the other family", fields("::1", "1 2"), Not(Reason::V1Address)),
        ("the other family in TCP6", line("TCP6 ::1 192.0.2.1 1 2"), Not(Reason::V1Address)),
        ("two double colons", line("TCP6 1::2::3 ::1 1 2"), Not(Reason::V1Address)),
        ("seven groups", line("TCP6 1:2:3:4:5:6:7 ::1 1 2"), Not(Reason::V1Address)),
        ("nine groups", line("TCP6 1:2:3:4:5:6:7:8:9 ::1 1 2"), Not(Reason::V1Address)),
        ("a double colon for nothing", line("TCP6 1:2:3:4::5:6:7:8 ::1 1 2"), Not(Reason::V1Address)),
        ("five digits in a group", line("TCP6 00001::1 ::1 1 2"), Not(Reason::V1Address)),
        ("a scope", line("TCP6 fe80::1%eth0 ::1 1 2"), Not(Reason::V1Address)),
        ("brackets", line("TCP6 [::1] ::1 1 2"), Not(Reason::V1Address)),
        ("port 65536", fields("192.0.2.1", "65536 2"), Not(Reason::V1Port)),
        ("a port that is too long", fields("192.0.2.1", "1 4294967297"), Not(Reason::V1Port)),
        ("a leading zero in a port", fields("192.0.2.1", "080 2"), Not(Reason::V1Port)),
        ("two zeros for a port", fields("192.0.2.1", "1 00"), Not(Reason::V1Port)),
        ("a sign before a port", fields("192.0.2.1", "+1 2"), Not(Reason::V1Port)),
        ("a negative port", fields("192.0.2.1", "1 -1"), Not(Reason::V1Port)),
        ("a hexadecimal port", fields("192.0.2.1", "0x50 2"), Not(Reason::V1Port)),
    ]
}

const FOUR: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 1, 0xbb];

fn v2_headers() -> Vec<(&'static str, Vec<u8>, Verdict)> {
    let four = || Is(inet("192.0.2.1:56324", "198.51.100.2:443"));
    let with = |more: &[u8]| v2(0x21, 0x11, &[FOUR, more].concat());
    let six: Vec<u8> =
        [[0x20, 1, 0xd, 0xb8], [0; 4], [0; 4], [0, 0, 0, 1], [0; 4], [0; 4], [0; 4], [0, 0, 0, 1]].concat();
    let six = [&six[..], &[0, 80, 1, 187]].concat();
    let names = [UnixName::new(b"/run/a").unwrap(), UnixName::new(b"\0b").unwrap()];
    let names = [*names[0].as_bytes(), *names[1].as_bytes()].concat();
    let mut wrong_sum = with_checksum(0x21, 0x11, FOUR);
    wrong_sum[20] ^= 1;
    let mut wrong_local_sum = with_checksum(0x20, 0x00, &[]);
    *wrong_local_sum.last_mut().unwrap() ^= 1;
    let largest = (PROXY_HEADER_BYTES_MAX - 16 - FOUR.len() - 3) as u16;
    let sum = tlv(3, &[0; 4]);
    vec![
        ("IPv4", with(&[]), four()),
        ("IPv6", v2(0x21, 0x21, &six), Is(inet("[2001:db8::1]:80", "[::1]:443"))),
        ("unix", v2(0x21, 0x31, &names), Is(unix(b"/run/a", b"\0b"))),
        ("a datagram over IPv4", v2(0x21, 0x12, FOUR), Is(Command::Unknown)),
        ("a datagram over IPv6", v2(0x21, 0x22, &six), Is(Command::Unknown)),
        ("a unix datagram", v2(0x21, 0x32, &names), Is(Command::Unknown)),
        ("unspecified", v2(0x21, 0x00, &[]), Is(Command::Unknown)),
        ("unspecified, with bytes to skip", v2(0x21, 0x00, &[9; 100]), Is(Command::Unknown)),
        ("an unspecified family", v2(0x21, 0x01, FOUR), Is(Command::Unknown)),
        ("an unspecified protocol", v2(0x21, 0x10, FOUR), Is(Command::Unknown)),
        ("local", v2(0x20, 0x00, &[]), Is(Command::Local)),
        ("local, with an address to ignore", v2(0x20, 0x11, FOUR), Is(Command::Local)),
        ("local, with bytes to skip", v2(0x20, 0x00, &[9; 100]), Is(Command::Local)),
        ("local, with less than an address", v2(0x20, 0x21, &[1; 5]), Is(Command::Local)),
        ("local, with a family to ignore", v2(0x20, 0x47, &[]), Is(Command::Local)),
        ("local, with a checksum", with_checksum(0x20, 0x00, &[]), Is(Command::Local)),
        ("local, with a wrong checksum", wrong_local_sum, Not(Reason::V2Checksum)),
        ("an extension", with(&tlv(2, b"example.org")), four()),
        ("an empty extension", with(&tlv(4, b"")), four()),
        ("an extension nobody knows", with(&tlv(0xee, &[7; 300])), four()),
        ("two extensions", with(&[tlv(1, b"h2"), tlv(5, b"id")].concat()), four()),
        ("the longest header", with(&tlv(4, &vec![0; usize::from(largest)])), four()),
        ("a header too long", v2_claiming(0x21, 0x11, largest + 12 + 3 + 1, FOUR), Not(Reason::V2Long)),
        ("the longest that can be said", v2_claiming(0x20, 0, u16::MAX, &[]), Not(Reason::V2Long)),
        ("a checksum", with_checksum(0x21, 0x11, FOUR), four()),
        ("a checksum between others", with_checksum(0x21, 0x11, &[FOUR, &tlv(4, &[0; 9])].concat()), four()),
        ("a wrong checksum", wrong_sum, Not(Reason::V2Checksum)),
        ("a checksum of zero", with(&sum), Not(Reason::V2Checksum)),
        ("a checksum of three bytes", with(&tlv(3, &[0; 3])), Not(Reason::V2Extensions)),
        ("two checksums", with(&[&sum[..], &sum].concat()), Not(Reason::V2Extensions)),
        ("an extension beyond the header", with(&[4, 0, 9, 1]), Not(Reason::V2Extensions)),
        ("one stray byte", with(&[4]), Not(Reason::V2Extensions)),
        ("two stray bytes", with(&[4, 0]), Not(Reason::V2Extensions)),
        ("stray bytes behind an extension", with(&[4, 0, 0, 4]), Not(Reason::V2Extensions)),
        ("IPv4, too short", v2(0x21, 0x11, &FOUR[..11]), Not(Reason::V2Short)),
        ("IPv4 without addresses", v2(0x21, 0x11, &[]), Not(Reason::V2Short)),
        ("IPv6, as long as IPv4", v2(0x21, 0x21, FOUR), Not(Reason::V2Short)),
        ("unix, too short", v2(0x21, 0x31, &names[..215]), Not(Reason::V2Short)),
        ("a datagram, too short", v2(0x21, 0x12, &FOUR[..11]), Not(Reason::V2Short)),
        ("version 1", v2(0x11, 0x11, FOUR), Not(Reason::V2Version)),
        ("version 3", v2(0x31, 0x11, FOUR), Not(Reason::V2Version)),
        ("version 0", v2(0x01, 0x11, FOUR), Not(Reason::V2Version)),
        ("command 2", v2(0x22, 0x11, FOUR), Not(Reason::V2Command)),
        ("command 15", v2(0x2f, 0x11, FOUR), Not(Reason::V2Command)),
        ("family 4", v2(0x21, 0x41, FOUR), Not(Reason::V2Family)),
        ("family 15", v2(0x21, 0xf1, FOUR), Not(Reason::V2Family)),
        ("protocol 3", v2(0x21, 0x13, FOUR), Not(Reason::V2Protocol)),
        ("protocol 15", v2(0x21, 0x1f, FOUR), Not(Reason::V2Protocol)),
        ("no rest yet", v2_claiming(0x21, 0x11, 12, &FOUR[..11]), More),
        ("no length yet", v2(0x21, 0x11, &[])[..15].to_vec(), More),
        ("no signature yet", b"\r\n\r\n\0\r\nQUI".to_vec(), More),
        ("a signature that goes wrong", b"\r\n\r\n\0\r\nQUIT\r".to_vec(), Not(Reason::NoHeader)),
    ]
}

fn others() -> Vec<(&'static str, Vec<u8>, Verdict)> {
    vec![
        ("nothing", b"".to_vec(), More),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec(), Not(Reason::NoHeader)),
        ("HTTP that begins alike", b"PUT / HTTP/1.1\r\n\r\n".to_vec(), Not(Reason::NoHeader)),
        ("TLS", vec![0x16, 3, 1, 2, 0, 1], Not(Reason::NoHeader)),
        ("an empty line", b"\r\n\r\nGET".to_vec(), Not(Reason::NoHeader)),
    ]
}

#[test]
fn the_verdicts_of_the_specification() {
    let v1 = v1_lines().into_iter().map(|(name, line, verdict)| (name, line.into_bytes(), verdict));
    let cases: Vec<_> = v1.chain(v2_headers()).chain(others()).collect();
    let mut reasons = Vec::new();
    for (name, bytes, verdict) in &cases {
        for tail in ["", "GET / HTTP/1.1\r\n", "PROXY UNKNOWN\r\n"] {
            let whole = [&bytes[..], tail.as_bytes()].concat();
            match (verdict, parse(&whole)) {
                (Is(command), parsed) => {
                    let header = Header { bytes: bytes.len(), command: command.clone() };
                    assert_eq!(parsed, Parsed::Header(header), "{name}");
                }
                (Not(reason), parsed) => {
                    assert_eq!(parsed, Parsed::Invalid(*reason), "{name}");
                    reasons.push(*reason);
                }
                (More, Parsed::Incomplete { need }) => assert!(need > whole.len(), "{name}: {need}"),
                // What follows decides of an incomplete header.
                (More, parsed) => assert!(!tail.is_empty(), "{name}: {parsed:?}"),
            }
        }
    }
    assert!(Reason::ALL.iter().all(|reason| reasons.contains(reason)), "a reason that nothing provokes");
}

#[test]
fn what_is_written_for_each_pair() {
    let four = inet("192.0.2.1:56324", "198.51.100.2:443");
    let six = inet("[2001:db8::1]:80", "[::ffff:192.0.2.1]:443");
    let mixed = inet("192.0.2.1:1", "[::1]:2");
    let path = unix(b"", b"/run/x");
    let half = match (&four, &path) {
        (Command::Proxy { source, .. }, Command::Proxy { destination, .. }) => {
            Command::Proxy { source: source.clone(), destination: destination.clone() }
        }
        _ => unreachable!(),
    };
    let line = |command| String::from_utf8(write(Version::V1, command)).unwrap();
    assert_eq!(line(&four), "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n");
    assert_eq!(line(&six), "PROXY TCP6 2001:db8::1 ::ffff:c000:201 80 443\r\n");
    for nobody in [&mixed, &path, &half, &Command::Local, &Command::Unknown] {
        assert_eq!(line(nobody), "PROXY UNKNOWN\r\n");
    }
    assert_eq!(write(Version::V2, &four), v2(0x21, 0x11, FOUR));
    assert_eq!(write(Version::V2, &six)[12..16], [0x21, 0x21, 0, 36]);
    assert_eq!(write(Version::V2, &path), v2(0x21, 0x31, &[&[0; 108], &b"/run/x"[..], &[0; 102]].concat()));
    assert_eq!(write(Version::V2, &path).len(), WRITTEN_BYTES_MAX);
    assert_eq!(write(Version::V2, &Command::Local), v2(0x20, 0x00, &[]));
    for nobody in [&mixed, &half, &Command::Unknown] {
        assert_eq!(write(Version::V2, nobody), v2(0x21, 0x00, &[]));
    }
}

#[test]
fn each_reason_has_a_label_of_its_own() {
    let labels: std::collections::HashSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
    assert_eq!(labels.len(), Reason::ALL.len());
    assert!(labels.iter().all(|label| label.starts_with("proxy_")));
}
