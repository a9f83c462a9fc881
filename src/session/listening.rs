//! LISTEN over a change of the primary: taken up again on the new one, with word that something may have been missed.

use super::acquire::Attempt;
use super::batch::Summary;
use super::loss::Loss;
use super::run::{Outcome, Run};
use super::{Ended, Session};
use crate::sql::{Class, Effects, Verdict};
use crate::wire::SqlState;
use crate::wire::build::{self, Severity};

impl Session {
    /// Notes the channels that a completed statement began or ended to listen on.
    pub(super) fn note_channels(&mut self, verdict: &Verdict) {
        let effects = verdict.effects;
        if effects.intersects(Effects::UNLISTEN_ALL | Effects::DISCARD_ALL) {
            self.channels.clear();
        }
        if effects.contains(Effects::UNLISTEN) {
            self.channels.retain(|channel| Some(channel) != verdict.object.as_ref());
        }
        for channel in &verdict.channels {
            if !self.channels.contains(channel) {
                self.channels.push(channel.clone());
            }
        }
    }

    /// Listens on the new primary to what the session listened to on the one that was lost.
    pub(super) async fn listen_again(&mut self) -> Result<(), Ended> {
        let summary = Summary { class: Class::Write, ..Summary::default() };
        let mut attempt = Attempt::new(&summary);
        self.relisten = false;
        loop {
            if self.acquire(&mut attempt, 0).await?.is_err() {
                let message = "the connection to the primary was lost, and with it: LISTEN";
                self.fatal(SqlState::ADMIN_SHUTDOWN, message);
                return Err(Ended::Fatal);
            }
            let mut run = Run::new(self, &summary, &attempt);
            self.prepare_backend(false);
            self.hidden_query(&listen(&self.channels));
            match self.relay(&mut run).await {
                Outcome::Settled => break,
                Outcome::ClientGone => return Err(Ended::Client),
                Outcome::Killed => return Err(self.ended_by_administrator()),
                Outcome::Lost(loss) => self.lost_again(&loss, &mut attempt),
            }
        }
        let message = "listening again after a change of the primary; notifications may have been missed";
        build::error(&mut self.to_client, Severity::Notice, SqlState::SUCCESS, message, None, None);
        Ok(())
    }

    fn lost_again(&mut self, loss: &Loss, attempt: &mut Attempt) {
        self.suspect();
        self.give_up_backend(loss);
        attempt.lost();
    }
}

fn listen(channels: &[Box<[u8]>]) -> Vec<u8> {
    let mut sql = Vec::new();
    for channel in channels {
        sql.extend_from_slice(b"LISTEN \"");
        for byte in channel {
            if *byte == b'"' {
                sql.push(b'"');
            }
            sql.push(*byte);
        }
        sql.extend_from_slice(b"\";");
    }
    sql
}
