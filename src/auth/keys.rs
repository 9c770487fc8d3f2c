//! The keys that tokens are verified with: from options of the configuration and from JWK sets.

use std::fmt;
use std::sync::Arc;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};

use super::pem::{self, PemError};
use super::{Role, crypto};

/// The shortest secret, in bytes: the size of the hash of HS256 (RFC 7518, §3.2).
pub const MIN_SECRET_BYTES: usize = 32;
/// The keys that are read of a JWK set.
const MAX_SET_KEYS: usize = 64;
/// The size of a file with a key, in bytes.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// What tokens a key or a JWK set is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// The issuers (`iss`); empty for any.
    pub issuers: Vec<String>,
    /// The audiences (`aud`), of which a token names at least one; empty for any.
    pub audiences: Vec<String>,
    /// What the tokens are used for; `None` for everything.
    pub role: Option<Role>,
}

/// A key that verifies tokens.
#[derive(Clone)]
pub struct Key {
    pub(super) material: DecodingKey,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) id: Option<Box<str>>,
    pub(super) scope: Arc<Scope>,
}

/// `Debug` leaves the key out: it may be a secret.
impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { material: _, algorithms, id, scope } = self;
        let mut fields = formatter.debug_struct("Key");
        fields.field("algorithms", algorithms).field("id", id).field("scope", scope).finish_non_exhaustive()
    }
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The option is not well formed.
    #[error("{0}")]
    Option(String),
    /// The file cannot be read.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// The reason.
        error: std::io::Error,
    },
    /// The secret is too short.
    #[error(
        "the secret has {0} bytes: expected at least {MIN_SECRET_BYTES} random ones, such as of openssl rand -hex 32"
    )]
    ShortSecret(usize),
    /// A public key stands where a secret should.
    #[error("a PEM file is no secret: expected an algorithm for its key, such as RS256 or ES256")]
    PemAsSecret,
    /// The file has no usable key.
    #[error(transparent)]
    Pem(#[from] PemError),
}

/// A key as written in an option: `ALGORITHM[+ALGORITHM]=SECRET` or `=@FILE`, and options after commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyOption<'a> {
    algorithms: Vec<Algorithm>,
    source: KeySource<'a>,
    options: Options<'a>,
}

/// Where a key is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeySource<'a> {
    Secret(&'a str),
    File(&'a str),
}

impl fmt::Debug for KeySource<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(_) => formatter.write_str("Secret(***)"),
            Self::File(path) => formatter.debug_tuple("File").field(path).finish(),
        }
    }
}

/// The options after the commas, of a key or a JWK set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options<'a> {
    pub(super) id: Option<&'a str>,
    pub(super) scope: Scope,
    pub(super) algorithms: Option<Vec<Algorithm>>,
}

const EXPECTED: &str = "expected ALGORITHM=SECRET or ALGORITHM=@FILE, such as RS256=@public.pem, and options after commas: kid=ID, \
                        iss=ISSUER, aud=AUDIENCE, for=subscribers or for=publishers";

impl<'a> KeyOption<'a> {
    /// Reads an option.
    ///
    /// # Errors
    /// When it is not well formed. The error never repeats the option, which may be a secret.
    pub fn parse(text: &'a str) -> Result<Self, KeyError> {
        let option_error = |reason: String| KeyError::Option(reason);
        let (algorithms, rest) = text.split_once('=').ok_or_else(|| option_error(EXPECTED.to_owned()))?;
        let algorithms = parse_algorithms(algorithms).map_err(option_error)?;
        let (source, options) = Options::split(rest, &["kid", "iss", "aud", "for"]).map_err(option_error)?;
        let source = match source.strip_prefix('@') {
            Some(path) => KeySource::File(path),
            None => KeySource::Secret(source),
        };
        let family = algorithms[0].family();
        if algorithms.iter().any(|algorithm| algorithm.family() != family) {
            return Err(option_error("expected algorithms of one kind of key, such as RS256+PS256".to_owned()));
        }
        match source {
            KeySource::Secret(secret) if family == AlgorithmFamily::Hmac => check_secret(secret.as_bytes())?,
            KeySource::Secret(_) => {
                return Err(option_error(format!("{EXPECTED}; only HS256, HS384 and HS512 have a secret")));
            }
            KeySource::File(_) => {}
        }
        Ok(Self { algorithms, source, options })
    }

