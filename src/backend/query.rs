//! A plain client for the control path: one statement, all its rows, within a time and a size.

use std::io;
use std::time::Duration;

use super::Parameters;
use super::connect::{Connected, Login, Server, connect};
use super::error::{ConnectError, ServerError};
use super::messages::Messages;
use crate::wire::build;
use crate::wire::parts::{is_asynchronous, parameter_status, text_row};
use crate::wire::tags::{backend as tag, frontend};

/// A row's values as text, none for NULL.
pub type Row = Vec<Option<String>>;

/// Why a statement gave no rows.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The server's error; the connection is still good.
    #[error("{0}")]
    Server(ServerError),
    /// The connection broke.
    #[error("connection lost: {0}")]
    Lost(io::Error),
    /// It took too long; the connection is not used again.
    #[error("no answer in time")]
    Timeout,
    /// The answer is longer than allowed; the connection is not used again.
    #[error("the answer is too long")]
    TooLong,
    /// What came is not an answer; the connection is not used again.
    #[error("protocol violation: {0}")]
    Protocol(&'static str),
}

/// One connection, one statement at a time.
#[derive(Debug)]
pub struct SimpleClient {
    messages: Messages,
    parameters: Parameters,
    timeout: Duration,
    limit: usize,
    broken: bool,
}

impl SimpleClient {
    /// Connects. Each statement may take `timeout` and give `limit` bytes of messages.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(
        server: &Server<'_>,
        login: &Login<'_>,
        timeout: Duration,
        limit: usize,
    ) -> Result<Self, ConnectError> {
        let Connected { stream, parameters, .. } = connect(server, login).await?;
        Ok(Self { messages: Messages::new(stream), parameters, timeout, limit, broken: false })
    }

    /// Whether the connection can't be used any more.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// What the server last reported by ParameterStatus.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Runs `sql` by the simple protocol; the rows of all its statements.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, QueryError> {
        let mut out = Vec::with_capacity(sql.len() + 6);
        build::query(&mut out, text(sql)?);
        self.run(&out).await
    }

    /// Runs one statement by Parse and Bind, so that no parameter is ever read as SQL.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn query_params(&mut self, sql: &str, params: &[&str]) -> Result<Vec<Row>, QueryError> {
        let mut out = Vec::with_capacity(sql.len() + 64);
        build::parse(&mut out, b"", text(sql)?, &[0, 0]);
        build::frame(&mut out, frontend::BIND, |out| {
            // Unnamed portal and statement, parameters and results all in text.
            out.extend_from_slice(&[0, 0, 0, 0]);
            out.extend_from_slice(&(params.len() as u16).to_be_bytes());
            for param in params {
                out.extend_from_slice(&(param.len() as u32).to_be_bytes());
                out.extend_from_slice(param.as_bytes());
            }
            out.extend_from_slice(&[0, 0]);
        });
        build::frame(&mut out, frontend::EXECUTE, |out| out.extend_from_slice(&[0, 0, 0, 0, 0]));
        build::empty(&mut out, frontend::SYNC);
        self.run(&out).await
    }

    async fn run(&mut self, request: &[u8]) -> Result<Vec<Row>, QueryError> {
        if self.broken {
            return Err(QueryError::Lost(io::ErrorKind::NotConnected.into()));
        }
        // Whatever ends this early, a caller that gives up included, leaves the connection out of step.
        self.broken = true;
        let outcome = match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(QueryError::Timeout),
        };
        self.broken = !matches!(outcome, Ok(_) | Err(QueryError::Server(_)));
        outcome
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Vec<Row>, QueryError> {
        self.messages.stream.write_all(request).await.map_err(QueryError::Lost)?;
        let (mut rows, mut error, mut left) = (Vec::new(), None, self.limit);
        loop {
            let frame = self.messages.next(left).await.map_err(lost)?;
            left = left.saturating_sub(frame.bytes.len());
            match frame.tag {
                tag::DATA_ROW => rows.push(row(frame.body())?),
                tag::ERROR_RESPONSE => {
                    let new = ServerError::new(frame.body());
                    if new.fields().is_fatal() {
                        return Err(QueryError::Lost(io::Error::other(new)));
                    }
                    error.get_or_insert(new);
                }
                tag::READY_FOR_QUERY => break,
                tag::PARAMETER_STATUS => {
                    if let Some((name, value)) = parameter_status(frame.body()) {
                        self.parameters.set(name, value);
                    }
                }
                tag::COPY_IN_RESPONSE | tag::COPY_OUT_RESPONSE | tag::COPY_BOTH_RESPONSE => {
                    return Err(QueryError::Protocol("COPY is not for this client"));
                }
                tag::ROW_DESCRIPTION
                | tag::COMMAND_COMPLETE
                | tag::PARSE_COMPLETE
                | tag::BIND_COMPLETE
                | tag::EMPTY_QUERY_RESPONSE => {}
                other if is_asynchronous(other) => {}
                _ => return Err(QueryError::Protocol("unknown message")),
            }
        }
        if !self.messages.is_drained() {
            return Err(QueryError::Protocol("bytes behind ReadyForQuery"));
        }
        error.map_or(Ok(rows), |error| Err(QueryError::Server(error)))
    }
}

fn row(body: &[u8]) -> Result<Row, QueryError> {
    let values = text_row(body).ok_or(QueryError::Protocol("bad DataRow"))?;
    Ok(values.into_iter().map(|value| value.map(|v| String::from_utf8_lossy(v).into_owned())).collect())
}

fn text(sql: &str) -> Result<&[u8], QueryError> {
    if sql.contains('\0') { Err(QueryError::Protocol("NUL in a statement")) } else { Ok(sql.as_bytes()) }
}

fn lost(error: io::Error) -> QueryError {
    match error.kind() {
        io::ErrorKind::InvalidData => QueryError::TooLong,
        _ => QueryError::Lost(error),
    }
}
