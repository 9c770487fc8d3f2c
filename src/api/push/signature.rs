//! Signatures of webhooks: HMAC-SHA256 of the request body, with what each scheme signs before it. No input or output.
//!
//! | scheme | headers | signed |
//! |---|---|---|
//! | `hex` | `x-hub-signature-256: sha256=HEX`, or another header, with or without the prefix | the body |
//! | `base64` | a header with the signature in base64 | the body |
//! | `standard` | `webhook-id`, `webhook-timestamp`, `webhook-signature: v1,BASE64 …` (Standard Webhooks 1.0) | `ID.TIMESTAMP.BODY` |
//! | `stripe` | `stripe-signature: t=TIMESTAMP,v1=HEX,…`, or another header | `TIMESTAMP.BODY` |

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use axum::http::header::HeaderName;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use base64::{Engine as _, alphabet};
use ring::hmac;
use subtle::{Choice, ConstantTimeEq};

/// The headers of Standard Webhooks.
pub(super) const STANDARD_ID: HeaderName = HeaderName::from_static("webhook-id");
const STANDARD_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const STANDARD_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// The signatures that are looked at of one request. Senders that rotate their secret send two.
const MAX_SIGNATURES: usize = 8;
/// The size of a signature, in bytes.
const BYTES: usize = 32;
/// What a secret of Standard Webhooks may start with; the rest is base64, with or without padding.
const STANDARD_SECRET: &str = "whsec_";
const SECRETS: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How a request is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Hex,
    Base64,
    Standard,
    Stripe,
}

impl Scheme {
    /// Reads the value of `scheme=`.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "hex" => Self::Hex,
            "base64" => Self::Base64,
            "standard" => Self::Standard,
            "stripe" => Self::Stripe,
            _ => return None,
        })
    }

    /// The header that has the signature, unless the configuration names another one.
    pub(super) fn default_header(self) -> Option<HeaderName> {
        match self {
            Self::Hex => Some(HeaderName::from_static("x-hub-signature-256")),
            Self::Base64 => None,
            Self::Standard => Some(STANDARD_SIGNATURE),
            Self::Stripe => Some(HeaderName::from_static("stripe-signature")),
        }
    }

    /// Whether the time at which a request was signed is signed too.
    pub(super) fn has_timestamp(self) -> bool {
        matches!(self, Self::Standard | Self::Stripe)
    }

    /// The bytes of a secret as it is written.
    pub(super) fn secret_bytes(self, secret: &str) -> Option<Vec<u8>> {
        match self {
            Self::Standard => SECRETS.decode(secret.strip_prefix(STANDARD_SECRET).unwrap_or(secret)).ok(),
            _ => Some(secret.as_bytes().to_vec()),
        }
    }
}

/// Why a signature does not count. One line for the sender, which never repeats the signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SignatureError {
    #[error("the header {0} is missing")]
    Missing(HeaderName),
    #[error("the header {0} has no signature; expected {1}")]
    Malformed(HeaderName, &'static str),
    #[error("the timestamp of the signature is more than {} s away from the clock of this server", .0.as_secs())]
    Timestamp(Duration),
    #[error("wrong signature")]
    Wrong,
}

/// Checks signatures. `Debug` leaves the secrets out.
#[derive(Clone)]
pub(super) struct Signatures {
    scheme: Scheme,
    header: HeaderName,
    keys: Vec<hmac::Key>,
    /// How far the timestamp may be from the clock.
    tolerance: Duration,
}

impl fmt::Debug for Signatures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, header, keys, tolerance } = self;
        let mut fields = formatter.debug_struct("Signatures");
        fields.field("scheme", scheme).field("header", header).field("keys", &keys.len());
        fields.field("tolerance", tolerance).finish()
    }
}

/// What the headers of a request say of its signature, before the body is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signed {
    /// What is signed in front of the body.
    before: Vec<u8>,
    /// At most [`MAX_SIGNATURES`].
    signatures: Vec<[u8; BYTES]>,
}

