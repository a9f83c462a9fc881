//! The control path.

mod lookup;

pub use lookup::{LookupConfig, LookupTask, Lookups};
