//! Transactions that are open when the primary dies, one for each way to speak: each ends in 40001, stays aborted until its
//! end, and the same session commits the next.

use std::pin::pin;

use futures_util::SinkExt;
use tokio_postgres::{Client, Error, NoTls};

use pg_ha_proxy::cluster::How;

use crate::TURN;
use crate::load::python;
use crate::stage::{Stage, application};

const INSERT: &str = "INSERT INTO ledger (id, part, client) VALUES ($1, 1, 'open')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_ends_in_40001_and_its_session_goes_on() {
    let _turn = TURN.lock().await;
    let stage = Stage::set("open", false).await;
    let mut sessions = Vec::new();
    for id in 1..=7 {
        let client = session(&stage).await;
        client.batch_execute("BEGIN").await.expect("BEGIN");
        client.execute(INSERT, &[&i64::from(id)]).await.expect("an INSERT");
        sessions.push(client);
    }
    let [simple, extended, pipelined, copying, committing, rolling_back, in_copy]: [Client; 7] =
        sessions.try_into().unwrap_or_else(|_| unreachable!("seven"));
    let bystander = session(&stage).await;
    let mut script = python_in_pipeline(&stage);

    let mut sink = pin!(in_copy.copy_in::<_, &[u8]>("COPY ledger FROM STDIN").await.expect("COPY"));
    sink.send(b"70\t1\topen\n").await.expect("a row");
    sink.flush().await.expect("sent");

    let leader = stage.cluster.status().await.leader.expect("a leader");
    stage.cluster.kill(&leader, How::Member).await.expect("a kill");
    script.tell("killed");

    lost(simple.batch_execute("INSERT INTO ledger VALUES (10, 1, 'open')").await);
    aborted(simple.batch_execute("SELECT 1").await);
    goes_on(&simple, 11).await;

    lost(extended.execute(INSERT, &[&20_i64]).await);
    aborted(extended.query("SELECT 1", &[]).await);
    goes_on(&extended, 21).await;

    let (first, second, third) = tokio::join!(
        pipelined.execute(INSERT, &[&30_i64]),
        pipelined.query("SELECT 1", &[]),
        pipelined.execute(INSERT, &[&31_i64]),
    );
    lost(first);
    aborted(second);
    aborted(third);
    goes_on(&pipelined, 32).await;

    lost(copying.copy_in::<_, &[u8]>("COPY ledger FROM STDIN").await.map(|_| ()));
    goes_on(&copying, 41).await;

    lost(committing.batch_execute("COMMIT").await);
    goes_on(&committing, 51).await;

    rolling_back.batch_execute("ROLLBACK").await.expect("ROLLBACK is what was wanted anyway");
    goes_on(&rolling_back, 61).await;

    // Rows that are sent to a COPY that is no more are taken and dropped, as PostgreSQL does.
    let _late = sink.send(b"71\t1\topen\n").await;
    lost(sink.finish().await);
    goes_on(&in_copy, 72).await;

    script.ends_well();
    bystander.batch_execute("SELECT 1").await.expect("an idle session notices nothing");
    let rows = bystander.query("SELECT id FROM ledger ORDER BY id", &[]).await.expect("the ledger");
    let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(ids, [11, 21, 32, 41, 51, 61, 72, 102], "exactly what was acknowledged stands");
    stage.end().await;
}

async fn session(stage: &Stage) -> Client {
    let status = stage.cluster.status().await;
    let (client, connection) = application(&status, stage.proxy.port).connect(NoTls).await.expect("a login");
    tokio::spawn(connection);
    client
}

#[track_caller]
fn lost<T>(answer: Result<T, Error>) {
    failed(answer, "40001", "ERROR");
}

#[track_caller]
fn aborted<T>(answer: Result<T, Error>) {
    failed(answer, "25P02", "ERROR");
}

#[track_caller]
fn failed<T>(answer: Result<T, Error>, state: &str, severity: &str) {
    let error = answer.err().expect("an error");
    let said = error.as_db_error().unwrap_or_else(|| panic!("not the server's: {error:?}"));
    assert_eq!((said.code().code(), said.severity()), (state, severity), "{said}");
}

/// Ends what is left of the transaction, and commits another.
async fn goes_on(client: &Client, id: i64) {
    client.batch_execute("ROLLBACK").await.expect("the session lives");
    client.batch_execute("BEGIN").await.expect("BEGIN");
    client.execute(INSERT, &[&id]).await.expect("an INSERT");
    client.batch_execute("COMMIT").await.expect("COMMIT");
}

/// A script that is told when the primary was killed.
struct Script(std::process::Child);

fn python_in_pipeline(stage: &Stage) -> Script {
    let mut command = python(stage.runtime(), "open_pipeline.py");
    let status = stage.dsn();
    command.arg(status).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().expect("Python");
    let mut line = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut out, &mut line).expect("a line");
    assert_eq!(line.trim(), "open");
    Script(child)
}

impl Script {
    fn tell(&mut self, word: &str) {
        let mut pipe = self.0.stdin.take().expect("piped");
        std::io::Write::write_all(&mut pipe, format!("{word}\n").as_bytes()).expect("a line");
    }

    fn ends_well(&mut self) {
        assert!(self.0.wait().expect("its end").success(), "open_pipeline.py failed");
    }
}
