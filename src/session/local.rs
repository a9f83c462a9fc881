//! What the proxy answers by itself: a BEGIN that isn't sent yet, the end of a transaction that has none, what a lost
//! transaction allows, a lone Sync.

use std::rc::Rc;

use super::Session;
use super::batch::{End, Item, Summary};
use super::loss::LOST_TRANSACTION;
use super::state::Tx;
use crate::sql::{Class, Hint, TransactionVerb, Verdict};
use crate::wire::build;
use crate::wire::parts::{Bind, Named};
use crate::wire::tags::{backend, frontend};
use crate::wire::{HEADER_LEN, SqlState, TxStatus};

/// Bytes of a BEGIN that waits, with the SET TRANSACTION behind it; a longer one is sent.
const LONGEST_BEGIN: usize = 1000;

/// PostgreSQL's words for a statement in a failed transaction.
pub(super) const ABORTED: &str =
    "current transaction is aborted, commands ignored until end of transaction block";

impl Session {
    /// Answers a batch without a backend, if it can be; true if it was.
    pub(super) fn answer_locally(
        &mut self,
        bytes: &[u8],
        items: &[Item],
        end: End,
        summary: &Summary,
    ) -> bool {
        if summary.only.as_ref().is_some_and(|only| only.explain_route.is_some())
            && self.explain_route(bytes, items, end, summary)
        {
            return true;
        }
        let failed = self.lease.as_ref().is_some_and(|lease| lease.status == TxStatus::Failed);
        if !failed
            && !self.skipping
            && !matches!(self.tx, Tx::Lost { .. })
            && let Some(only) = summary.only.as_ref().filter(|only| only.show.is_some())
            && self.show_last(bytes, items, end, only)
        {
            return true;
        }
        if self.lease.is_some() {
            return false;
        }
        if self.skipping {
            // An error was given: all is dropped up to the Sync, which is answered.
            if matches!(end, End::Sync | End::Query) {
                self.answer_end(end);
            }
            return true;
        }
        if let Tx::Lost { told } = self.tx {
            self.answer_lost(bytes, items, end, told);
            return true;
        }
        if summary.verdicts == 0 && items.iter().all(|item| is_nothing(bytes[item.start])) {
            if end == End::Sync {
                self.answer_end(end);
            }
            return true;
        }
        // Of all that is run, only what begins, sets or ends a transaction.
        let may =
            |only: &&Rc<Verdict>| only.transaction.is_some() && only.statements == 1 && summary.runs == 1;
        let Some(only) = summary.only.as_ref().filter(may) else { return false };
        // What a server refuses before it comes to the statement is left to one.
        if items.iter().any(|item| is_foreign(bytes, item, items)) {
            return false;
        }
        let Some(tag) = self.local_tag(only, bytes, items) else { return false };
        self.complete_with(bytes, items, tag);
        self.answer_end(end);
        true
    }

