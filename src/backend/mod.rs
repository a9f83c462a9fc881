//! One connection to PostgreSQL: connect, log in, settings, prepared statements, cancel.

mod conn;
pub mod settings;

pub use conn::{Backend, Parameters, Prepared};
pub use settings::Settings;
