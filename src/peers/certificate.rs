//! When the certificates in a file end. Whether they are good for anything is decided where they are used.

use std::path::Path;

use pkcs8::der::asn1::{AnyRef, GeneralizedTime, UtcTime};
use pkcs8::der::{self, Decode, ErrorKind, Reader, SliceReader, Tag, Tagged};

use super::tls::certificates;

/// Seconds since 1970 at which each certificate ends, in the order of the file.
pub fn ends(path: &Path) -> Result<Vec<u64>, String> {
    let all = certificates(path)?;
    let each = all.iter().map(|certificate| not_after(certificate));
    each.collect::<der::Result<_>>().map_err(|error| format!("read {}: {error}", path.display()))
}

/// Certificate → tbsCertificate → validity → notAfter.
fn not_after(certificate: &[u8]) -> der::Result<u64> {
    // What it is signed with follows, and does not matter here.
    let whole = AnyRef::from_der(certificate)?;
    let body: AnyRef = SliceReader::new(whole.value())?.decode()?;
    let mut fields = SliceReader::new(body.value())?;
    let first: AnyRef = fields.decode()?;
    // The version comes first, where it is told.
    if matches!(first.tag(), Tag::ContextSpecific { .. }) {
        let _serial: AnyRef = fields.decode()?;
    }
    let (_algorithm, _issuer): (AnyRef, AnyRef) = (fields.decode()?, fields.decode()?);
    let validity: AnyRef = fields.decode()?;
    let mut validity = SliceReader::new(validity.value())?;
    let (_begin, end): (AnyRef, AnyRef) = (validity.decode()?, validity.decode()?);
    let end = match end.tag() {
        Tag::UtcTime => UtcTime::try_from(end)?.to_unix_duration(),
        Tag::GeneralizedTime => GeneralizedTime::try_from(end)?.to_unix_duration(),
        _ => return Err(ErrorKind::Failed.into()),
    };
    Ok(end.as_secs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn certificate(year: i32) -> rcgen::CertifiedKey<rcgen::KeyPair> {
        let mut params = rcgen::CertificateParams::new(vec!["db1".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(year, 3, 1);
        let signing_key = rcgen::KeyPair::generate().expect("a key");
        rcgen::CertifiedKey { cert: params.self_signed(&signing_key).expect("a certificate"), signing_key }
    }

    #[test]
    fn both_spellings_of_time_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("chain.pem");
        let text = [2030, 2051].map(|year| certificate(year).cert.pem()).concat();
        std::fs::write(&path, text).expect("our own directory");
        assert_eq!(ends(&path), Ok(vec![1_898_553_600, 2_561_241_600]));
        std::fs::write(&path, "nothing").expect("our own directory");
        assert!(ends(&path).is_err_and(|why| why.contains("no certificate")));
    }

    proptest! {
        #[test]
        fn spoilt_bytes_are_refused_or_read(at in 0usize..300, byte: u8, cut in 0usize..400) {
            let mut bytes = certificate(2030).cert.der().to_vec();
            let length = bytes.len();
            bytes[at % length] = byte;
            bytes.truncate(length.min(cut));
            let _ = not_after(&bytes);
        }
    }
}
