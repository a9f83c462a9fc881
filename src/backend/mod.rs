//! One connection to PostgreSQL: connect, log in, settings, prepared statements, cancel.

mod conn;
mod connect;
mod error;
mod messages;
mod query;
mod roles;
pub mod settings;

pub use conn::{Backend, Parameters, Prepared};
pub use connect::{Connected, Login, Server, cancel, connect};
pub use error::{AuthError, ConnectError, ServerError};
pub use query::{QueryError, Row, SimpleClient};
pub use roles::read_role;
pub use settings::Settings;

pub use crate::net::tls::ClientTls;
pub use crate::scram::{Credentials, LookupError, Role, Secret};
