//! Tokens -> claims: finds the keys that may have signed a token, and checks signature and registered claims. No input or output.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, Validation, decode};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::claims;
use super::keys::Key;
use super::{MAX_TOKEN_BYTES, Role, TokenError};

/// The signatures that one token may cost.
const MAX_ATTEMPTS: usize = 16;
/// The bytes of an unknown algorithm that an error repeats.
const MAX_SHOWN_BYTES: usize = 16;

/// The parts of a token's header that choose the key.
#[derive(Debug, Deserialize)]
pub(super) struct TokenHeader {
    alg: String,
    #[serde(default)]
    pub(super) kid: Option<String>,
}

impl TokenHeader {
    /// Reads the header of a token that may be anything.
    pub(super) fn read(token: &str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let mut parts = token.split('.');
        let (Some(header), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(TokenError::Malformed);
        };
        let json = URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenError::Malformed)?;
        serde_json::from_slice(&json).map_err(|_| TokenError::Malformed)
    }

    /// The algorithm. `none` is none.
    fn algorithm(&self) -> Result<Algorithm, TokenError> {
        self.alg.parse().map_err(|_| self.unusable())
    }

    fn unusable(&self) -> TokenError {
        TokenError::Algorithm(self.alg[..self.alg.floor_char_boundary(MAX_SHOWN_BYTES)].into())
    }
}

/// Verifies a token by the first of `keys` that accepts it, and returns its claims. An error is that of the key that came furthest.
pub(super) fn verify<'k>(
    token: &str,
    header: &TokenHeader,
    role: Role,
    keys: impl Iterator<Item = &'k Key>,
    leeway: Duration,
    now: SystemTime,
) -> Result<Map<String, Value>, TokenError> {
    let algorithm = header.algorithm()?;
    let with_algorithm: Vec<&Key> = keys.filter(|key| key.algorithms.contains(&algorithm)).collect();
    if with_algorithm.is_empty() {
        return Err(header.unusable());
    }
    let is_named = |key: &&&Key| match (&key.id, &header.kid) {
        (Some(id), Some(kid)) => **id == **kid,
        _ => true,
    };
    let candidates: Vec<&&Key> = with_algorithm.iter().filter(is_named).take(MAX_ATTEMPTS).collect();
    if candidates.is_empty() {
        return Err(TokenError::UnknownKey);
    }
    let mut error = TokenError::Signature;
    for key in candidates {
        match verify_by(token, algorithm, role, key, leeway, now) {
            Ok(claims) => return Ok(claims),
            // Another key has signed it.
            Err(TokenError::Signature) => {}
            Err(found) => error = found,
        }
    }
    Err(error)
}

