//! Tables of what comes back and what the client gets of it.

use super::*;
use crate::wire::build;

/// Feeds `bytes` in pieces of `piece`, gives what is passed on and the events' names.
fn feed(answer: &mut Answer, bytes: &[u8], piece: usize) -> (Vec<u8>, Vec<String>) {
    let (mut passed, mut events, mut held) = (Vec::new(), Vec::new(), Vec::new());
    for chunk in bytes.chunks(piece) {
        held.extend_from_slice(chunk);
        let mut at = 0;
        loop {
            match answer.step(&held[at..]).unwrap() {
                Step::Pass(n) => {
                    passed.extend_from_slice(&held[at..at + n]);
                    at += n;
                }
                Step::Skip(n) => at += n,
                Step::Event(event, n) => {
                    events.push(match event {
                        Event::Error { fields, hidden, reused, .. } => {
                            let of = if reused { " of one reused" } else { "" };
                            format!("error {} {hidden}{of}", fields.state().as_str())
                        }
                        Event::Complete { tag, hidden, .. } => {
                            format!("complete {} {hidden}", String::from_utf8_lossy(tag))
                        }
                        Event::Ready { status, owed } => format!("ready {status:?} {}", owed.hidden),
                        Event::Notice(fields) => format!("notice {}", fields.state().as_str()),
                        Event::Parameter { .. } => "parameter".into(),
                        Event::CopyIn => "copy in".into(),
                        Event::CopyBoth => "copy both".into(),
                        Event::Parsed => "parsed".into(),
                        Event::Reused => "reused".into(),
                        Event::Notification(_) => "notification".into(),
                    });
                    at += n;
                }
                Step::More => break,
            }
        }
        held.drain(..at);
    }
    assert!(held.is_empty());
    (passed, events)
}

fn answer(kinds: &[(Kind, bool)]) -> Answer {
    let mut answer = Answer::default();
    for (kind, hidden) in kinds {
        answer.expect(if *hidden { Owed::hidden(*kind) } else { Owed::new(*kind) });
    }
    answer
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    build::frame(&mut out, tag, |out| out.extend_from_slice(body));
    out
}

fn ready() -> Vec<u8> {
    let mut out = Vec::new();
    build::ready_for_query(&mut out, TxStatus::Idle);
    out
}

#[test]
fn rows_are_passed_on_in_pieces_of_any_size() {
    let rows = [
        message(tag::ROW_DESCRIPTION, b"cols"),
        message(tag::DATA_ROW, &[7; 300]),
        message(tag::DATA_ROW, b"x"),
    ]
    .concat();
    let bytes = [rows.clone(), message(tag::COMMAND_COMPLETE, b"SELECT 2\0"), ready()].concat();
    for piece in [1, 2, 7, 64, 1000] {
        let mut answer = answer(&[(Kind::Query, false)]);
        let (passed, events) = feed(&mut answer, &bytes, piece);
        assert_eq!(passed, rows, "pieces of {piece}");
        assert_eq!(events, ["complete SELECT 2 false", "ready Idle false"]);
        assert!(answer.is_settled());
    }
}

#[test]
fn a_hidden_query_leaves_no_trace() {
    let hidden = [
        message(tag::NOTICE_RESPONSE, b"\0"),
        message(tag::ROW_DESCRIPTION, b"c"),
        message(tag::DATA_ROW, b"r"),
        message(tag::COMMAND_COMPLETE, b"SET\0"),
        ready(),
    ]
    .concat();
    let own =
        [message(tag::DATA_ROW, b"mine"), message(tag::COMMAND_COMPLETE, b"SELECT 1\0"), ready()].concat();
    let mut answer = answer(&[(Kind::Query, true), (Kind::Query, false)]);
    let (passed, events) = feed(&mut answer, &[hidden, own].concat(), 3);
    assert_eq!(passed, message(tag::DATA_ROW, b"mine"));
    assert_eq!(
        events,
        ["complete SET true", "ready Idle true", "complete SELECT 1 false", "ready Idle false"]
    );
}

#[test]
fn a_hidden_parse_in_a_batch_is_dropped() {
    let bytes = [
        message(tag::CLOSE_COMPLETE, b""),
        message(tag::PARSE_COMPLETE, b""),
        message(tag::BIND_COMPLETE, b""),
        message(tag::NO_DATA, b""),
        message(tag::COMMAND_COMPLETE, b"INSERT 0 1\0"),
        ready(),
    ]
    .concat();
    let mut answer = answer(&[
        (Kind::Close, true),
        (Kind::Parse, true),
        (Kind::Bind, false),
        (Kind::Describe, false),
        (Kind::Execute, false),
        (Kind::Sync, false),
    ]);
    let (passed, events) = feed(&mut answer, &bytes, 4);
    assert_eq!(passed, [message(tag::BIND_COMPLETE, b""), message(tag::NO_DATA, b"")].concat());
    assert_eq!(events, ["complete  true", "complete INSERT 0 1 false", "ready Idle false"]);
}

