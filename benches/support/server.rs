//! A stand-in for PostgreSQL on the loopback that costs as little as one can: it lets everybody in, answers every statement
//! with a fixed result, and tells the proxy's monitors that it is a primary or a streaming replica.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use pg_ha_proxy::wire::tags::{backend, frontend};
use pg_ha_proxy::wire::{Frame, Frames, TxStatus, build, frame::MAX_FRAME_LEN};

/// A text that has this in it gets the long result.
pub(crate) const LONG: &str = "long_result";
/// Bytes of the long result's rows, at least.
pub(crate) const LONG_BYTES: usize = 8 << 20;

/// What the stand-in says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Primary,
    Replica,
}

/// Starts one; its threads live as long as the process.
pub(crate) fn start(role: Role) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port of the loopback");
    let address = listener.local_addr().expect("it is bound");
    let long: Arc<[u8]> = long_result().into();
    thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let long = Arc::clone(&long);
            // A proxy that ends its connection is no fault.
            thread::spawn(move || Server { role, tcp, long }.serve().ok());
        }
    });
    address
}

struct Server {
    role: Role,
    tcp: TcpStream,
    long: Arc<[u8]>,
}

impl Server {
    fn serve(mut self) -> std::io::Result<()> {
        self.tcp.set_nodelay(true)?;
        self.log_in()?;
        let (mut input, mut output) = (Vec::new(), Vec::new());
        let mut chunk = vec![0; 64 << 10];
        let mut wants_long = false;
        loop {
            let n = self.tcp.read(&mut chunk)?;
            if n == 0 {
                return Ok(());
            }
            input.extend_from_slice(&chunk[..n]);
            let mut frames = Frames::new(&input, MAX_FRAME_LEN);
            while let Ok(Some(frame)) = frames.next_frame() {
                self.answer(frame, &mut output, &mut wants_long);
            }
            let rest = frames.rest().len();
            input.drain(..input.len() - rest);
            self.tcp.write_all(&output)?;
            output.clear();
        }
    }

    /// Reads the startup packet and lets its sender in.
    fn log_in(&mut self) -> std::io::Result<()> {
        let mut length = [0; 4];
        self.tcp.read_exact(&mut length)?;
        let mut startup = vec![0; u32::from_be_bytes(length) as usize - 4];
        self.tcp.read_exact(&mut startup)?;
        let mut out = Vec::new();
        build::frame(&mut out, backend::AUTHENTICATION, |out| out.extend_from_slice(&[0; 4]));
        for (name, value) in [
            ("server_version", "18.0"),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("standard_conforming_strings", "on"),
            ("DateStyle", "ISO, MDY"),
            ("integer_datetimes", "on"),
        ] {
            build::parameter_status(&mut out, name.as_bytes(), value.as_bytes());
        }
        build::backend_key_data(&mut out, 4711, &[0; 4]);
        build::ready_for_query(&mut out, TxStatus::Idle);
        self.tcp.write_all(&out)
    }

    fn answer(&self, frame: Frame<'_>, out: &mut Vec<u8>, wants_long: &mut bool) {
        match frame.tag {
            frontend::QUERY => {
                let sql = std::str::from_utf8(frame.body()).unwrap_or_default();
                if let Some(row) = self.monitors_row(sql) {
                    build::text_row_description(out, &vec!["value"; row.len()]);
                    build::text_row(out, &row);
                    build::command_complete(out, "SELECT 1");
                } else if sql.starts_with("SELECT") {
                    build::text_row_description(out, &["abalance"]);
                    self.result(sql.contains(LONG), out);
                } else {
                    build::command_complete(out, "INSERT 0 1");
                }
                build::ready_for_query(out, TxStatus::Idle);
            }
            frontend::PARSE => {
                *wants_long = frame.body().windows(LONG.len()).any(|text| text == LONG.as_bytes());
                build::empty(out, backend::PARSE_COMPLETE);
            }
            frontend::BIND => build::empty(out, backend::BIND_COMPLETE),
            frontend::DESCRIBE => build::text_row_description(out, &["abalance"]),
            frontend::EXECUTE => self.result(*wants_long, out),
            frontend::CLOSE => build::empty(out, backend::CLOSE_COMPLETE),
            frontend::SYNC => build::ready_for_query(out, TxStatus::Idle),
            _ => {}
        }
    }

    fn result(&self, long: bool, out: &mut Vec<u8>) {
        if long {
            out.extend_from_slice(&self.long);
        } else {
            build::text_row(out, &[Some("12345")]);
        }
        build::command_complete(out, "SELECT 1");
    }

    /// The row that the proxy's monitors are to see, if this is one of their questions.
    fn monitors_row(&self, sql: &str) -> Option<Vec<Option<&'static str>>> {
        let primary = self.role == Role::Primary;
        if sql.starts_with("SELECT pg_is_in_recovery()") {
            let started = Some("1795385637602718");
            let system = Some("7711122490449545636");
            return Some(if primary {
                let file = Some("000000010000000000000001");
                let position = Some("1000");
                vec![
                    Some("f"),
                    Some("off"),
                    system,
                    started,
                    file,
                    position,
                    position,
                    None,
                    None,
                    None,
                    Some("f"),
                ]
            } else {
                let (timeline, status) = (Some("1"), Some("streaming"));
                vec![
                    Some("t"),
                    Some("on"),
                    system,
                    started,
                    None,
                    Some("1000"),
                    None,
                    timeline,
                    status,
                    Some("0"),
                    Some("f"),
                ]
            });
        }
        if sql.starts_with("SELECT pg_current_wal_flush_lsn()") {
            return Some(vec![Some("1000"), Some("1000")]);
        }
        sql.starts_with("SELECT pg_last_wal_replay_lsn()").then(|| vec![Some("1000"), Some("1")])
    }
}

/// Rows of 100 bytes.
fn long_result() -> Vec<u8> {
    let value = "x".repeat(89);
    let mut out = Vec::with_capacity(LONG_BYTES + 100);
    while out.len() < LONG_BYTES {
        build::text_row(&mut out, &[Some(&value)]);
    }
    out
}
