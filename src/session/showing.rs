//! Prepared statements as SQL knows them: for a batch that reads `pg_prepared_statements` the backend is given the session's prepared
//! statements under the session's own names, in place of those that it has for all; for EXECUTE, PREPARE or DEALLOCATE of a name that came
//! by Parse, what has that name.

use super::Session;
use super::answer::{Kind, Owed};
use super::batch::{Item, Summary};
use super::run::{Outcome, Run};
use super::statements::{self, Names, Portable};
use super::translate::Translation;
use crate::sql::{Effects, Verdict};
use crate::wire::build;
use crate::wire::parts::Parse;
use crate::wire::tags::frontend as tag;

/// What a Parse says of parameters that it gives no types for.
const NO_TYPES: &[u8] = b"\0\0";

/// The names that a backend was given, to be taken away behind the batch.
#[derive(Debug)]
pub(super) struct Shown(pub(super) Vec<Box<[u8]>>);

impl Session {
    /// Whether the batch is about all the statements that Parse prepared, by the names that the session gave them.
    pub(super) fn is_about_statements(&self, summary: &Summary) -> bool {
        let named = summary.only.as_ref().is_some_and(|only| only.object.is_some());
        summary.effects.contains(Effects::SHOWS_STATEMENTS)
            // One string with several: none of them may have the name of one that PREPARE made.
            || summary.effects.intersects(Effects::EXECUTE | Effects::PREPARE)
                && !named
                && self.names.len() > 0
                && !self.pins.holds(Effects::PREPARE)
    }

    /// Gives the backend what the batch runs by EXECUTE, under the session's name for it, in a round trip before it: its error would be the
    /// client's. An outcome when the batch doesn't go on.
    pub(super) async fn lend_named(
        &mut self,
        bytes: &[u8],
        items: &[Item],
        run: &mut Run,
    ) -> Option<Outcome> {
        let verdicts = items.iter().filter_map(|item| item.verdict.as_ref());
        let by_name = verdicts.filter(|of| of.effects.intersects(Effects::EXECUTE | Effects::PREPARE));
        let mut named: Vec<_> = by_name.filter_map(|verdict| verdict.object.clone()).collect();
        named.retain(|name| self.names.find(name).is_some() && !statements::may_be_shared(name));
        if run.shows || named.is_empty() || !is_whole(bytes, items) {
            return None;
        }
        for name in &named {
            let (statement, _) = self.names.find(name)?;
            // One of SQL's PREPARE may have the name.
            build::close_statement(&mut self.to_backend, name);
            self.answer.expect(Owed::hidden(Kind::Close));
            build::parse(&mut self.to_backend, name, &statement.sql, &statement.types);
            self.answer.expect(Owed::hidden(Kind::Parse));
        }
        build::empty(&mut self.to_backend, tag::SYNC);
        self.answer.expect(Owed::hidden(Kind::Sync));
        match self.relay(run).await {
            Outcome::Settled => {}
            other => return Some(other),
        }
        run.lent = named;
        if run.failed {
            // The client has its error, and there is only the end of the batch left to answer.
            self.skipping = true;
            if let (Some(tag::QUERY), Some(lease)) = (items.last().map(|item| bytes[item.start]), &self.lease)
            {
                let status = lease.status;
                run.ready = true;
                self.transaction_is(status, run);
                build::ready_for_query(&mut self.to_client, status);
                return Some(Outcome::Settled);
            }
        }
        None
    }

    /// Takes up what a statement did that came by Parse and was run by EXECUTE; of several in one string, what any may have done.
    pub(super) fn take_up_executed(&mut self, executed: &Verdict, rolled_back: bool) {
        let known = match executed.object.as_deref() {
            Some(name) => self.names.find(name).map(|(of, _)| self.verdict_of(of)).into_iter().collect(),
            None => self.names.statements().map(|of| self.verdict_of(of)).collect::<Vec<_>>(),
        };
        for verdict in known {
            if executed.object.is_some() && !verdict.effects.contains(Effects::EXECUTE) {
                self.completed(&verdict, rolled_back);
                continue;
            }
            self.pins.take_up(verdict.effects);
            if !verdict.settings.is_empty() {
                self.pins.pin_settings();
            }
        }
    }
}

impl Translation<'_> {
    /// Puts the session's statements in front of the batch; none where nothing could be taken away behind it.
    pub(super) fn show(&mut self, names: &Names, bytes: &[u8], items: &[Item]) -> Option<Shown> {
        if !is_whole(bytes, items) {
            return None;
        }
        for (id, _) in self.backend.prepared.drain() {
            build::close_statement(self.out, &statements::name(id));
            self.answer.expect(Owed::hidden(Kind::Close));
        }
        // What the batch parses itself is there when it is.
        let parsed = |of: &Portable| {
            items
                .iter()
                .filter(|item| bytes[item.start] == tag::PARSE)
                .any(|item| Parse::read(item.body(bytes)).is_some_and(|parse| *parse.name == *of.name))
        };
        let mut shown = Vec::new();
        for of in names.all() {
            if !parsed(&of) {
                build::parse(self.out, &of.name, &of.sql, &of.types);
                self.answer.expect(Owed::hidden(Kind::Parse));
            }
            shown.push(of.name);
        }
        self.shows = true;
        Some(Shown(shown))
    }

    /// Puts an empty statement in front for each DEALLOCATE of one that came by Parse, under the name that the session has for it: it is
    /// what the backend deallocates, its own goes by another name and may be others' too.
    pub(super) fn stand_in(&mut self, names: &Names, bytes: &[u8], items: &[Item]) -> Option<Shown> {
        if !is_whole(bytes, items) {
            return None;
        }
        let verdicts = items.iter().filter_map(|item| item.verdict.as_ref());
        let named = verdicts.filter(|verdict| verdict.effects.contains(Effects::DEALLOCATE));
        let mut shown = Vec::new();
        for name in named.filter_map(|verdict| verdict.object.as_deref()) {
            if names.find(name).is_some() && !statements::may_be_shared(name) {
                // One of SQL's PREPARE may have the name.
                build::close_statement(self.out, name);
                self.answer.expect(Owed::hidden(Kind::Close));
                build::parse(self.out, name, b"", NO_TYPES);
                self.answer.expect(Owed::hidden(Kind::Parse));
                shown.push(name.into());
            }
        }
        (!shown.is_empty()).then_some(Shown(shown))
    }

    /// Takes them away again.
    pub(super) fn hide(&mut self, shown: &Shown) {
        for name in &shown.0 {
            build::close_statement(self.out, name);
            self.answer.expect(Owed::hidden(Kind::Close));
        }
        build::empty(self.out, tag::FLUSH);
    }
}

/// Whether a batch ends in such a way that what was put in front can be taken away behind it.
fn is_whole(bytes: &[u8], items: &[Item]) -> bool {
    matches!(items.last().map(|item| bytes[item.start]), Some(tag::QUERY | tag::SYNC))
}
