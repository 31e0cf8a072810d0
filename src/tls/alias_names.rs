//! Which aliases a certificate names: URIs in its subjectAltName, `URI:slimerpc:worker:0`.

use rustls::CertificateError;
use rustls::pki_types::CertificateDer;

use super::NotNamed;

/// What a URI that names an alias begins with.
const SCHEME: &str = "slimerpc:";

/// Whether the holder of a certificate may have this alias.
pub(crate) fn check_alias(
    certificate: &CertificateDer<'_>,
    alias: &str,
) -> Result<Result<(), NotNamed>, CertificateError> {
    let parsed = webpki::EndEntityCert::try_from(certificate);
    let parsed = parsed.map_err(|_| CertificateError::BadEncoding)?;
    if parsed.valid_uri_names().any(|uri| names(uri, alias)) {
        return Ok(Ok(()));
    }
    let expected = format!("{SCHEME}{alias}");
    Ok(Err(NotNamed::new(&expected, parsed.valid_uri_names())))
}

/// Whether a URI of a certificate lets its holder have this alias.
fn names(uri: &str, alias: &str) -> bool {
    let Some(named) = uri.strip_prefix(SCHEME) else {
        return false;
    };
    let (named, is_beginning) = match named.strip_suffix('*') {
        Some(beginning) => (beginning, true),
        None => (named, false),
    };
    match decoded(named) {
        Some(named) if is_beginning => alias.as_bytes().starts_with(&named),
        Some(named) => alias.as_bytes() == named,
        None => false,
    }
}

/// Without percent-encoding. `None`: it is malformed.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_an_alias_or_all_that_begin_alike() {
        for (uri, alias, is_named) in [
            ("slimerpc:worker:0", "worker:0", true),
            ("slimerpc:worker:0", "worker:01", false),
            ("slimerpc:worker:*", "worker:01", true),
            ("slimerpc:worker:*", "driver:0", false),
            ("slimerpc:*", "driver:0", true),
            ("slimerpc:a%20%c3%BC%25", "a ü%", true),
            ("slimerpc:a%2", "a%2", false),
            ("slimerpc:a%zz", "a%zz", false),
            ("slimerpc:a%+1", "a%+1", false),
            ("slimerpc:", "", true),
            ("worker:0", "worker:0", false),
            ("https://worker:0", "worker:0", false),
        ] {
            assert_eq!(names(uri, alias), is_named, "{uri} {alias}");
        }
    }
}
