//! `[tls]`: towards clients and towards the members.

use std::path::PathBuf;

use super::Error;
use super::section::Section;

/// How far TLS is asked for, as libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// If the other side can.
    Prefer,
    /// Always, whoever the other side is.
    Require,
    /// Always, with a certificate that the CA signed.
    VerifyCa,
    /// Always, and the certificate names the host.
    VerifyFull,
}

/// `[tls]`
#[derive(Debug, Clone)]
pub struct Tls {
    /// `client_mode`: `disable`, `prefer` (offered; needs a certificate) or `require`; default `disable` without a certificate and `prefer` with one.
    pub client_mode: TlsMode,
    /// `certificate`: PEM chain shown to clients.
    pub certificate: Option<PathBuf>,
    /// `key`: its PEM key.
    pub key: Option<PathBuf>,
    /// `client_ca`: PEM CA that signs client certificates; given, they are asked for.
    pub client_ca: Option<PathBuf>,
    /// `server_mode` towards the members; default `prefer`.
    pub server_mode: TlsMode,
    /// `server_ca`: PEM CA of the members; needed by `verify-ca` and `verify-full`.
    pub server_ca: Option<PathBuf>,
}

impl Tls {
    pub(super) fn read(section: &mut Section<'_>) -> Result<Self, Error> {
        let pair = section.key_pair("certificate", "key")?;
        let unwritten = if pair.is_some() { "prefer" } else { "disable" };
        let words =
            [("disable", TlsMode::Disable), ("prefer", TlsMode::Prefer), ("require", TlsMode::Require)];
        let client_mode = section.choice("client_mode", unwritten, &words)?;
        if client_mode != TlsMode::Disable && pair.is_none() {
            return Err(section.error("client_mode", "needs tls.certificate and tls.key"));
        }
        let client_ca = section.ca("client_ca")?;
        if client_ca.is_some() && pair.is_none() {
            return Err(section.error("client_ca", "needs tls.certificate and tls.key"));
        }
        let (server_mode, server_ca) = Self::read_server(section)?;
        let (certificate, key) = pair.unzip();
        Ok(Self { client_mode, certificate, key, client_ca, server_mode, server_ca })
    }

    fn read_server(section: &mut Section<'_>) -> Result<(TlsMode, Option<PathBuf>), Error> {
        let words = [
            ("disable", TlsMode::Disable),
            ("prefer", TlsMode::Prefer),
            ("require", TlsMode::Require),
            ("verify-ca", TlsMode::VerifyCa),
            ("verify-full", TlsMode::VerifyFull),
        ];
        let mode = section.choice("server_mode", "prefer", &words)?;
        let ca = section.ca("server_ca")?;
        if matches!(mode, TlsMode::VerifyCa | TlsMode::VerifyFull) && ca.is_none() {
            return Err(section.error("server_mode", "needs tls.server_ca"));
        }
        Ok((mode, ca))
    }
}
