//! TLS for both sides, from `[tls]`: what is shown to clients, what is asked of servers.
//!
//! A reload builds new values and swaps them in whole; connections keep what they began with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::{Socket, Stream};
use crate::config::{Tls, TlsMode};

/// The name of PostgreSQL's protocol in ALPN (RFC 7301); a must where TLS begins without an SSLRequest.
pub const ALPN: &[u8] = b"postgresql";

/// Why `[tls]` or another section's certificates can't be used: names the key and its file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or holds no PEM of the kind.
    #[error("{key}: {}: {source}", file.display())]
    Pem {
        /// The key in proxy.toml.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// A file's contents are not usable.
    #[error("{key}: {}: {source}", file.display())]
    Unusable {
        /// The key in proxy.toml.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// A key is missing that another one needs.
    #[error("{0}")]
    Missing(&'static str),
}

/// TLS towards clients.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// rustls' side of it.
    pub config: Arc<ServerConfig>,
    /// The certificate's hash for SCRAM's channel binding; none where RFC 5929 defines none.
    pub end_point: Option<Vec<u8>>,
}

/// TLS towards servers.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// How far it is asked for.
    pub mode: TlsMode,
    config: Arc<ClientConfig>,
}

impl ServerTls {
    /// What `[tls]` shows to clients; none when there is no certificate or `client_mode` is `disable`.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(tls: &Tls) -> Result<Option<Self>, TlsError> {
        if tls.client_mode == TlsMode::Disable {
            return Ok(None);
        }
        let (file, key_file) = match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) if tls.client_mode == TlsMode::Prefer => return Ok(None),
            _ => return Err(TlsError::Missing("tls.client_mode needs tls.certificate and tls.key")),
        };
        let chain = certificates("tls.certificate", file)?;
        let end_point = chain.first().and_then(|leaf| end_point_hash(leaf));
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|source| unusable("tls.certificate", file, source))?;
        let builder = match &tls.client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let roots = Arc::new(roots("tls.client_ca", ca)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .allow_unauthenticated()
                    .build()
                    .map_err(|e| unusable("tls.client_ca", ca, rustls::Error::General(e.to_string())))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, private_key("tls.key", key_file)?)
            .map_err(|source| unusable("tls.key", key_file, source))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // No session is taken up again, as with PostgreSQL: a certificate is checked at each login.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Some(Self { config: Arc::new(config), end_point }))
    }
}

impl ClientTls {
    /// What `[tls]` asks of servers, with a client certificate (PEM chain and key) of `identity`; `key` names it
    /// in errors.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(tls: &Tls, identity: Option<(&'static str, &Path, &Path)>) -> Result<Self, TlsError> {
        let verifier = server_verifier(tls)?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|_| TlsError::Missing("no TLS version is available"))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((key, chain, key_file)) => builder
                .with_client_auth_cert(certificates(key, chain)?, private_key(key, key_file)?)
                .map_err(|source| unusable(key, key_file, source))?,
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { mode: tls.server_mode, config: Arc::new(config) })
    }

    /// Puts a connection to `host` under TLS.
    ///
    /// # Errors
    /// Those of the handshake; a certificate that isn't accepted is `InvalidData`.
    pub async fn connect(&self, tcp: Socket, host: &str) -> std::io::Result<Stream> {
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp).await?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }
}

/// The hash of a certificate for `tls-server-end-point` (RFC 5929, section 4.1): by its signature's hash function,
/// SHA-256 in place of MD5 and SHA-1. None for signatures that have no single hash function, such as Ed25519.
pub fn end_point_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    use x509_parser::signature_algorithm::SignatureAlgorithm;

    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let algorithm = match SignatureAlgorithm::try_from(&parsed.signature_algorithm) {
        Ok(SignatureAlgorithm::RSASSA_PSS(params)) => params.hash_algorithm_oid().to_id_string(),
        _ => parsed.signature_algorithm.algorithm.to_id_string(),
    };
    match algorithm.as_str() {
        // RSA with MD5, SHA-1 and SHA-256, ECDSA with SHA-1 and SHA-256, the hashes SHA-1 and SHA-256 of RSASSA-PSS
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2"
        | "1.3.14.3.2.26"
        | "2.16.840.1.101.3.4.2.1" => Some(Sha256::digest(certificate).to_vec()),
        // the same with SHA-384
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => {
            Some(Sha384::digest(certificate).to_vec())
        }
        // the same with SHA-512
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => {
            Some(Sha512::digest(certificate).to_vec())
        }
        _ => None,
    }
}