    /// The option without its secret.
    pub fn shown(&self, text: &str) -> String {
        match self.source {
            // It stands between the first '=' and the options.
            KeySource::Secret(secret) => {
                let start = text.find('=').map_or(0, |place| place + 1);
                format!("{}***{}", &text[..start], text.get(start + secret.len()..).unwrap_or_default())
            }
            KeySource::File(_) => text.to_owned(),
        }
    }

    /// The key that verifies. `defaults` holds where the option says nothing.
    ///
    /// # Errors
    /// When the file cannot be read, or has no key for the algorithms.
    pub fn key(&self, defaults: &Scope) -> Result<Key, KeyError> {
        crypto::install();
        let contents = self.contents()?;
        let material = if self.is_hmac() {
            secret(&contents)?
        } else {
            let (key, usable) = pem::public_key(&contents)?;
            if let Some(wrong) = self.algorithms.iter().find(|algorithm| !usable.contains(algorithm)) {
                return Err(PemError::WrongKind(*wrong).into());
            }
            key
        };
        Ok(Key {
            material,
            algorithms: self.algorithms.clone(),
            id: self.options.id.map(Into::into),
            scope: Arc::new(self.options.scope.or(defaults)),
        })
    }

    /// The key that signs, the first algorithm, and the key's id, for `tallycast token`.
    ///
    /// # Errors
    /// As for [`key`](Self::key).
    pub fn signing_key(&self) -> Result<(EncodingKey, Algorithm, Option<&'a str>), KeyError> {
        crypto::install();
        let contents = self.contents()?;
        let algorithm = self.algorithms[0];
        let key = if self.is_hmac() {
            let secret = trimmed(&contents);
            check_secret(secret)?;
            EncodingKey::from_secret(secret).map_err(|_| KeyError::ShortSecret(0))?
        } else {
            pem::signing_key(&contents, algorithm)?
        };
        Ok((key, algorithm, self.options.id))
    }

    /// What its tokens are for.
    pub(super) fn scope(&self) -> &Scope {
        &self.options.scope
    }

    fn is_hmac(&self) -> bool {
        self.algorithms[0].family() == AlgorithmFamily::Hmac
    }

    fn contents(&self) -> Result<Vec<u8>, KeyError> {
        match self.source {
            KeySource::Secret(secret) => Ok(secret.as_bytes().to_vec()),
            KeySource::File(path) => read(path).map_err(|error| KeyError::Unreadable { path: path.to_owned(), error }),
        }
    }
}

/// The contents of a file of bounded size.
pub(super) fn read(path: &str) -> std::io::Result<Vec<u8>> {
    let size = std::fs::metadata(path)?.len();
    if size > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("{size} bytes, the limit is {MAX_FILE_BYTES}")));
    }
    std::fs::read(path)
}

/// A secret without the line break at the end of its file.
fn trimmed(contents: &[u8]) -> &[u8] {
    contents.trim_ascii_end()
}

fn check_secret(secret: &[u8]) -> Result<(), KeyError> {
    // The key confusion attack: a public key that everyone knows, used as a secret.
    if secret.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Err(KeyError::PemAsSecret);
    }
    if secret.len() < MIN_SECRET_BYTES {
        return Err(KeyError::ShortSecret(secret.len()));
    }
    Ok(())
}

fn secret(contents: &[u8]) -> Result<DecodingKey, KeyError> {
    let secret = trimmed(contents);
    check_secret(secret)?;
    DecodingKey::from_secret(secret).map_err(|_| KeyError::ShortSecret(0))
}

