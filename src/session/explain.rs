//! `EXPLAIN (ROUTE) statement`: where the statement would go now, and why. Answered by the proxy itself, in either protocol; nothing
//! is run.

use std::rc::Rc;

use super::Session;
use super::acquire::Attempt;
use super::batch::{End, Item, Summary};
use super::local::text;
use super::state::Tx;
use crate::routing::{Fence, Target};
use crate::sql::lexer::{Kind, Lexer};
use crate::sql::{Class, Verdict};
use crate::topology::{Member, Topology};
use crate::wire::TxStatus;
use crate::wire::build;
use crate::wire::parts::Parse;
use crate::wire::tags::frontend;

/// The columns, all of type text.
const COLUMNS: [&str; 6] = ["route", "class", "reason", "member", "lag", "fence"];

/// The type `text`.
const TEXT: u32 = 25;

/// What is told of a statement.
struct Route {
    to: &'static str,
    class: &'static str,
    reason: String,
    member: Option<String>,
    lag: Option<String>,
    fence: String,
}

impl Session {
    /// Answers a batch that is about one `EXPLAIN (ROUTE)` alone; true if it was answered. In a failed transaction, or behind
    /// messages that no Sync has ended, the server has to say what that comes to.
    pub(super) fn explain_route(
        &mut self,
        bytes: &[u8],
        items: &[Item],
        end: End,
        summary: &Summary,
    ) -> bool {
        let failed = self.lease.as_ref().is_some_and(|lease| lease.status == TxStatus::Failed);
        if failed || self.skipping || self.open_batch || matches!(self.tx, Tx::Lost { .. }) {
            return false;
        }
        let (Some(only), false) = (&summary.only, items.iter().any(|item| item.error.is_some())) else {
            return false;
        };
        let parse = self.unnamed.parse();
        let unnamed = parse.as_ref().filter(|_| items.iter().any(|item| item.unnamed != 0));
        let sql = items.iter().find_map(|item| text(bytes, item)).or(unnamed.map(|parse| parse.sql));
        let Some(sql) = sql.map(<[u8]>::to_vec) else { return false };
        let types = types(bytes, items, unnamed, &sql);
        let Some(inner) = only.explain_route.and_then(|at| sql.get(at..)) else { return false };
        let inner = self.classify(inner).verdict;
        let route = self.route_of(&inner, only);
        self.answer_with(bytes, items, (&types, &COLUMNS), |out| route.row(out));
        if matches!(end, End::Query | End::Sync) {
            if matches!(self.tx, Tx::Idle) {
                self.portals.clear();
            }
            self.answer_end(end);
        }
        true
    }

    /// Where `inner` would go now; a hint may stand in front of the whole.
    fn route_of(&mut self, inner: &Rc<Verdict>, outer: &Verdict) -> Route {
        let mut summary = Summary::default();
        summary.add(inner, true);
        summary.hint = summary.hint.or(outer.hint);
        let mut attempt = Attempt::new(&summary);
        attempt.consistency = attempt.consistency.or(outer.consistency);
        let topology = self.worker.topology();
        let turn = match inner.class() {
            Class::VectorRead => self.worker.searches.clone(),
            _ => self.worker.reads.clone(),
        };
        let target = self.target_in(&attempt, &topology, &turn);
        let because = self.because.take();
        let held = self.lease.as_ref().map(|lease| (lease.backend.member, lease.primary));
        let (member, primary, because) = match (held, target) {
            (Some((number, primary)), _) => {
                let member = topology.members.iter().find(|member| member.id.0 == number);
                (member, primary, Some("the session's own connection"))
            }
            (None, Target::Replica(id)) => (topology.member(id), false, because),
            (None, Target::Primary(_)) => match topology.primary() {
                Some(primary) => (Some(primary), true, because),
                None => (None, true, Some("there is no primary now: it would wait")),
            },
        };
        let class = inner.class();
        let reason = match because {
            Some(because) => format!("{}, {because}", inner.why()),
            None => inner.why().to_owned(),
        };
        Route {
            to: match class {
                Class::Session => "session",
                _ if primary => "primary",
                _ => "replica",
            },
            class: class.as_str(),
            reason,
            member: member.map(|member| member.name.to_string()),
            lag: member.filter(|_| !primary).map(lag),
            fence: self.fence_words(member.filter(|_| !primary), &topology),
        }
    }

    /// The session's fence, and whether the replica that was chosen has reached it.
    fn fence_words(&self, replica: Option<&Member>, topology: &Topology) -> String {
        let lsn = match self.fence {
            Fence::None => return "none".to_owned(),
            Fence::Wrote { .. } => return "wrote; the position is not known yet".to_owned(),
            Fence::At { lsn, .. } => lsn,
        };
        let position = format!("{:X}/{:X}", lsn.0 >> 32, lsn.0 & 0xffff_ffff);
        let positions = &self.worker.shared.positions;
        match replica.map(|member| positions.replayed_in(member.id, topology.epoch)) {
            Some(replayed) if self.fence.is_reached(replayed) => format!("{position}, reached"),
            Some(_) => format!("{position}, not reached"),
            None => position,
        }
    }
}

impl Route {
    fn row(&self, out: &mut Vec<u8>) {
        let values = [
            Some(self.to),
            Some(self.class),
            Some(&*self.reason),
            self.member.as_deref(),
            self.lag.as_deref(),
            Some(&*self.fence),
        ];
        build::text_row(out, &values);
        build::command_complete(out, "EXPLAIN");
    }
}

fn lag(member: &Member) -> String {
    let bytes = member.lag_bytes.map_or_else(|| "unknown".to_owned(), |bytes| format!("{bytes} bytes"));
    member.lag.map_or_else(|| bytes.clone(), |lag| format!("{bytes}, {} ms", lag.as_millis()))
}

/// The types of the statement's parameters: as its Parse gives them, text where that says nothing.
fn types(bytes: &[u8], items: &[Item], unnamed: Option<&Parse<'_>>, sql: &[u8]) -> Vec<u32> {
    let of_batch = items.iter().find_map(|item| match bytes[item.start] {
        frontend::PARSE => Parse::read(item.body(bytes)).map(|parse| parse.types),
        _ => item.statement.as_ref().map(|statement| &*statement.types),
    });
    let given =
        of_batch.or(unnamed.map(|parse| parse.types)).and_then(|types| types.get(2..)).unwrap_or_default();
    let number = |oid: &[u8]| oid.iter().fold(0, |number: u32, byte| number << 8 | u32::from(*byte));
    let mut types: Vec<u32> = given.chunks_exact(4).map(number).collect();
    types.resize(types.len().max(parameters(sql)), 0);
    types.iter_mut().filter(|oid| **oid == 0).for_each(|oid| *oid = TEXT);
    types
}

/// The greatest number of a parameter in a text.
fn parameters(sql: &[u8]) -> usize {
    let mut lexer = Lexer::new(sql, crate::sql::Lexing::default());
    let mut greatest = 0;
    loop {
        let token = lexer.next_token();
        match token.kind {
            Kind::End => return greatest,
            Kind::Param => {
                let digits = std::str::from_utf8(&sql[token.start + 1..token.end]);
                let number = digits.ok().and_then(|digits| digits.parse::<u16>().ok());
                greatest = greatest.max(number.map_or(0, usize::from));
            }
            _ => {}
        }
    }
}
