//! Certificates and keys, tried when the configuration is loaded, so that a wrong one stops the start and not the
//! first handshake.

use std::path::Path;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Reads a PEM file's certificates.
///
/// # Errors
/// Why it doesn't serve, in words.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(format!("{} holds no PEM certificate", path.display())),
        Err(why) => Err(format!("{} is not a PEM certificate: {why}", path.display())),
    }
}

/// Checks that a file holds certificates that can serve as trust anchors.
///
/// # Errors
/// Why it doesn't serve, in words.
pub(super) fn check_ca(path: &Path) -> Result<(), String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|why| format!("{} can't serve as a CA: {why}", path.display()))?;
    }
    Ok(())
}

/// Checks that `key` holds a private key.
///
/// # Errors
/// Why it doesn't serve, in words.
pub(super) fn check_key(key: &Path) -> Result<(), String> {
    private_key(key).map(|_key| ())
}

/// Checks that `key` is the key of the first certificate in `certificate`.
///
/// # Errors
/// Why it doesn't serve, in words.
pub(super) fn check_pair(certificate: &Path, key: &Path) -> Result<(), String> {
    let chain = certificates(certificate)?;
    let signer = any_supported_type(&private_key(key)?)
        .map_err(|_why| format!("{} is of a kind that is not supported", key.display()))?;
    CertifiedKey::new(chain, signer).keys_match().map_err(|_why| {
        format!("{} is not the key of the certificate {}", key.display(), certificate.display())
    })
}

/// Opens and reads a file.
///
/// # Errors
/// Why it can't be read, in words.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|why| format!("{} can't be read: {why}", path.display()))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|_why| format!("{} holds no PEM private key", path.display()))
}
