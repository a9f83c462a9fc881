//! The SQLSTATEs that the proxy gives or reads.
//!
//! Source: PostgreSQL 18 documentation, appendix "PostgreSQL Error Codes".

/// A five-character SQLSTATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub [u8; 5]);

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl SqlState { $($(#[$doc])* pub const $name: Self = Self(*$code);)* }
    };
}

states! {
    /// successful_completion: of a notice.
    SUCCESS = b"00000";
    /// connection_does_not_exist.
    CONNECTION_DOES_NOT_EXIST = b"08003";
    /// connection_failure: a read was cut after rows had been passed on.
    CONNECTION_FAILURE = b"08006";
    /// sqlclient_unable_to_establish_sqlconnection.
    UNABLE_TO_CONNECT = b"08001";
    /// transaction_resolution_unknown: a write was sent and no answer came.
    OUTCOME_UNKNOWN = b"08007";
    /// protocol_violation.
    PROTOCOL_VIOLATION = b"08P01";
    /// feature_not_supported.
    FEATURE_NOT_SUPPORTED = b"0A000";
    /// invalid_parameter_value.
    INVALID_PARAMETER_VALUE = b"22023";
    /// active_sql_transaction.
    ACTIVE_SQL_TRANSACTION = b"25001";
    /// read_only_sql_transaction: a standby refuses a write.
    READ_ONLY_SQL_TRANSACTION = b"25006";
    /// in_failed_sql_transaction.
    IN_FAILED_SQL_TRANSACTION = b"25P02";
    /// invalid_sql_statement_name.
    INVALID_STATEMENT_NAME = b"26000";
    /// name_too_long: of a notice.
    NAME_TOO_LONG = b"42622";
    /// invalid_authorization_specification.
    INVALID_AUTHORIZATION = b"28000";
    /// invalid_password.
    INVALID_PASSWORD = b"28P01";
    /// invalid_catalog_name.
    INVALID_CATALOG_NAME = b"3D000";
    /// serialization_failure: drivers retry on it.
    SERIALIZATION_FAILURE = b"40001";
    /// insufficient_privilege.
    INSUFFICIENT_PRIVILEGE = b"42501";
    /// undefined_function.
    UNDEFINED_FUNCTION = b"42883";
    /// invalid_cursor_name: of a portal.
    INVALID_CURSOR_NAME = b"34000";
    /// duplicate_prepared_statement.
    DUPLICATE_PREPARED_STATEMENT = b"42P05";
    /// syntax_error.
    SYNTAX_ERROR = b"42601";
    /// too_many_connections.
    TOO_MANY_CONNECTIONS = b"53300";
    /// configuration_limit_exceeded.
    CONFIGURATION_LIMIT_EXCEEDED = b"53400";
    /// program_limit_exceeded.
    PROGRAM_LIMIT_EXCEEDED = b"54000";
    /// object_not_in_prerequisite_state: "recovery is in progress".
    OBJECT_NOT_IN_PREREQUISITE_STATE = b"55000";
    /// query_canceled.
    QUERY_CANCELED = b"57014";
    /// admin_shutdown.
    ADMIN_SHUTDOWN = b"57P01";
    /// crash_shutdown.
    CRASH_SHUTDOWN = b"57P02";
    /// cannot_connect_now.
    CANNOT_CONNECT_NOW = b"57P03";
    /// idle_session_timeout.
    IDLE_SESSION_TIMEOUT = b"57P05";
    /// io_error.
    IO_ERROR = b"58030";
    /// internal_error.
    INTERNAL_ERROR = b"XX000";
}

impl SqlState {
    /// The state as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }

    /// The state in the bytes of an ErrorResponse's `C` field; `XX000` when they are not one.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        match <[u8; 5]>::try_from(bytes) {
            Ok(code) if code.is_ascii() => Self(code),
            _ => Self::INTERNAL_ERROR,
        }
    }
}
