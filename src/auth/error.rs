//! Why a token is refused. Each is one line for the client, which never repeats the token.

use std::borrow::Cow;

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not a JWT.
    #[error("the token is not a JWT: expected three parts in base64url, separated by dots")]
    Malformed,
    /// It has too many bytes.
    #[error("the token is too long; the limit is {} bytes", super::MAX_TOKEN_BYTES)]
    TooLong,
    /// No key may be used with this algorithm.
    #[error("no key has the algorithm {0:?} of the token")]
    Algorithm(Box<str>),
    /// No key has the id of the token.
    #[error("unknown key: no key has the id (kid) of the token")]
    UnknownKey,
    /// It was not signed by any of the keys.
    #[error("wrong signature")]
    Signature,
    /// It has expired.
    #[error("the token has expired")]
    Expired,
    /// It is not valid yet.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Its issuer is not the one of the key.
    #[error("wrong issuer (iss)")]
    Issuer,
    /// It is not for this server.
    #[error("wrong audience (aud)")]
    Audience,
    /// The key that signed it is for others.
    #[error("the key of the token is not for {0}s")]
    Role(Role),
    /// A claim is not what it should be.
    #[error("invalid claim {claim}: {expected}")]
    Claim {
        /// The name of the claim.
        claim: &'static str,
        /// What was expected.
        expected: Cow<'static, str>,
    },
    /// No key of the issuer is known yet.
    #[error("the keys of the issuer cannot be fetched; try again in a moment")]
    Unavailable,
}

impl TokenError {
    /// A claim that is not as `expected`.
    pub(super) fn claim(claim: &'static str, expected: impl Into<Cow<'static, str>>) -> Self {
        Self::Claim { claim, expected: expected.into() }
    }
}

/// What a token is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reading.
    Subscriber,
    /// Publishing.
    Publisher,
}

impl std::fmt::Display for Role {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Subscriber => "subscriber",
            Self::Publisher => "publisher",
        })
    }
}
