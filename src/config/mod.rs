//! proxy.toml: as written, and as meant.
