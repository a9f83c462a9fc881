//! PURE: bytes to protocol and back.
