//! The messages of a login, both ways; those of authentication are built by `pgwire`.
//!
//! They are taken apart here, not by `pgwire`, whose readers trust lengths inside a body.
//!
//! Source: PostgreSQL 18 documentation, "Message Formats".

use bytes::{Bytes, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::startup::{
    Authentication, NegotiateProtocolVersion, SASLInitialResponse, SASLResponse,
};

use super::build;
use super::parts::cstr;
use super::startup::Startup;

/// What a server asks for, or says, during a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthRequest<'a> {
    /// The login is done.
    Ok,
    /// A password in clear.
    Cleartext,
    /// A password hashed by MD5.
    Md5,
    /// SASL by one of these mechanisms.
    Sasl(Vec<&'a str>),
    /// SASL's challenge.
    SaslContinue(&'a [u8]),
    /// SASL's last word.
    SaslFinal(&'a [u8]),
    /// Another method, by its number.
    Other(u32),
}

impl<'a> AuthRequest<'a> {
    /// Takes the body of an Authentication message apart.
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let (code, rest) = body.split_first_chunk::<4>()?;
        Some(match u32::from_be_bytes(*code) {
            0 => Self::Ok,
            3 => Self::Cleartext,
            5 => Self::Md5,
            10 => Self::Sasl(mechanisms(rest)?),
            11 => Self::SaslContinue(rest),
            12 => Self::SaslFinal(rest),
            other => Self::Other(other),
        })
    }
}

fn mechanisms(mut rest: &[u8]) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    loop {
        let (name, tail) = cstr(rest)?;
        if name.is_empty() {
            return Some(names);
        }
        names.push(std::str::from_utf8(name).ok()?);
        rest = tail;
    }
}

/// Mechanism and first message of a SASLInitialResponse; the message is empty where there is none.
pub fn sasl_initial_response(body: &[u8]) -> Option<(&str, &[u8])> {
    let (mechanism, rest) = cstr(body)?;
    let (length, data) = rest.split_first_chunk::<4>()?;
    let length = i32::from_be_bytes(*length);
    let whole = usize::try_from(length).map_or(data.is_empty() && length == -1, |n| n == data.len());
    whole.then_some((std::str::from_utf8(mechanism).ok()?, data))
}

/// The number of a backend's process and its secret, from BackendKeyData: 4 to 256 bytes.
pub fn backend_key_data(body: &[u8]) -> Option<(u32, &[u8])> {
    let (process_id, secret) = body.split_first_chunk::<4>()?;
    (4..=256).contains(&secret.len()).then_some((u32::from_be_bytes(*process_id), secret))
}

/// AuthenticationSASL.
pub fn authentication_sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    let mechanisms = mechanisms.iter().map(|&name| name.to_owned()).collect();
    append(out, &Authentication::SASL(mechanisms));
}

/// AuthenticationSASLContinue.
pub fn authentication_sasl_continue(out: &mut Vec<u8>, data: &str) {
    append(out, &Authentication::SASLContinue(Bytes::copy_from_slice(data.as_bytes())));
}

/// AuthenticationSASLFinal.
pub fn authentication_sasl_final(out: &mut Vec<u8>, data: &str) {
    append(out, &Authentication::SASLFinal(Bytes::copy_from_slice(data.as_bytes())));
}

/// AuthenticationOk.
pub fn authentication_ok(out: &mut Vec<u8>) {
    append(out, &Authentication::Ok);
}

/// NegotiateProtocolVersion for what `startup` asked for and is not spoken here.
pub fn negotiate_protocol_version(out: &mut Vec<u8>, startup: &Startup) {
    let version = 0x3_0000 | i32::from(startup.negotiated_minor());
    append(out, &NegotiateProtocolVersion::new(version, startup.unknown_options.clone()));
}

/// A startup packet of protocol 3.`minor`; `pairs` hold `user`, `database` and settings, and no NUL.
pub fn startup<'a>(out: &mut Vec<u8>, minor: u16, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(0x3_0000 | u32::from(minor)).to_be_bytes());
    for (name, value) in pairs {
        build::cstr(out, name.as_bytes());
        build::cstr(out, value.as_bytes());
    }
    out.push(0);
    let length = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// CancelRequest for the connection whose BackendKeyData said this.
pub fn cancel_request(out: &mut Vec<u8>, process_id: u32, secret: &[u8]) {
    out.extend_from_slice(&(12 + secret.len() as u32).to_be_bytes());
    out.extend_from_slice(&80_877_102u32.to_be_bytes());
    out.extend_from_slice(&process_id.to_be_bytes());
    out.extend_from_slice(secret);
}

/// SASLInitialResponse.
pub fn sasl_first(out: &mut Vec<u8>, mechanism: &str, data: &str) {
    let data = Bytes::copy_from_slice(data.as_bytes());
    append(out, &SASLInitialResponse::new(mechanism.to_owned(), Some(data)));
}

/// SASLResponse.
pub fn sasl_response(out: &mut Vec<u8>, data: &str) {
    append(out, &SASLResponse::new(Bytes::copy_from_slice(data.as_bytes())));
}

fn append(out: &mut Vec<u8>, message: &impl Message) {
    let mut bytes = BytesMut::with_capacity(message.message_length() + 1);
    message.encode(&mut bytes).expect("a login message that was built here is within pgwire's limits");
    out.extend_from_slice(&bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::startup::Opening;

    #[test]
    fn authentication_reads_back() {
        let mut out = Vec::new();
        authentication_sasl(&mut out, &["A", "B"]);
        assert_eq!(AuthRequest::read(&out[5..]), Some(AuthRequest::Sasl(vec!["A", "B"])));
        assert_eq!(AuthRequest::read(&[0, 0, 0]), None);
        assert_eq!(AuthRequest::read(&[0, 0, 0, 10, b'A']), None);
    }

    #[test]
    fn sasl_initial_response_must_be_whole() {
        let mut out = Vec::new();
        sasl_first(&mut out, "M", "abc");
        assert_eq!(sasl_initial_response(&out[5..]), Some(("M", &b"abc"[..])));
        assert_eq!(sasl_initial_response(&out[5..out.len() - 1]), None);
        assert_eq!(sasl_initial_response(b"M\0\xff\xff\xff\xff"), Some(("M", &b""[..])));
        assert_eq!(sasl_initial_response(b"M\0\x80\0\0\0"), None);
        assert_eq!(sasl_initial_response(b"M"), None);
    }

    #[test]
    fn packets_read_back() {
        let mut out = Vec::new();
        startup(&mut out, 2, [("user", "a"), ("database", "b")]);
        let Ok(Opening::Startup(read)) = Opening::read(&out[4..]) else { panic!() };
        assert_eq!((read.minor, read.user.as_str(), read.database.as_str()), (2, "a", "b"));
        out.clear();
        cancel_request(&mut out, 7, &[1; 32]);
        assert_eq!(Opening::read(&out[4..]), Ok(Opening::Cancel { process_id: 7, secret: vec![1; 32] }));
    }
}
