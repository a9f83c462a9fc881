//! PURE: what a statement's text says of where it may run.