#[test]
fn an_error_settles_the_batch_up_to_its_sync() {
    let mut error = Vec::new();
    build::error(&mut error, build::Severity::Error, crate::wire::SqlState::SYNTAX_ERROR, "m", None, None);
    let bytes = [error, ready(), message(tag::PARSE_COMPLETE, b""), ready()].concat();
    let mut answer = answer(&[
        (Kind::Parse, false),
        (Kind::Bind, false),
        (Kind::Execute, false),
        (Kind::Sync, false),
        (Kind::Parse, false),
        (Kind::Sync, false),
    ]);
    let (_, events) = feed(&mut answer, &bytes, 100);
    assert_eq!(events, ["error 42601 false", "ready Idle false", "parsed", "ready Idle false"]);
    assert!(answer.is_settled());
}

#[test]
fn a_copy_swallows_the_sync_that_went_out_with_it() {
    let mut answer = answer(&[(Kind::Execute, false), (Kind::Sync, false)]);
    let (_, events) = feed(&mut answer, &message(tag::COPY_IN_RESPONSE, b"\0\0\0"), 100);
    assert_eq!(events, ["copy in"]);
    answer.copy_takes_sync();
    answer.expect(Owed::new(Kind::Sync));
    let (_, events) =
        feed(&mut answer, &[message(tag::COMMAND_COMPLETE, b"COPY 1\0"), ready()].concat(), 100);
    assert_eq!(events, ["complete COPY 1 false", "ready Idle false"]);
}

#[test]
fn what_a_statement_is_comes_out_as_a_number() {
    let columns = |table: u8, name: &[u8]| {
        let body =
            [b"\0\x01", name, b"\0\0\0\0", &[table], b"\0\x01\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0"].concat();
        message(tag::ROW_DESCRIPTION, &body)
    };
    let parameters = |n: u8| message(tag::PARAMETER_DESCRIPTION, &[0, 1, 0, 0, 0, n]);
    let shape = |bytes: &[u8], piece: usize| {
        let mut answer = answer(&[(Kind::DescribeStatement, false)]);
        let (passed, events) = feed(&mut answer, bytes, piece);
        assert!(answer.is_settled() && events.is_empty() && passed == bytes);
        answer.take_shapes()
    };
    let one = shape(&[parameters(23), columns(1, b"a")].concat(), 1);
    assert!(one.len() == 1 && one[0] != 0);
    assert_eq!(shape(&[parameters(23), columns(2, b"a")].concat(), 1000), one, "another table");
    let no_rows = message(tag::NO_DATA, b"");
    for other in [
        [parameters(23), columns(1, b"b")],
        [parameters(25), columns(1, b"a")],
        [parameters(23), no_rows.clone()],
    ] {
        assert_ne!(shape(&other.concat(), 7), one);
    }
    let long = columns(1, &vec![b'x'; STREAM_OVER]);
    assert_eq!(shape(&[parameters(23), long].concat(), 1000), [0]);
    // One after the other, and none for what fails.
    let mut error = Vec::new();
    build::error(&mut error, build::Severity::Error, crate::wire::SqlState::SYNTAX_ERROR, "m", None, None);
    let first = [parameters(23), columns(1, b"a")].concat();
    let bytes = [first.clone(), first, parameters(23), error, ready()].concat();
    let mut answer = answer(&[
        (Kind::DescribeStatement, false),
        (Kind::DescribeStatement, true),
        (Kind::DescribeStatement, false),
        (Kind::Sync, false),
    ]);
    feed(&mut answer, &bytes, 3);
    assert_eq!(answer.take_shapes(), [one[0], one[0]]);
}

#[test]
fn what_nobody_asked_for_is_out_of_step() {
    assert_eq!(answer(&[]).step(&ready()).unwrap_err(), OutOfStep::Unexpected(tag::READY_FOR_QUERY));
    assert_eq!(
        answer(&[(Kind::Bind, false)]).step(&message(tag::CLOSE_COMPLETE, b"")).unwrap_err(),
        OutOfStep::Unexpected(tag::CLOSE_COMPLETE)
    );
    assert_eq!(
        answer(&[(Kind::Query, false)]).step(&message(b'?', b"")).unwrap_err(),
        OutOfStep::Unexpected(b'?')
    );
}

#[test]
fn a_parse_that_was_not_sent_is_answered_in_its_turn() {
    let owed = || {
        let mut answer = Answer::default();
        answer.expect(Owed::hidden(Kind::Query));
        answer.expect(Owed::new(Kind::Reused));
        answer.expect(Owed::reused(Kind::Bind));
        answer.expect(Owed::new(Kind::Execute));
        answer.expect(Owed::new(Kind::Sync));
        answer
    };
    let before = [message(tag::COMMAND_COMPLETE, b"SET\0"), ready()].concat();
    let well = [
        before.clone(),
        message(tag::BIND_COMPLETE, b""),
        message(tag::COMMAND_COMPLETE, b"SELECT 1\0"),
        ready(),
    ];
    let mut answer = owed();
    let (passed, events) = feed(&mut answer, &well.concat(), 1);
    assert_eq!(passed, message(tag::BIND_COMPLETE, b""));
    assert_eq!(
        events,
        ["complete SET true", "ready Idle true", "reused", "complete SELECT 1 false", "ready Idle false"]
    );
    assert_eq!((answer.answered(), answer.is_settled()), (3, true));

    let mut answer = owed();
    let error = message(tag::ERROR_RESPONSE, b"SERROR\0C0A000\0Mcached plan\0\0");
    let (_, events) = feed(&mut answer, &[before, error, ready()].concat(), 7);
    assert_eq!(events[2..], ["reused", "error 0A000 false of one reused", "ready Idle false"]);
}