/// Reads `RS256+PS256`.
fn parse_algorithms(text: &str) -> Result<Vec<Algorithm>, String> {
    let parse = |name: &str| name.parse().map_err(|_| ());
    text.split('+').map(parse).collect::<Result<_, ()>>().map_err(|()| {
        "expected an algorithm (HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA), or several \
         separated by +"
            .to_owned()
    })
}

impl<'a> Options<'a> {
    /// Splits what is in front of the options from them. Only names in `known` begin one, so a secret may have commas.
    pub(super) fn split(text: &'a str, known: &[&str]) -> Result<(&'a str, Self), String> {
        let mut options = Self::default();
        let mut rest = text;
        while let Some((before, option)) = rest.rsplit_once(',') {
            let Some((name, value)) = option.split_once('=').filter(|(name, _)| known.contains(name)) else { break };
            if value.is_empty() {
                return Err(format!("expected a value for {name}="));
            }
            match name {
                "kid" => options.id = Some(value),
                "iss" => options.scope.issuers.push(value.to_owned()),
                "aud" => options.scope.audiences.push(value.to_owned()),
                "for" => {
                    options.scope.role = Some(match value {
                        "subscribers" => Role::Subscriber,
                        "publishers" => Role::Publisher,
                        _ => return Err("expected for=subscribers or for=publishers".to_owned()),
                    });
                }
                _ => options.algorithms = Some(parse_algorithms(value)?),
            }
            rest = before;
        }
        Ok((rest, options))
    }
}

impl Scope {
    /// This scope, or `defaults` where it says nothing.
    pub(super) fn or(&self, defaults: &Self) -> Self {
        let or = |own: &Vec<String>, default: &Vec<String>| if own.is_empty() { default } else { own }.clone();
        Self {
            issuers: or(&self.issuers, &defaults.issuers),
            audiences: or(&self.audiences, &defaults.audiences),
            role: self.role.or(defaults.role),
        }
    }
}

/// The keys of a JWK set that can be used by one of `allowed`, if given. Others are left out, as are secrets: everyone can read
/// the set.
///
/// # Errors
/// When the text is not a JWK set.
pub(super) fn of_set(
    json: &[u8],
    scope: &Arc<Scope>,
    allowed: Option<&[Algorithm]>,
) -> Result<Vec<Key>, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    crypto::install();
    let Set { keys } = serde_json::from_slice(json)?;
    let keys = keys.into_iter().filter_map(|key| of_jwk(&serde_json::from_value(key).ok()?, scope, allowed));
    Ok(keys.take(MAX_SET_KEYS).collect())
}

