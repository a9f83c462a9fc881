//! The control path.
