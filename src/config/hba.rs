//! `[[hba]]` and `[[ident_map]]`: who may come in from where, and how they prove who they are.
//!
//! Fields, words and order are those of pg_hba.conf and pg_ident.conf (PostgreSQL 18 documentation, "Client
//! Authentication"); what could not be kept here is refused when the file is read, and not when somebody logs in.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use regex::{Regex, RegexBuilder};

use super::file::FileConfig;
use super::section::Section;
use super::{Error, Tls, TlsMode};

/// What a regular expression may take up, in bytes.
const REGEX_SIZE: usize = 1 << 20;

/// `hba.type`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HbaType {
    /// With TLS or without.
    Host,
    /// With TLS alone.
    HostSsl,
    /// Without TLS alone.
    HostNoSsl,
}

/// `hba.method`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HbaMethod {
    /// SCRAM-SHA-256, and -PLUS under TLS.
    Scram,
    /// The client's certificate names the user.
    Cert,
    /// Whoever comes from there is believed.
    Trust,
    /// Nobody.
    Reject,
}

/// `hba.clientcert`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCert {
    /// No certificate is needed.
    Off,
    /// One that the CA signed.
    VerifyCa,
    /// One that the CA signed and that names the user.
    VerifyFull,
}

/// One name in a list of databases or users.
#[derive(Debug, Clone)]
pub enum HbaName {
    /// `all`
    All,
    /// `sameuser`: the database of the user's name.
    SameUser,
    /// `replication`: physical replication, which no other name stands for.
    Replication,
    /// This very name.
    Exact(String),
    /// `/…`: a name in which this is found.
    Pattern(Regex),
}

/// One of `[[hba]]`.
#[derive(Debug, Clone)]
pub struct HbaRule {
    /// The line it begins in.
    pub line: usize,
    /// `type`; default `host`.
    pub kind: HbaType,
    /// `database`; default `all`.
    pub databases: Vec<HbaName>,
    /// `user`; default `all`.
    pub users: Vec<HbaName>,
    /// `address`; default `all`.
    pub addresses: Vec<IpNet>,
    /// `method`
    pub method: HbaMethod,
    /// `clientcert`; with the method `cert` always `verify-full`.
    pub client_cert: ClientCert,
    /// `map`: the name map by which a certificate's name becomes a user's.
    pub map: Option<String>,
}

/// One of `[[ident_map]]`.
#[derive(Debug, Clone)]
pub struct IdentLine {
    /// `map`: the name of the map that it belongs to.
    pub map: String,
    /// `system_user`: the certificate's common name; [`HbaName::Exact`] or [`HbaName::Pattern`].
    pub system_user: HbaName,
    /// `database_user`
    pub database_user: MappedUser,
}

/// `ident_map.database_user`
#[derive(Debug, Clone)]
pub enum MappedUser {
    /// A user's name, `all`, or a pattern.
    Named(HbaName),
    /// What stands before and behind `\1`, which is the pattern's first group.
    Around(String, String),
}

impl HbaRule {
    /// SCRAM for everybody, replication too: what holds where there are no rules.
    pub fn scram_for_all() -> Self {
        Self {
            line: 0,
            kind: HbaType::Host,
            databases: vec![HbaName::All, HbaName::Replication],
            users: vec![HbaName::All],
            addresses: everywhere(),
            method: HbaMethod::Scram,
            client_cert: ClientCert::Off,
            map: None,
        }
    }