fn of_jwk(jwk: &Jwk, scope: &Arc<Scope>, allowed: Option<&[Algorithm]>) -> Option<Key> {
    let common = &jwk.common;
    let is_for_signatures = common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|of| of.contains(&KeyOperations::Verify));
    if !is_for_signatures {
        return None;
    }
    let material = DecodingKey::from_jwk(jwk).ok()?;
    let usable = match (&jwk.algorithm, material.kind()) {
        (AlgorithmParameters::RSA(_), DecodingKeyKind::RsaModulusExponent { n, .. }) => pem::rsa_algorithms(n)?,
        (AlgorithmParameters::EllipticCurve(parameters), DecodingKeyKind::SecretOrDer(point)) => {
            let usable = pem::ec_algorithms(point)?;
            let is_same_curve = match parameters.curve {
                EllipticCurve::P256 => usable == [Algorithm::ES256],
                EllipticCurve::P384 => usable == [Algorithm::ES384],
                _ => false,
            };
            is_same_curve.then_some(usable)?
        }
        (AlgorithmParameters::OctetKeyPair(parameters), DecodingKeyKind::SecretOrDer(key))
            if parameters.curve == EllipticCurve::Ed25519 =>
        {
            pem::ed_algorithms(key)?
        }
        _ => return None,
    };
    // A key that names an algorithm is for it alone.
    let own = common.key_algorithm.map(Algorithm::try_from).transpose().ok()?;
    let is_allowed = |algorithm: &&Algorithm| {
        own.is_none_or(|own| own == **algorithm) && allowed.is_none_or(|allowed| allowed.contains(algorithm))
    };
    let algorithms: Vec<Algorithm> = usable.iter().filter(is_allowed).copied().collect();
    let id = common.key_id.as_deref().map(Into::into);
    (!algorithms.is_empty()).then(|| Key { material, algorithms, id, scope: Arc::clone(scope) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789,abcdef=0123456789@abcdef";

    #[test]
    fn options_are_read_and_shown_without_the_secret() {
        let text = format!("HS256+HS512={SECRET},kid=a,iss=https://b,aud=c,for=publishers");
        let option = KeyOption::parse(&text).unwrap();
        assert_eq!(option.shown(&text), "HS256+HS512=***,kid=a,iss=https://b,aud=c,for=publishers");
        assert!(!format!("{option:?}").contains("0123"));
        let defaults = Scope { issuers: vec!["x".to_owned()], audiences: vec!["y".to_owned()], role: None };
        let key = option.key(&defaults).unwrap();
        assert_eq!((key.id.as_deref(), key.algorithms.len()), (Some("a"), 2));
        assert_eq!((&key.scope.issuers[0][..], &key.scope.audiences[0][..]), ("https://b", "c"));
        assert_eq!(key.scope.role, Some(Role::Publisher));
        let text = format!("HS256={SECRET}");
        let key = KeyOption::parse(&text).unwrap().key(&defaults).unwrap();
        assert_eq!((&key.scope.issuers[0][..], key.scope.role), ("x", None));
        assert_eq!(key.material.try_get_as_bytes().unwrap(), SECRET.as_bytes());
    }

    #[test]
    fn keys_of_the_wrong_kind_are_refused() {
        let error = |text: &str| KeyOption::parse(text).unwrap_err().to_string();
        assert!(error("HS256=short").starts_with("the secret has 5 bytes: expected at least 32"));
        assert!(error("secret").starts_with("expected ALGORITHM=SECRET"));
        assert!(error("none=@file").starts_with("expected an algorithm (HS256"));
        assert!(error("RS256=secret").contains("only HS256, HS384 and HS512 have a secret"));
        assert!(error("RS256+HS256=@file").starts_with("expected algorithms of one kind"));
        assert!(error(&format!("HS256={SECRET},for=all")).starts_with("expected for=subscribers"));
        let pem = "-----BEGIN PUBLIC KEY-----MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A";
        assert!(error(&format!("HS256={pem}")).starts_with("a PEM file is no secret"));
    }

    #[test]
    fn sets_keep_only_public_keys_for_signatures() {
        let point = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
        let json = serde_json::json!({"keys": [
            {"kty": "EC", "crv": "P-256", "x": point, "y": point, "kid": "a"},
            {"kty": "EC", "crv": "P-256", "x": point, "y": point, "use": "enc"},
            {"kty": "EC", "crv": "P-384", "x": point, "y": point},
            {"kty": "EC", "crv": "P-256", "x": point, "y": point, "alg": "ES384"},
            {"kty": "OKP", "crv": "Ed25519", "x": point, "kid": "b"},
            {"kty": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"},
            {"kty": "RSA", "n": point, "e": "AQAB"},
            {"kty": "RSA", "n": format!("{}w", "_".repeat(341)), "e": "AQAB", "alg": "RS256", "kid": "c"},
            {"kty": "new"},
            7,
        ]});
        let of = |allowed: Option<&[Algorithm]>| {
            let keys = of_set(json.to_string().as_bytes(), &Arc::default(), allowed).unwrap();
            keys.into_iter().map(|key| (key.id.unwrap().to_string(), key.algorithms)).collect::<Vec<_>>()
        };
        let key = |id: &str, algorithm| (id.to_owned(), vec![algorithm]);
        let all = [key("a", Algorithm::ES256), key("b", Algorithm::EdDSA), key("c", Algorithm::RS256)];
        assert_eq!(of(None), all);
        assert_eq!(of(Some(&[Algorithm::EdDSA, Algorithm::PS256])), [key("b", Algorithm::EdDSA)]);
    }
}
