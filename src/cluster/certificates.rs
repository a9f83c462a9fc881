//! The cluster's certificate authority, the members' server certificate and the clients' certificates.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use super::{Error, Runtime};

/// Roles that log in with a certificate, as roles.sql makes them.
pub const CERTIFICATE_ROLES: [&str; 2] = ["pgha_lookup", "pgha_monitor"];

/// Where the certificates of a cluster are. Keys have mode 0600.
#[derive(Debug, Clone)]
pub struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// The certificate of the authority, which clients check servers by.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// The members' certificate, for 127.0.0.1, ::1 and localhost.
    pub fn server(&self) -> (PathBuf, PathBuf) {
        self.pair("server")
    }

    /// The certificate and the key of a role of [`CERTIFICATE_ROLES`].
    pub fn role(&self, role: &str) -> (PathBuf, PathBuf) {
        self.pair(role)
    }

    fn pair(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.dir.join(format!("{name}.crt")), self.dir.join(format!("{name}.key")))
    }

    /// The certificates in `dir`, made there if there are none yet.
    pub(super) fn ensure(dir: PathBuf, runtime: &Runtime) -> Result<Self, Error> {
        let certificates = Self { dir };
        if !certificates.ca().exists() {
            certificates.make(runtime)?;
        }
        Ok(certificates)
    }

    fn make(&self, runtime: &Runtime) -> Result<(), Error> {
        let authority = authority()?;
        let (certificate, key) = self.server();
        let names = ["127.0.0.1", "::1", "localhost"].map(str::to_owned);
        let made = signed(&authority, "pg-ha-cluster", names.to_vec(), ExtendedKeyUsagePurpose::ServerAuth)?;
        write(&certificate, &made.0, 0o644)?;
        write(&key, &made.1, 0o600)?;
        if let Some(user) = runtime.user {
            std::os::unix::fs::chown(&key, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .map_err(Error::io(key.display().to_string()))?;
        }
        for role in CERTIFICATE_ROLES {
            let (certificate, key) = self.role(role);
            let made = signed(&authority, role, Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)?;
            write(&certificate, &made.0, 0o644)?;
            write(&key, &made.1, 0o600)?;
        }
        // Last: its presence says that all are there.
        write(&self.ca(), &authority.pem(), 0o644)
    }
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, Error> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name = named("pg-ha-cluster authority");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// A certificate and its key, both as PEM.
fn signed(
    authority: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    hosts: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
) -> Result<(String, String), Error> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = named(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, authority)?.pem(), key.serialize_pem()))
}

fn named(name: &str) -> rcgen::DistinguishedName {
    let mut distinguished = rcgen::DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let open = || fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path);
    open().and_then(|mut file| file.write_all(text.as_bytes())).map_err(Error::io(path.display().to_string()))
}
