//! `SET pgha.route`, `SET pgha.consistency` and `SHOW pgha.last`: what a session wishes of routing, and what it came to.
//!
//! PostgreSQL itself keeps settings with a dot in their name for anybody; the proxy reads along.

use std::rc::Rc;
use std::sync::Arc;

use super::Session;
use super::batch::{End, Item};
use crate::backend::Settings;
use crate::config::Consistency;
use crate::sql::{Hint, Verdict};
use crate::wire::build;
use crate::wire::tags::frontend;

/// What the session's `pgha.` settings say.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wishes {
    pub(super) route: Option<Hint>,
    pub(super) consistency: Option<Consistency>,
}

impl Wishes {
    /// The wishes in a session's settings; words that mean nothing wish for nothing.
    pub(super) fn of(settings: &Settings) -> Self {
        let word = |name: &str| settings.value(name).map(<[u8]>::to_ascii_lowercase);
        Self {
            route: word("pgha.route").and_then(|word| match &*word {
                b"primary" => Some(Hint::Primary),
                b"replica" => Some(Hint::Replica),
                _ => None,
            }),
            consistency: word("pgha.consistency").and_then(|word| match &*word {
                b"eventual" => Some(Consistency::Eventual),
                b"session" => Some(Consistency::Session),
                b"strong" => Some(Consistency::Strong),
                _ => None,
            }),
        }
    }
}

/// Where a statement went.
#[derive(Debug)]
pub(super) struct Last {
    pub(super) member: u16,
    pub(super) verdict: Rc<Verdict>,
    /// Why the primary, where the class alone doesn't say it.
    pub(super) because: Option<&'static str>,
}

impl Session {
    /// What the session's settings, as they are now, wish for.
    pub(super) fn wishes(&mut self) -> Wishes {
        if !Arc::ptr_eq(&self.wishes.0, &self.settings) {
            self.wishes = (Arc::clone(&self.settings), Wishes::of(&self.settings));
        }
        self.wishes.1
    }

    /// Answers `SHOW pgha.last`, if the batch is that and in the simple protocol; true if it was.
    pub(super) fn show_last(&mut self, bytes: &[u8], items: &[Item], end: End, only: &Verdict) -> bool {
        if only.show.as_deref() != Some("pgha.last")
            || bytes.first() != Some(&frontend::QUERY)
            || items.len() != 1
        {
            return false;
        }
        let text = self.last.as_ref().map_or_else(|| "nothing yet".to_owned(), |last| self.describe(last));
        build::text_row_description(&mut self.to_client, &["pgha.last"]);
        build::text_row(&mut self.to_client, &[Some(&text)]);
        build::command_complete(&mut self.to_client, "SHOW");
        self.answer_end(end);
        true
    }

    fn describe(&self, last: &Last) -> String {
        let topology = self.worker.topology();
        let known = topology.members.iter().find(|member| member.id.0 == last.member);
        let member = known.map_or_else(|| last.member.to_string(), |member| member.name.to_string());
        let class = last.verdict.class().as_str();
        let because = last.because.map(|because| format!(", {because}")).unwrap_or_default();
        format!("{member}: {class} ({}{because})", last.verdict.why())
    }
}
