//! The local cluster of real processes.
