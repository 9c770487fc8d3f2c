//! Makes tokens, for development and tests.

use jsonwebtoken::{Header, encode};
use serde_json::{Map, Value};

use super::keys::{KeyError, KeyOption};

/// Signs `claims` by a key: a secret, or a private key in PEM. Issuer and audience of the key are those of the token, unless the
/// claims have their own.
///
/// # Errors
/// When the key cannot sign.
pub fn mint(key: &KeyOption<'_>, id: Option<&str>, mut claims: Map<String, Value>) -> Result<String, KeyError> {
    let (signing_key, algorithm, own_id) = key.signing_key()?;
    let scope = key.scope();
    for (name, values) in [("iss", &scope.issuers), ("aud", &scope.audiences)] {
        if let Some(value) = values.first()
            && !claims.contains_key(name)
        {
            claims.insert(name.to_owned(), value.clone().into());
        }
    }
    let mut header = Header::new(algorithm);
    header.kid = id.or(own_id).map(str::to_owned);
    encode(&header, &claims, &signing_key).map_err(|error| KeyError::Option(error.to_string()))
}
