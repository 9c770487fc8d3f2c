//! PEM files with public and private keys, and the algorithms that a key of each kind can have.

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{AlgorithmIdentifier, PrivateKeyDer, SubjectPublicKeyInfoDer, alg_id};

/// The sizes of RSA keys that ring verifies with, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The tags of the DER values that a public key has.
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;

/// Why a file has no key that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// No public key.
    #[error("expected a public key in PEM, which begins with -----BEGIN PUBLIC KEY-----")]
    NoPublicKey,
    /// No private key.
    #[error("expected a private key in PEM, which begins with -----BEGIN PRIVATE KEY----- (PKCS#8)")]
    NoPrivateKey,
    /// Another algorithm, curve or size.
    #[error("expected an RSA key of 2048 to 8192 bits, an EC key on P-256 or P-384, or an Ed25519 key")]
    Unsupported,
    /// A key that the algorithm cannot use.
    #[error("a key of another kind: {0:?} cannot use it")]
    WrongKind(Algorithm),
}

/// A public key, and the algorithms that it can verify.
pub(super) fn public_key(pem: &[u8]) -> Result<(DecodingKey, &'static [Algorithm]), PemError> {
    let info = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| PemError::NoPublicKey)?;
    subject_public_key(&info).ok_or(PemError::Unsupported)
}

/// Reads a `SubjectPublicKeyInfo` (RFC 5280, §4.1.2.7).
fn subject_public_key(der: &[u8]) -> Option<(DecodingKey, &'static [Algorithm])> {
    let (info, []) = element(der, SEQUENCE)? else { return None };
    let (identifier, rest) = element(info, SEQUENCE)?;
    let (bits, []) = element(rest, BIT_STRING)? else { return None };
    // All bits of the last byte belong to it.
    let (0, key) = bits.split_first().map(|(unused, key)| (*unused, key))? else { return None };
    let is = |known: AlgorithmIdentifier| identifier == known.as_ref();
    if is(alg_id::RSA_ENCRYPTION) {
        let (numbers, []) = element(key, SEQUENCE)? else { return None };
        let (modulus, _) = element(numbers, INTEGER)?;
        rsa_algorithms(modulus).map(|algorithms| (DecodingKey::from_rsa_der(key), algorithms))
    } else if is(alg_id::ED25519) {
        ed_algorithms(key).map(|algorithms| (DecodingKey::from_ed_der(key), algorithms))
    } else if is(alg_id::ECDSA_P256) || is(alg_id::ECDSA_P384) {
        let algorithms = ec_algorithms(key)?;
        let is_same_curve = is(alg_id::ECDSA_P256) == (algorithms == [Algorithm::ES256]);
        is_same_curve.then(|| (DecodingKey::from_ec_der(key), algorithms))
    } else {
        None
    }
}

/// The algorithms of an RSA key with this modulus, a big-endian number.
pub(super) fn rsa_algorithms(modulus: &[u8]) -> Option<&'static [Algorithm]> {
    let start = modulus.iter().position(|byte| *byte != 0)?;
    let bits = (modulus.len() - start) * 8 - modulus[start].leading_zeros() as usize;
    RSA_BITS.contains(&bits).then_some(&[
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
    ])
}

/// The algorithm of an elliptic curve by the size of its point, which is not compressed.
pub(super) fn ec_algorithms(point: &[u8]) -> Option<&'static [Algorithm]> {
    match (point.first(), point.len()) {
        (Some(4), 65) => Some(&[Algorithm::ES256]),
        (Some(4), 97) => Some(&[Algorithm::ES384]),
        _ => None,
    }
}

/// The algorithm of an Ed25519 key.
pub(super) fn ed_algorithms(key: &[u8]) -> Option<&'static [Algorithm]> {
    (key.len() == 32).then_some(&[Algorithm::EdDSA])
}

/// The contents of the first element, if it has this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // The number of bytes of the length. A key is shorter than 64 KiB.
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    if found == tag { rest.split_at_checked(length) } else { None }
}

/// A private key that signs by `algorithm`, for development.
pub(super) fn signing_key(pem: &[u8], algorithm: Algorithm) -> Result<EncodingKey, PemError> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| PemError::NoPrivateKey)?;
    let der = key.secret_der();
    let key = match algorithm.family() {
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_der(der),
        AlgorithmFamily::Ec => EncodingKey::from_ec_der(der),
        AlgorithmFamily::Ed => EncodingKey::from_ed_der(der),
        AlgorithmFamily::Hmac => return Err(PemError::WrongKind(algorithm)),
    };
    super::crypto::can_sign(algorithm, &key).then_some(key).ok_or(PemError::WrongKind(algorithm))
}
