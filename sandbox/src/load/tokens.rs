//! The tokens of readers: a JWT each, with a subject of its own, signed with HS256 (RFC 7515, RFC 7518 §3.2).

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::{Value, json};

/// The secret of all runs. The servers are reachable from this machine only, and serve nothing else.
const SECRET: &str = "sandbox-load-secret-of-all-its-runs";

/// The option of tallycast with the key that verifies the tokens.
pub(super) fn key_option() -> String {
    format!("HS256={SECRET}")
}

/// The token of reader `index`, which may read `topics` and, as tokens of an application do, what is below a topic of its own.
/// With `mercure`, it may also receive private updates of these by the Mercure protocol.
pub(super) fn token(index: usize, topics: &[String], mercure: bool) -> String {
    let own = [format!("/user/{index}/**")];
    let read: Vec<&String> = own.iter().chain(topics).collect();
    let mut claims = json!({ "sub": format!("user-{index}"), "tallycast": { "read": read } });
    if mercure {
        claims["mercure"] = json!({ "subscribe": read });
    }
    sign(&claims)
}

fn sign(claims: &Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({ "alg": "HS256", "typ": "JWT" })), part(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
    format!("{signed}.{signature}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_has_header_claims_and_signature() {
        let token = token(7, &["/raw".to_owned()], false);
        let parts: Vec<Vec<u8>> =
            token.split('.').map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).unwrap_or_default()).collect();
        let [header, claims, signature] = &*parts else { panic!("{token}") };
        assert_eq!(header, br#"{"alg":"HS256","typ":"JWT"}"#);
        assert_eq!(claims, br#"{"sub":"user-7","tallycast":{"read":["/user/7/**","/raw"]}}"#);
        assert_eq!(signature.len(), 32);
    }

    #[test]
    fn updates_by_mercure_are_a_claim_of_their_own() {
        let token = token(7, &["/raw".to_owned()], true);
        let claims = token.split('.').nth(1).and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
        let claims: Value = serde_json::from_slice(&claims.unwrap_or_default()).unwrap_or_default();
        assert_eq!(claims["mercure"], json!({"subscribe": ["/user/7/**", "/raw"]}));
    }
}
