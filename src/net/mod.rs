//! Sockets: plain or TLS.