    fn read(section: &mut Section<'_>) -> Result<Self, Error> {
        let kinds =
            [("host", HbaType::Host), ("hostssl", HbaType::HostSsl), ("hostnossl", HbaType::HostNoSsl)];
        let kind = section.choice("type", "host", &kinds)?;
        let databases = names(
            section,
            "database",
            &[("sameuser", HbaName::SameUser), ("replication", HbaName::Replication)],
        )?;
        let users = names(section, "user", &[])?;
        let addresses = addresses(section)?;
        let methods = [
            ("scram-sha-256", HbaMethod::Scram),
            ("cert", HbaMethod::Cert),
            ("trust", HbaMethod::Trust),
            ("reject", HbaMethod::Reject),
        ];
        let method = section.optional_choice("method", "", &methods)?;
        let method = method.ok_or_else(|| section.error("method", "must be given"))?;
        let words = [("verify-ca", ClientCert::VerifyCa), ("verify-full", ClientCert::VerifyFull)];
        let asked = section.optional_choice("clientcert", "", &words)?;
        let client_cert = client_cert(section, kind, method, asked)?;
        let map = section.optional_text("map", "")?;
        if map.is_some() && method != HbaMethod::Cert {
            return Err(section.error("map", "goes with the method \"cert\" alone"));
        }
        if method == HbaMethod::Trust && !addresses.iter().all(is_loopback) {
            let message = "\"trust\" goes with addresses in 127.0.0.0/8 and ::1 alone";
            return Err(section.error("method", message));
        }
        Ok(Self { line: section.line(), kind, databases, users, addresses, method, client_cert, map })
    }
}

/// Reads `[[hba]]` and `[[ident_map]]`, in their order.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn read(file: &FileConfig<'_>, tls: &Tls) -> Result<(Vec<HbaRule>, Vec<IdentLine>), Error> {
    let mut lines = Vec::new();
    for mut section in file.sections("ident_map")? {
        lines.push(IdentLine::read(&mut section)?);
        section.refuse_unknown(&[])?;
    }
    let mut rules = Vec::new();
    for mut section in file.sections("hba")? {
        let rule = HbaRule::read(&mut section)?;
        section.refuse_unknown(&[])?;
        if let Some(map) = &rule.map
            && !lines.iter().any(|line| line.map == *map)
        {
            return Err(section.error("map", format!("there is no [[ident_map]] of the name {map:?}")));
        }
        if rule.client_cert != ClientCert::Off
            && (tls.client_ca.is_none() || tls.client_mode == TlsMode::Disable)
        {
            let key = if rule.method == HbaMethod::Cert { "method" } else { "clientcert" };
            return Err(section.error(key, "needs tls.client_ca, and tls.client_mode not to be \"disable\""));
        }
        rules.push(rule);
    }
    Ok((rules, lines))
}

impl IdentLine {
    fn read(section: &mut Section<'_>) -> Result<Self, Error> {
        let map = section.name("map", "")?;
        let system = section.name("system_user", "")?;
        // Neither `all` nor `+` means anything here, as in pg_ident.conf.
        let (system, _) = unquoted(&system);
        let system_user = match system.strip_prefix('/') {
            Some(pattern) => HbaName::Pattern(regex(section, "system_user", pattern)?),
            None => HbaName::Exact(system),
        };
        let written = section.name("database_user", "")?;
        let groups = match &system_user {
            HbaName::Pattern(pattern) => Some(pattern.captures_len() - 1),
            _ => None,
        };
        let named = name(section, "database_user", &written, &[("all", HbaName::All)])?;
        let database_user = match (named, groups) {
            (HbaName::Exact(text), Some(groups)) if text.contains("\\1") => {
                if groups == 0 {
                    let message = "has \\1, and ident_map.system_user no group in parentheses";
                    return Err(section.error("database_user", message));
                }
                let (before, after) = text.split_once("\\1").unwrap_or_default();
                MappedUser::Around(before.to_owned(), after.to_owned())
            }
            (named, _) => MappedUser::Named(named),
        };
        Ok(Self { map, system_user, database_user })
    }
}

fn client_cert(
    section: &Section<'_>,
    kind: HbaType,
    method: HbaMethod,
    asked: Option<ClientCert>,
) -> Result<ClientCert, Error> {
    if method == HbaMethod::Cert {
        if kind != HbaType::HostSsl {
            return Err(section.error("method", "\"cert\" goes with the type \"hostssl\" alone"));
        }
        if asked == Some(ClientCert::VerifyCa) {
            return Err(section.error("clientcert", "with the method \"cert\" it is always \"verify-full\""));
        }
        return Ok(ClientCert::VerifyFull);
    }
    match asked {
        Some(_) if kind != HbaType::HostSsl => {
            Err(section.error("clientcert", "goes with the type \"hostssl\" alone"))
        }
        Some(_) if method != HbaMethod::Scram => {
            Err(section.error("clientcert", "goes with the methods \"scram-sha-256\" and \"cert\" alone"))
        }
        asked => Ok(asked.unwrap_or(ClientCert::Off)),
    }
}

