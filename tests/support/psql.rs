//! psql: for one statement, and as a session that stays open.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use pg_ha_proxy::cluster::Status;

/// psql as the application against a port. Errors come with their SQLSTATE.
pub(crate) fn command(status: &Status, port: u16) -> Command {
    let mut command = Command::new(status.postgres_bin.join("psql"));
    command.args(["-X", "-At", "-h", "127.0.0.1", "-U", &status.app, "-d", &status.app]);
    command.args(["-v", "VERBOSITY=verbose", "-p", &port.to_string()]);
    command.env("PGPASSWORD", status.app_password.reveal()).env("PGCONNECT_TIMEOUT", "20");
    command
}

/// Runs a script and gives what came of it.
pub(crate) fn script(status: &Status, port: u16, sql: &str) -> Output {
    let mut command = command(status, port);
    command.args(["-q", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("psql runs");
    let mut input = child.stdin.take().expect("piped");
    let sql = sql.to_owned();
    let writer = std::thread::spawn(move || drop(input.write_all(sql.as_bytes())));
    let output = child.wait_with_output().expect("psql ends");
    writer.join().expect("a writer");
    output
}

/// What a script prints; it has to succeed.
pub(crate) fn ask(status: &Status, port: u16, sql: &str) -> String {
    let output = script(status, port, sql);
    assert!(output.status.success(), "{sql:.200}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// A psql that stays: what it is told comes by its standard input.
pub(crate) struct Psql {
    child: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
    asked: u64,
}

impl Psql {
    pub(crate) fn start(status: &Status, port: u16) -> Self {
        Self::start_with(status, port, "prefer")
    }

    /// The same with this `sslmode`.
    pub(crate) fn start_with(status: &Status, port: u16, ssl_mode: &str) -> Self {
        let mut psql = command(status, port);
        psql.env("PGSSLMODE", ssl_mode);
        let mut command = Command::new("sh");
        // Errors among the answers, in their order.
        command.args(["-c", "exec \"$@\" 2>&1", "sh"]).arg(psql.get_program()).args(psql.get_args());
        command.args(["-q", "-f", "-"]);
        command.envs(psql.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("psql runs");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (send, lines) = mpsc::sync_channel(10_000);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, input, lines, asked: 0 }
    }

    /// Says something and gives all that it prints, errors too, within this time.
    pub(crate) fn say_within(&mut self, sql: &str, limit: Duration) -> String {
        self.asked += 1;
        let marker = format!("-- end of {} --", self.asked);
        writeln!(self.input, "{sql}\n\\warn '{marker}'").expect("psql lives");
        let mut said = Vec::new();
        loop {
            match self.lines.recv_timeout(limit) {
                Ok(line) if line == marker => return said.join("\n"),
                // Of the proxy's own, after a wait.
                Ok(line) if line.contains("NOTICE:  00000: waited ") => {}
                Ok(line) => said.push(line),
                Err(error) => panic!("{sql}: {error}, after {said:?}"),
            }
        }
    }

    /// The same within a minute.
    pub(crate) fn say(&mut self, sql: &str) -> String {
        self.say_within(sql, super::PATIENCE)
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