impl Signatures {
    /// Signatures by any of `secrets`, each of which the scheme can read.
    pub(super) fn new(scheme: Scheme, header: HeaderName, secrets: &[Vec<u8>], tolerance: Duration) -> Self {
        let keys = secrets.iter().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret)).collect();
        Self { scheme, header, keys, tolerance }
    }

    /// Reads the headers of a request, so that one without a signature is refused before its body is read.
    pub(super) fn read(&self, headers: &HeaderMap, now: SystemTime) -> Result<Signed, SignatureError> {
        let header = text(headers, &self.header)?;
        let malformed = |expected| SignatureError::Malformed(self.header.clone(), expected);
        let (before, signatures) = match self.scheme {
            Scheme::Hex => {
                let hex = header.strip_prefix("sha256=").unwrap_or(header);
                let signature = from_hex(hex).ok_or(malformed("64 hexadecimal digits, with or without sha256="))?;
                (Vec::new(), vec![signature])
            }
            Scheme::Base64 => (Vec::new(), vec![from_base64(header).ok_or(malformed("32 bytes in base64"))?]),
            Scheme::Standard => {
                let (id, timestamp) = (text(headers, &STANDARD_ID)?, text(headers, &STANDARD_TIMESTAMP)?);
                self.check_time(timestamp, now)?;
                let versioned = header.split(' ').filter_map(|signature| signature.strip_prefix("v1,"));
                (
                    format!("{id}.{timestamp}.").into_bytes(),
                    versioned.filter_map(from_base64).take(MAX_SIGNATURES).collect(),
                )
            }
            Scheme::Stripe => {
                let pairs = || header.split(',').filter_map(|pair| pair.trim().split_once('='));
                let timestamp = pairs().find_map(|(name, value)| (name == "t").then_some(value));
                let timestamp = timestamp.ok_or(malformed("t=TIMESTAMP,v1=HEX"))?;
                self.check_time(timestamp, now)?;
                let versioned = pairs().filter_map(|(name, value)| (name == "v1").then(|| from_hex(value)).flatten());
                (format!("{timestamp}.").into_bytes(), versioned.take(MAX_SIGNATURES).collect())
            }
        };
        if signatures.is_empty() {
            let expected = if self.scheme == Scheme::Standard { "v1,BASE64" } else { "t=TIMESTAMP,v1=HEX" };
            return Err(malformed(expected));
        }
        Ok(Signed { before, signatures })
    }

    /// Checks the body. Takes as long for a wrong signature as for the right one.
    pub(super) fn check(&self, signed: &Signed, body: &[u8]) -> Result<(), SignatureError> {
        let mut is_right = Choice::from(0);
        for key in &self.keys {
            let mut context = hmac::Context::with_key(key);
            context.update(&signed.before);
            context.update(body);
            let tag = context.sign();
            for signature in &signed.signatures {
                is_right |= tag.as_ref().ct_eq(signature);
            }
        }
        if is_right.into() { Ok(()) } else { Err(SignatureError::Wrong) }
    }

    fn check_time(&self, timestamp: &str, now: SystemTime) -> Result<(), SignatureError> {
        let error = SignatureError::Timestamp(self.tolerance);
        // Without a sign, which `parse` would take.
        let digits = Some(timestamp).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let seconds: Option<u64> = digits.and_then(|digits| digits.parse().ok());
        let time = seconds.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        let time = time.ok_or_else(|| error.clone())?;
        let distance = now.duration_since(time).unwrap_or_else(|early| early.duration());
        if distance <= self.tolerance { Ok(()) } else { Err(error) }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a str, SignatureError> {
    let value = headers.get(name).ok_or_else(|| SignatureError::Missing(name.clone()))?;
    value.to_str().map_err(|_| SignatureError::Malformed(name.clone(), "visible ASCII characters"))
}

fn from_hex(text: &str) -> Option<[u8; BYTES]> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes = pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?));
    bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

