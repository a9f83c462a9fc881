//! SCRAM's messages: comma-separated attributes of one letter each (RFC 5802, section 7).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::ScramError;

/// Takes the attribute `name` off the front: its value, and what stands behind the comma.
pub(super) fn attribute<'a>(
    text: &'a str,
    name: char,
    missing: &'static str,
) -> Result<(&'a str, &'a str), ScramError> {
    let rest = text
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix('='))
        .ok_or(ScramError::Malformed(missing))?;
    Ok(rest.split_once(',').unwrap_or((rest, "")))
}

/// A message's bytes as text; SCRAM is UTF-8 without NUL.
pub(super) fn text(bytes: &[u8]) -> Result<&str, ScramError> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(ScramError::Malformed("not text")),
    }
}

/// A nonce: printable ASCII without a comma, at least one character.
pub(super) fn nonce(text: &str) -> Result<&str, ScramError> {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.is_empty();
    printable.then_some(text).ok_or(ScramError::Malformed("nonce is not printable"))
}

/// Base64 of exactly `N` bytes, 64 at most.
pub(super) fn key<const N: usize>(text: &str, what: &'static str) -> Result<[u8; N], ScramError> {
    let mut bytes = Zeroizing::new([0; 66]);
    let len = STANDARD.decode_slice(text, &mut *bytes).map_err(|_| ScramError::Malformed(what))?;
    bytes[..len].try_into().map_err(|_| ScramError::Malformed(what))
}