/// The common name in a certificate's subject, its first; none where there is none, or one that could be taken for another.
pub fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    (!name.is_empty() && !name.contains('\0')).then(|| name.to_owned())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn unusable(key: &'static str, file: &Path, source: rustls::Error) -> TlsError {
    TlsError::Unusable { key, file: file.to_owned(), source }
}

fn certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem { key, file: file.to_owned(), source };
    let chain =
        CertificateDer::pem_file_iter(file).map_err(pem)?.collect::<Result<Vec<_>, _>>().map_err(pem)?;
    if chain.is_empty() { Err(pem(rustls::pki_types::pem::Error::NoItemsFound)) } else { Ok(chain) }
}

fn private_key(key: &'static str, file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(file).map_err(|source| TlsError::Pem { key, file: file.to_owned(), source })
}

fn roots(key: &'static str, file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(key, file)? {
        roots.add(certificate).map_err(|source| unusable(key, file, source))?;
    }
    Ok(roots)
}

/// Checks a server's certificate as far as the mode says.
fn server_verifier(tls: &Tls) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let checks_name = match tls.server_mode {
        TlsMode::Disable | TlsMode::Prefer | TlsMode::Require => return Ok(Arc::new(Lenient::new(None))),
        TlsMode::VerifyCa => false,
        TlsMode::VerifyFull => true,
    };
    let roots = if let Some(file) = &tls.server_ca {
        roots("tls.server_ca", file)?
    } else {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    };
    if roots.is_empty() {
        return Err(TlsError::Missing("tls.server_mode needs tls.server_ca: the system has no certificates"));
    }
    let roots = Arc::new(roots);
    if !checks_name {
        return Ok(Arc::new(Lenient::new(Some(roots))));
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|_| TlsError::Missing("tls.server_ca can't be used"))?;
    Ok(verifier)
}

/// Checks that the CA signed the certificate, if there is one to check by; not the name in it.
#[derive(Debug)]
struct Lenient {
    roots: Option<Arc<RootCertStore>>,
    provider: Arc<CryptoProvider>,
}

impl Lenient {
    fn new(roots: Option<Arc<RootCertStore>>) -> Self {
        Self { roots, provider: provider() }
    }
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            rustls::client::verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(client_mode: TlsMode, certificate: Option<&Path>, key: Option<&Path>) -> Tls {
        Tls {
            client_mode,
            certificate: certificate.map(Path::to_owned),
            key: key.map(Path::to_owned),
            client_ca: None,
            server_mode: TlsMode::Prefer,
            server_ca: None,
        }
    }

    #[test]
    fn errors_name_key_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let (missing, empty) = (folder.path().join("missing.pem"), folder.path().join("empty.pem"));
        std::fs::write(&empty, "").unwrap();
        let says = |tls: &Tls| ServerTls::new(tls).unwrap_err().to_string();
        let text = says(&tls(TlsMode::Prefer, Some(&missing), Some(&empty)));
        assert!(text.starts_with("tls.certificate: ") && text.contains("missing.pem"), "{text}");
        let text = says(&tls(TlsMode::Prefer, Some(&empty), Some(&empty)));
        assert!(text.starts_with("tls.certificate: ") && text.contains("empty.pem"), "{text}");
        assert!(says(&tls(TlsMode::Require, None, None)).contains("tls.certificate"));
        assert!(ServerTls::new(&tls(TlsMode::Prefer, None, None)).unwrap().is_none());
    }

    #[test]
    fn the_end_point_hash_follows_the_signature() {
        let hash_len = |algorithm| {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let certificate =
                rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key);
            end_point_hash(certificate.unwrap().der()).map(|hash| hash.len())
        };
        assert_eq!(hash_len(&rcgen::PKCS_ECDSA_P256_SHA256), Some(32));
        assert_eq!(hash_len(&rcgen::PKCS_ECDSA_P384_SHA384), Some(48));
        assert_eq!(hash_len(&rcgen::PKCS_ED25519), None);
        assert_eq!(end_point_hash(b"no certificate"), None);
    }
}
