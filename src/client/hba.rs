//! Which rule a connection comes under, by pg_hba.conf's order and meaning, and what is said to those who come under none.
//!
//! Without sockets, clock and log. What is compared is what a server will see: names cut to its length, an IPv4 address by
//! itself.

use std::net::IpAddr;

use crate::config::{HbaName, HbaRule, HbaType, IdentLine, MappedUser};
use crate::wire::startup::{Replication, Startup};
use crate::wire::{Refusal, SqlState};

/// The rules of `[[hba]]` and the maps of `[[ident_map]]`.
#[derive(Debug, Clone)]
pub struct Rules {
    rules: Vec<HbaRule>,
    maps: Vec<IdentLine>,
}

/// A connection that wants in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) address: IpAddr,
    pub(super) tls: bool,
    pub(super) user: &'a str,
    pub(super) database: &'a str,
    pub(super) replication: Replication,
}

impl Rules {
    /// From the configuration; no rules are SCRAM for everybody.
    pub fn new(rules: &[HbaRule], maps: &[IdentLine]) -> Self {
        let rules = if rules.is_empty() { vec![HbaRule::scram_for_all()] } else { rules.to_vec() };
        Self { rules, maps: maps.to_vec() }
    }

    /// The first rule that a connection comes under.
    pub(super) fn first(&self, asking: &Asking<'_>) -> Option<&HbaRule> {
        self.rules.iter().find(|rule| comes_under(asking, rule))
    }

    /// Whether the owner of a certificate with this common name may be `user`: by a map's first line that fits, without a map if
    /// it is the same name.
    pub(super) fn may_be(&self, map: Option<&str>, common_name: &str, user: &str) -> bool {
        let Some(map) = map else { return common_name == user };
        self.maps.iter().filter(|line| line.map == map).any(|line| leads_to(line, common_name, user))
    }
}

impl<'a> Asking<'a> {
    pub(super) fn new(address: IpAddr, tls: bool, startup: &'a Startup) -> Self {
        Self {
            address: address.to_canonical(),
            tls,
            user: &startup.user,
            database: &startup.database,
            replication: startup.replication,
        }
    }

    /// What is said where no rule fits.
    pub(super) fn no_entry(&self) -> Refusal {
        self.refusal("no pg_hba.conf entry for", "replication connection from ")
    }

    /// What is said where a rule says no.
    pub(super) fn rejected(&self) -> Refusal {
        match self.replication {
            Replication::Physical => self.refusal("pg_hba.conf rejects", "replication connection for "),
            Replication::None | Replication::Logical => {
                self.refusal("pg_hba.conf rejects connection for", "")
            }
        }
    }

    fn refusal(&self, what: &str, replication: &str) -> Refusal {
        let Self { address, user, database, .. } = self;
        let encryption = if self.tls { "SSL encryption" } else { "no encryption" };
        let text = match self.replication {
            Replication::Physical => {
                format!("{what} {replication}host \"{address}\", user \"{user}\", {encryption}")
            }
            Replication::None | Replication::Logical => {
                format!("{what} host \"{address}\", user \"{user}\", database \"{database}\", {encryption}")
            }
        };
        Refusal::new(SqlState::INVALID_AUTHORIZATION, text)
    }
}

fn comes_under(asking: &Asking<'_>, rule: &HbaRule) -> bool {
    let by_type = match rule.kind {
        HbaType::Host => true,
        HbaType::HostSsl => asking.tls,
        HbaType::HostNoSsl => !asking.tls,
    };
    by_type
        && rule.addresses.iter().any(|net| net.contains(&asking.address))
        && rule.databases.iter().any(|name| is_database(name, asking))
        && rule.users.iter().any(|name| is_user(name, asking.user))
}

fn is_database(name: &HbaName, asking: &Asking<'_>) -> bool {
    // Physical replication goes to no database: neither `all` nor a name stands for it.
    if asking.replication == Replication::Physical {
        return matches!(name, HbaName::Replication);
    }
    match name {
        HbaName::All => true,
        HbaName::SameUser => asking.database == asking.user,
        HbaName::Replication => false,
        HbaName::Exact(name) => name == asking.database,
        HbaName::Pattern(pattern) => pattern.is_match(asking.database),
    }
}

fn is_user(name: &HbaName, user: &str) -> bool {
    match name {
        HbaName::All => true,
        HbaName::Exact(name) => name == user,
        HbaName::Pattern(pattern) => pattern.is_match(user),
        HbaName::SameUser | HbaName::Replication => false,
    }
}

fn leads_to(line: &IdentLine, common_name: &str, user: &str) -> bool {
    match (&line.system_user, &line.database_user) {
        (HbaName::Exact(name), MappedUser::Named(mapped)) => name == common_name && is_user(mapped, user),
        (HbaName::Pattern(pattern), MappedUser::Named(mapped)) => {
            pattern.is_match(common_name) && is_user(mapped, user)
        }
        (HbaName::Pattern(pattern), MappedUser::Around(before, after)) => {
            let group = pattern.captures(common_name).and_then(|groups| groups.get(1));
            let middle = user.strip_prefix(&**before).and_then(|rest| rest.strip_suffix(&**after));
            group.is_some_and(|group| middle == Some(group.as_str()))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
