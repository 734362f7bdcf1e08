//! Any bytes are either a state, which can be written, read and taken up, or damage that is told; nothing panics.

#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use ringlb::control::overlay::Overlay;
use ringlb::control::overlay::text::{Clocks, parse, write};
use ringlb::time::Time;

fuzz_target!(|bytes: &[u8]| {
    let clocks = Clocks { now: Time::from_millis(1), wall: UNIX_EPOCH + Duration::from_secs(1_700_000_000) };
    match parse(bytes, clocks) {
        Ok(state) => {
            assert_eq!(parse(&write(&state, clocks), clocks).as_ref(), Ok(&state));
            for kept in state {
                let mut overlay = Overlay::new(Vec::new());
                let (before, restored) = (overlay.clone(), overlay.restore(kept.overlay));
                assert!(restored.is_ok() || overlay == before);
            }
        }
        Err(damage) => assert!(!damage.to_string().is_empty()),
    }
});
