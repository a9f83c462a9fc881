//! Any text as proxy.toml: refused with a place in it, or understood, and then the same again.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use pg_ha_proxy::config::Config;

fuzz_target!(|text: &str| {
    // files that it names are read: none that never ends
    if text.contains("/dev") || text.contains("/proc") {
        return;
    }
    match Config::parse(text, Path::new("/nonexistent/proxy.toml")) {
        Ok(config) => {
            let _ = format!("{config:?}");
            assert!(Config::parse(text, Path::new("/nonexistent/proxy.toml")).is_ok());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
