//! One connection to PostgreSQL: connect, log in, settings, prepared statements, cancel.

mod conn;
mod connect;
mod error;
mod messages;
mod query;
pub mod settings;

pub use conn::{Backend, Parameters, Prepared};
pub use connect::{Connected, Login, Server, cancel, connect};
pub use error::{AuthError, ConnectError, ServerError};
pub use query::{QueryError, Row, SimpleClient};
pub use settings::Settings;