fn from_base64(text: &str) -> Option<[u8; BYTES]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_614_265_330;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW)
    }

    fn signatures(scheme: Scheme, secrets: &[&str]) -> Signatures {
        let header = scheme.default_header().unwrap_or(HeaderName::from_static("x-signature"));
        let secrets: Vec<_> = secrets.iter().map(|secret| scheme.secret_bytes(secret).unwrap()).collect();
        Signatures::new(scheme, header, &secrets, Duration::from_secs(300))
    }

    fn checked(signatures: &Signatures, headers: &[(&'static str, &str)], body: &str) -> Result<(), SignatureError> {
        let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let signed = signatures.read(&headers.collect(), now())?;
        signatures.check(&signed, body.as_bytes())
    }

    #[test]
    fn signatures_of_published_examples_are_right() {
        // GitHub's documentation of webhooks.
        let hub = signatures(Scheme::Hex, &["It's a Secret to Everybody"]);
        let hex = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        for header in [format!("sha256={hex}"), hex.to_owned(), hex.to_uppercase()] {
            assert_eq!(checked(&hub, &[("x-hub-signature-256", &header)], "Hello, World!"), Ok(()), "{header}");
        }
        // The tests of the libraries of Standard Webhooks.
        let standard = signatures(Scheme::Standard, &["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "bm90IHBhZGRlZA"]);
        let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let headers = |signature| {
            let id = ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek");
            [id, ("webhook-timestamp", "1614265330"), ("webhook-signature", signature)]
        };
        assert_eq!(checked(&standard, &headers(signature), r#"{"test": 2432232314}"#), Ok(()));
        let several = format!("v1a,abc v1,{} {signature} v2,x", "A".repeat(43) + "=");
        assert_eq!(checked(&standard, &headers(&several), r#"{"test": 2432232314}"#), Ok(()));
        assert_eq!(checked(&standard, &headers(signature), r#"{"test": 2432232315}"#), Err(SignatureError::Wrong));
    }

    #[test]
    fn each_of_several_secrets_counts_and_no_other() {
        let sign = |secret: &str| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
            STANDARD.encode(hmac::sign(&key, b"body"))
        };
        let both = signatures(Scheme::Base64, &["the first secret", "the second secret"]);
        for (secret, expected) in
            [("the first secret", Ok(())), ("the second secret", Ok(())), ("third", Err(SignatureError::Wrong))]
        {
            assert_eq!(checked(&both, &[("x-signature", &sign(secret))], "body"), expected, "{secret}");
        }
    }

    #[test]
    fn old_and_early_timestamps_are_refused() {
        let stripe = signatures(Scheme::Stripe, &["a secret of sixteen"]);
        let check = |timestamp: u64| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, b"a secret of sixteen");
            let tag = hmac::sign(&key, format!("{timestamp}.body").as_bytes());
            let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            checked(&stripe, &[("stripe-signature", &format!("t={timestamp},v0=x, v1={hex}"))], "body")
        };
        let late = Err(SignatureError::Timestamp(Duration::from_secs(300)));
        assert_eq!((check(NOW - 300), check(NOW + 300)), (Ok(()), Ok(())));
        assert_eq!(
            (check(NOW - 301), check(NOW + 301), check(0), check(u64::MAX)),
            (late.clone(), late.clone(), late.clone(), late)
        );
    }

    #[test]
    fn headers_without_a_signature_are_refused_with_the_reason() {
        let error = |scheme, headers: &[(&'static str, &str)]| {
            checked(&signatures(scheme, &["MfKQ9r8GKYqrTwjUPD8I"]), headers, "").unwrap_err().to_string()
        };
        assert_eq!(error(Scheme::Hex, &[]), "the header x-hub-signature-256 is missing");
        for wrong in ["sha256=", "sha256=ab", "sha1=ab", &"é".repeat(32), &"0".repeat(66), &"+1".repeat(32)] {
            let found = error(Scheme::Hex, &[("x-hub-signature-256", wrong)]);
            assert!(found.starts_with("the header x-hub-signature-256 has no signature; expected"), "{found}");
        }
        let standard = [("webhook-id", "1"), ("webhook-timestamp", "1614265330"), ("webhook-signature", "v1a,x")];
        assert_eq!(
            error(Scheme::Standard, &standard),
            "the header webhook-signature has no signature; expected v1,BASE64"
        );
        assert_eq!(error(Scheme::Standard, &standard[1..]), "the header webhook-id is missing");
        let stripe = |value| error(Scheme::Stripe, &[("stripe-signature", value)]);
        assert!(stripe("v1=00").ends_with("expected t=TIMESTAMP,v1=HEX") && stripe("t=+1").contains("300 s away"));
        assert!(stripe(&format!("t={NOW}")).ends_with("expected t=TIMESTAMP,v1=HEX"));
    }

    #[test]
    fn secrets_are_not_printed() {
        let shown = format!("{:?}", signatures(Scheme::Hex, &["hunter2"]));
        assert!(!shown.contains("hunter2") && shown.contains("keys: 1"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(
            header in "[ -~]{0,80}|(sha256=)?[0-9a-f]{0,70}|(v1,[A-Za-z0-9+/=]{40,46} ?){0,3}|t=[0-9]{0,12}(,v1=[0-9a-f]{0,70}){0,3}",
            body in "[ -~]{0,20}",
        ) {
            for scheme in [Scheme::Hex, Scheme::Base64, Scheme::Standard, Scheme::Stripe] {
                let checks = signatures(scheme, &["MfKQ9r8GKYqrTwjUPD8I"]);
                let names = [&STANDARD_ID, &STANDARD_TIMESTAMP, &checks.header];
                let headers = names.map(|name| (name.clone(), header.parse().unwrap()));
                if let Ok(signed) = checks.read(&HeaderMap::from_iter(headers), now()) {
                    prop_assert!((1..=MAX_SIGNATURES).contains(&signed.signatures.len()));
                    prop_assert_eq!(checks.check(&signed, body.as_bytes()), Err(SignatureError::Wrong));
                }
            }
        }

        #[test]
        fn hexadecimal_digits_are_read_back(bytes in any::<[u8; BYTES]>()) {
            let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(from_hex(&text), Some(bytes));
        }
    }
}
