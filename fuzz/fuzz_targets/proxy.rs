//! No bytes make the parser of the PROXY protocol panic, change its mind when more of them come, or read otherwise than
//! it writes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringlb::wire::proxy::{Command, Parsed, Version, parse, write};

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    for end in 0..bytes.len() {
        match parse(&bytes[..end]) {
            Parsed::Incomplete { need } => assert!(need > end),
            decided => {
                assert_eq!(decided, whole);
                break;
            }
        }
    }
    let Parsed::Header(header) = whole else { return };
    assert!(header.bytes <= bytes.len());
    let written = write(Version::V2, &header.command);
    let Parsed::Header(again) = parse(&written) else { panic!("{header:?} cannot be read again") };
    assert_eq!((again.bytes, &again.command), (written.len(), &header.command));
    if let Parsed::Header(line) = parse(&write(Version::V1, &header.command)) {
        assert!(line.command == header.command || line.command == Command::Unknown);
    } else {
        panic!("{header:?} has no line");
    }
});