/// A list of names, with the words that mean more than themselves besides `all`.
fn names(section: &mut Section<'_>, key: &str, words: &[(&str, HbaName)]) -> Result<Vec<HbaName>, Error> {
    let written = section.texts(key, &["all"])?;
    if written.is_empty() {
        return Err(section.error(key, "an empty list"));
    }
    let words: Vec<_> = words.iter().cloned().chain([("all", HbaName::All)]).collect();
    written.iter().map(|text| name(section, key, text, &words)).collect()
}

/// One name. In double quotes it stands for itself, unless it is a `/pattern`.
fn name(
    section: &Section<'_>,
    key: &str,
    written: &str,
    words: &[(&str, HbaName)],
) -> Result<HbaName, Error> {
    let (text, quoted) = unquoted(written);
    if let Some(pattern) = text.strip_prefix('/') {
        return Ok(HbaName::Pattern(regex(section, key, pattern)?));
    }
    if text.len() > 63 {
        return Err(section.error(key, "a name longer than 63 bytes"));
    }
    if quoted {
        return if text.is_empty() {
            Err(section.error(key, "an empty name"))
        } else {
            Ok(HbaName::Exact(text))
        };
    }
    if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(meaning.clone());
    }
    let wrong = |why: &str| Err(section.error(key, format!("{written:?}: {why}")));
    match text.as_bytes() {
        [b'+', ..] => wrong("the members of a role are not asked for; name the users, or write a /pattern"),
        [b'@', ..] => wrong("names are not read from files; write them here"),
        _ if ["samegroup", "samerole"].contains(&&*text) => {
            wrong("the members of a role are not asked for; name the databases, or write a /pattern")
        }
        bytes if bytes.contains(&b',') => wrong("a comma is no part of a name; write a list, [\"a\", \"b\"]"),
        bytes if bytes.contains(&b'"') => wrong("a double quote stands around a whole name or not at all"),
        _ => Ok(HbaName::Exact(text)),
    }
}

/// The text without the double quotes around it, and whether there were any.
fn unquoted(written: &str) -> (String, bool) {
    match written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => (inner.replace("\"\"", "\""), true),
        None => (written.to_owned(), false),
    }
}

fn regex(section: &Section<'_>, key: &str, pattern: &str) -> Result<Regex, Error> {
    if pattern.is_empty() {
        return Err(section.error(key, "an empty pattern behind \"/\""));
    }
    let mut builder = RegexBuilder::new(pattern);
    builder.size_limit(REGEX_SIZE).dfa_size_limit(REGEX_SIZE);
    builder.build().map_err(|why| {
        // The last line says what is wrong, those before it show where.
        let why = why.to_string();
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        section.error(key, format!("{pattern:?} is no regular expression that is known here: {why}"))
    })
}

fn addresses(section: &mut Section<'_>) -> Result<Vec<IpNet>, Error> {
    let written = section.texts("address", &["all"])?;
    if written.is_empty() {
        return Err(section.error("address", "an empty list"));
    }
    let mut addresses = Vec::new();
    for text in &written {
        if text == "all" {
            addresses.extend(everywhere());
            continue;
        }
        let net = text.parse::<IpNet>().ok().or_else(|| text.parse().ok().map(host));
        let net = net.ok_or_else(|| {
            let expected =
                "is no address such as \"10.0.0.0/8\", \"::1\" or \"all\"; names of hosts are not looked up";
            section.error("address", format!("{text:?} {expected}"))
        })?;
        addresses.push(net.trunc());
    }
    Ok(addresses)
}

fn everywhere() -> Vec<IpNet> {
    vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())]
}

fn host(address: std::net::IpAddr) -> IpNet {
    address.into()
}

fn is_loopback(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.prefix_len() >= 8 && net.addr().is_loopback(),
        IpNet::V6(net) => net.prefix_len() == 128 && net.addr().is_loopback(),
    }
}
