//! Builds everything, hands it down; signals, drain.
