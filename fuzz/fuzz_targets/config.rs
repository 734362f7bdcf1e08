//! Any text is either a valid configuration or has errors that can be shown; nothing panics, overflows or hangs.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringlb::config::{Config, Overrides};

fuzz_target!(|text: &str| {
    match Config::parse("fuzz.toml", text, &Overrides::default()) {
        Ok(checked) => {
            for listener in checked.config.listeners() {
                assert!(!listener.bind.is_empty() && checked.config.pool(&listener.pool).is_some());
            }
        }
        Err(faults) => assert!(faults.has_errors() && !faults.render(true).is_empty()),
    }
});