fn verify_by(
    token: &str,
    algorithm: Algorithm,
    role: Role,
    key: &Key,
    leeway: Duration,
    now: SystemTime,
) -> Result<Map<String, Value>, TokenError> {
    // Claims are checked below, by a clock that tests can set.
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let claims = decode::<Map<String, Value>>(token, &key.material, &validation).map_err(|error| {
        use jsonwebtoken::errors::ErrorKind;
        match error.kind() {
            ErrorKind::InvalidSignature => TokenError::Signature,
            _ => TokenError::Malformed,
        }
    })?;
    let claims = claims.claims;
    claims::check(&claims, &key.scope, leeway, now)?;
    if key.scope.role.is_some_and(|of| of != role) {
        return Err(TokenError::Role(role));
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    use super::super::claims::{Claims, Rules};
    use super::super::{KeyOption, Scope, Template};
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const NOW: u64 = 1_000_000;

    fn key(option: &str) -> Key {
        KeyOption::parse(option).unwrap().key(&Scope::default()).unwrap()
    }

    fn token(algorithm: Algorithm, kid: Option<&str>, secret: &str, claims: &Value) -> String {
        let mut header = Header::new(algorithm);
        header.kid = kid.map(str::to_owned);
        encode(&header, claims, &EncodingKey::from_secret(secret.as_bytes()).unwrap()).unwrap()
    }

    fn verify_with(keys: &[Key], token: &str, role: Role) -> Result<Claims, TokenError> {
        let read: Vec<Template> = vec!["/user/{sub}/**".parse().unwrap()];
        let rules = Rules { leeway: Duration::from_secs(10), read: &read, publish: &[] };
        let now = UNIX_EPOCH + Duration::from_secs(NOW);
        let claims = verify(token, &TokenHeader::read(token)?, role, keys.iter(), rules.leeway, now)?;
        Claims::read(&claims, rules)
    }

    fn verified(option: &str, claims: &Value) -> Result<Claims, TokenError> {
        let keys = [key(&format!("HS256={SECRET}{option}"))];
        verify_with(&keys, &token(Algorithm::HS256, None, SECRET, claims), Role::Subscriber)
    }

    #[test]
    fn times_are_checked_with_a_leeway() {
        for (claims, expected) in [
            (json!({"exp": NOW - 9}), None),
            (json!({"exp": NOW - 10}), Some(TokenError::Expired)),
            (json!({"exp": 1e300}), None),
            (json!({"exp": -1}), Some(TokenError::claim("exp", "expected seconds since 1970"))),
            (json!({"exp": "soon"}), Some(TokenError::claim("exp", "expected seconds since 1970"))),
            (json!({"nbf": NOW + 10}), None),
            (json!({"nbf": NOW + 11}), Some(TokenError::NotYetValid)),
            (json!({"nbf": 1e300}), None),
            (json!({}), None),
        ] {
            assert_eq!(verified("", &claims).err(), expected, "{claims}");
        }
        let expiry = verified("", &json!({"exp": NOW})).unwrap().expires_at;
        assert_eq!(expiry, Some(UNIX_EPOCH + Duration::from_secs(NOW + 10)), "with the leeway");
    }

    #[test]
    fn issuer_and_audience_are_those_of_the_key() {
        let option = ",iss=https://a,aud=x,aud=y";
        assert!(verified(option, &json!({"iss": "https://a", "aud": "y"})).is_ok());
        assert!(verified(option, &json!({"iss": "https://a", "aud": ["z", "x"]})).is_ok());
        for (claims, error) in [
            (json!({"aud": "x"}), TokenError::Issuer),
            (json!({"iss": "https://b", "aud": "x"}), TokenError::Issuer),
            (json!({"iss": ["https://a"], "aud": "x"}), TokenError::Issuer),
            (json!({"iss": "https://a"}), TokenError::Audience),
            (json!({"iss": "https://a", "aud": ["z"]}), TokenError::Audience),
            (json!({"iss": "https://a", "aud": []}), TokenError::Audience),
        ] {
            assert_eq!(verified(option, &claims), Err(error), "{claims}");
        }
    }

    #[test]
    fn keys_are_found_by_id_and_tried_without_one() {
        let other = "fedcba9876543210fedcba9876543210";
        let keys = [key(&format!("HS256={SECRET},kid=old")), key(&format!("HS256={other},kid=new"))];
        let result =
            |kid, secret| verify_with(&keys, &token(Algorithm::HS256, kid, secret, &json!({})), Role::Subscriber);
        assert!(result(Some("old"), SECRET).is_ok() && result(Some("new"), other).is_ok());
        assert!(result(None, SECRET).is_ok() && result(None, other).is_ok());
        assert_eq!(result(Some("new"), SECRET), Err(TokenError::Signature));
        assert_eq!(result(Some("third"), SECRET), Err(TokenError::UnknownKey));
        let wrong = token(Algorithm::HS512, None, SECRET, &json!({}));
        assert_eq!(verify_with(&keys, &wrong, Role::Subscriber), Err(TokenError::Algorithm("HS512".into())));
    }

    #[test]
    fn keys_may_be_for_one_role() {
        let keys = [key(&format!("HS256={SECRET},for=subscribers"))];
        let token = token(Algorithm::HS256, None, SECRET, &json!({}));
        assert!(verify_with(&keys, &token, Role::Subscriber).is_ok());
        assert_eq!(verify_with(&keys, &token, Role::Publisher), Err(TokenError::Role(Role::Publisher)));
    }

    #[test]
    fn unsigned_and_broken_tokens_are_refused() {
        let keys = [key(&format!("HS256={SECRET}"))];
        let error = |token: &str| verify_with(&keys, token, Role::Subscriber).unwrap_err();
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        for none in ["none", "None", "NONE", ""] {
            let token = format!("{}.{}.", part(json!({"alg": none})), part(json!({"sub": "ann"})));
            assert_eq!(error(&token), TokenError::Algorithm(none.into()));
        }
        let valid = token(Algorithm::HS256, None, SECRET, &json!({"sub": "ann"}));
        assert_eq!(error(&valid[..valid.len() - 3]), TokenError::Signature);
        let (signed, _) = valid.rsplit_once('.').unwrap();
        assert_eq!(error(&format!("{signed}.")), TokenError::Signature);
        assert_eq!(error(signed), TokenError::Malformed);
        for broken in ["", ".", "..", "a.b.c", "a.b.c.d", &format!("{valid}=")] {
            assert_eq!(error(broken), TokenError::Malformed, "{broken}");
        }
        assert_eq!(error(&"a".repeat(MAX_TOKEN_BYTES + 1)), TokenError::TooLong);
        let critical = json!({"alg": "HS256", "crit": ["b64"], "b64": false});
        assert_eq!(error(&format!("{}.{}.AA", part(critical), part(json!({})))), TokenError::Malformed);
    }

    #[test]
    fn claims_become_topics() {
        let claims = json!({
            "sub": "ann",
            "tallycast": {"read": ["/news"], "publish": ["/chat/*"], "payload": {"name": "Ann"}},
            "https://mercure.rocks/": {"subscribe": ["*"], "publish": []},
        });
        let claims = verified("", &claims).unwrap();
        let text = |topics: &[tallycast_fanout::Topic]| topics.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            (text(&claims.read), text(&claims.publish)),
            (vec!["/news".into(), "/user/ann".into()], vec!["/chat/*".into()])
        );
        assert_eq!(claims.payload, Some(json!({"name": "Ann"})));
        let mercure = claims.mercure.unwrap();
        assert_eq!((mercure.subscribe, mercure.publish), (Some(vec!["*".to_owned()]), Some(vec![])));
        for (claims, claim) in [
            (json!({"tallycast": []}), "tallycast"),
            (json!({"tallycast": {"read": "/news"}}), "tallycast.read"),
            (json!({"tallycast": {"publish": ["news"]}}), "tallycast.publish"),
            (json!({"tallycast": {"read": vec!["/a"; 257]}}), "tallycast.read"),
            (json!({"mercure": {"subscribe": [1]}}), "mercure.subscribe"),
        ] {
            let found = verified("", &claims).unwrap_err();
            assert!(matches!(found, TokenError::Claim { claim: name, .. } if name == claim), "{claims}: {found}");
        }
    }
}