    /// The command tag of a statement that needs no backend, its effect already taken up.
    fn local_tag(&mut self, only: &Verdict, bytes: &[u8], items: &[Item]) -> Option<&'static str> {
        let pooled = self.pools.identity.pool_mode == crate::config::PoolMode::Transaction;
        match (&only.transaction, &self.tx) {
            (Some(TransactionVerb::Begin(modes)), Tx::Idle) if pooled && only.hint != Some(Hint::Primary) => {
                let begin = items.iter().find_map(|item| text(bytes, item))?;
                let tag = begin_tag(begin);
                self.tx = Tx::Deferred { begin: begin.to_vec(), modes: *modes };
                Some(tag)
            }
            (Some(TransactionVerb::Set(set)), Tx::Deferred { begin, modes })
                if only.class() == Class::Session && begin.len() < LONGEST_BEGIN =>
            {
                let sql = items
                    .iter()
                    .find_map(|item| text(bytes, item))
                    .filter(|sql| sql.len() < LONGEST_BEGIN)?;
                let (begin, modes) = ([&begin[..], b"\n;", sql].concat(), modes.then(*set));
                self.tx = Tx::Deferred { begin, modes };
                Some("SET")
            }
            (Some(TransactionVerb::Commit { chain: false }), Tx::Deferred { .. }) => {
                self.tx = Tx::Idle;
                Some("COMMIT")
            }
            (Some(TransactionVerb::Rollback { chain: false }), Tx::Deferred { .. }) => {
                self.tx = Tx::Idle;
                Some("ROLLBACK")
            }
            _ => None,
        }
    }

    /// The transaction's backend is gone: only its end is taken.
    fn answer_lost(&mut self, bytes: &[u8], items: &[Item], end: End, told: bool) {
        for item in items {
            let Some(verdict) = &item.verdict else { continue };
            let ends = matches!(
                verdict.transaction,
                Some(TransactionVerb::Commit { .. } | TransactionVerb::Rollback { .. })
            );
            let commits = matches!(verdict.transaction, Some(TransactionVerb::Commit { .. }));
            if ends && (told || !commits) {
                self.tx = Tx::Idle;
                self.complete_with(bytes, items, "ROLLBACK");
            } else if told {
                self.error(SqlState::IN_FAILED_SQL_TRANSACTION, ABORTED, None, None);
            } else {
                // A COMMIT ends the transaction, with an error as without.
                self.tx = if commits { Tx::Idle } else { Tx::Lost { told: true } };
                self.worker.shared.told.told(SqlState::SERIALIZATION_FAILURE);
                self.error(SqlState::SERIALIZATION_FAILURE, LOST_TRANSACTION, None, None);
            }
            self.settle_names(Some(0));
            self.answer_end(end);
            return;
        }
        // Nothing of it runs: Parse, Bind and Describe fail as they do in a failed transaction. A driver that prepares first
        // learns here that it has to retry.
        if items.iter().any(|item| !is_nothing(bytes[item.start])) {
            let (state, message) = if told {
                (SqlState::IN_FAILED_SQL_TRANSACTION, ABORTED)
            } else {
                (SqlState::SERIALIZATION_FAILURE, LOST_TRANSACTION)
            };
            self.tx = Tx::Lost { told: true };
            self.error(state, message, None, None);
            self.settle_names(Some(0));
        } else if end != End::Sync {
            // A lone Flush, as libpq sends behind a Sync: no error was given, so that nothing is to be dropped.
            return;
        }
        self.answer_end(end);
    }

    /// A ROLLBACK in front of other statements in one string, as asyncpg resets its connections: it ends the lost transaction, and
    /// what stands behind it is a Query of its own.
    pub(super) fn rolled_back_in_front(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.lease.is_some() || self.skipping || bytes.first() != Some(&frontend::QUERY) {
            return None;
        }
        let sql = bytes.get(HEADER_LEN..)?.strip_suffix(b"\0")?;
        let (first, rest) = sql.split_at(crate::sql::second_statement(sql, &self.lexing)?);
        let rolls_back = Some(TransactionVerb::Rollback { chain: false });
        if self.worker.classify(&self.pools.identity.catalog, first, self.lexing).verdict.transaction
            != rolls_back
        {
            return None;
        }
        self.tx = Tx::Idle;
        build::command_complete(&mut self.to_client, "ROLLBACK");
        let mut query = self.worker.buffer();
        build::query(&mut query, rest);
        Some(query)
    }

    /// The answers to a batch whose one statement completes with `tag` and returns no rows.
    pub(super) fn complete_with(&mut self, bytes: &[u8], items: &[Item], tag: &str) {
        self.answer_with(bytes, items, (&[], &[]), |out| build::command_complete(out, tag));
    }

    /// The answers to each message of a batch whose one statement has parameters of these types, returns these columns (none: no
    /// rows), and is run by `complete`.
    pub(super) fn answer_with(
        &mut self,
        bytes: &[u8],
        items: &[Item],
        (types, columns): (&[u32], &[&str]),
        complete: impl Fn(&mut Vec<u8>),
    ) {
        if self.to_client.capacity() == 0 {
            self.to_client = self.worker.buffer();
        }
        let out = &mut self.to_client;
        for item in items {
            match bytes[item.start] {
                frontend::PARSE => build::empty(out, backend::PARSE_COMPLETE),
                frontend::BIND => build::empty(out, backend::BIND_COMPLETE),
                frontend::CLOSE => build::empty(out, backend::CLOSE_COMPLETE),
                frontend::DESCRIBE => {
                    if let Some(Named::Statement(_)) = Named::read(item.body(bytes)) {
                        build::parameter_description(out, types);
                    }
                    if columns.is_empty() {
                        build::empty(out, backend::NO_DATA);
                    } else {
                        build::text_row_description(out, columns);
                    }
                }
                frontend::QUERY => {
                    if !columns.is_empty() {
                        build::text_row_description(out, columns);
                    }
                    complete(out);
                }
                frontend::EXECUTE => complete(out),
                _ => {}
            }
        }
    }
}

/// The SQL of a Query, or of the statement that a message is about.
pub(super) fn text<'a>(bytes: &'a [u8], item: &'a Item) -> Option<&'a [u8]> {
    match bytes[item.start] {
        frontend::QUERY => item.body(bytes).strip_suffix(b"\0"),
        frontend::PARSE => crate::wire::parts::Parse::read(item.body(bytes)).map(|parse| parse.sql),
        frontend::BIND => item.statement.as_ref().map(|statement| &*statement.sql),
        _ => None,
    }
}

/// PostgreSQL answers BEGIN and START TRANSACTION each with its own words.
fn begin_tag(sql: &[u8]) -> &'static str {
    let start = sql.windows(5).any(|word| word.eq_ignore_ascii_case(b"start"));
    if start { "START TRANSACTION" } else { "BEGIN" }
}

/// Messages that ask for nothing outside of a COPY or a batch.
fn is_nothing(tag: u8) -> bool {
    matches!(
        tag,
        frontend::SYNC | frontend::FLUSH | frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL
    )
}

/// Whether a message may be refused for what it names or brings, or is about another statement than the one that is bound.
pub(super) fn is_foreign(bytes: &[u8], item: &Item, items: &[Item]) -> bool {
    let unknown = item.error.is_some() || (item.statement.is_none() && item.unnamed == 0);
    let id = |item: &Item| (item.statement.as_ref().map(|statement| statement.id), item.unnamed);
    match bytes[item.start] {
        frontend::BIND => {
            unknown || Bind::read(item.body(bytes)).is_none_or(|bind| !bind.tail.starts_with(&[0, 0, 0, 0]))
        }
        frontend::DESCRIBE if matches!(Named::read(item.body(bytes)), Some(Named::Statement(_))) => {
            unknown || !items.iter().any(|bind| bytes[bind.start] == frontend::BIND && id(bind) == id(item))
        }
        _ => item.error.is_some(),
    }
}
