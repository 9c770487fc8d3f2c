//! What is counted of tokens and tickets.

use tallycast_fanout::Counter;

use super::TokenError;

/// Counters of tokens and tickets. They only grow.
#[derive(Debug, Default)]
pub struct AuthStats {
    /// Tokens that were accepted.
    pub accepted: Counter,
    /// Tokens that have expired.
    pub expired: Counter,
    /// Tokens of an unknown key, or with a wrong signature.
    pub wrong_key: Counter,
    /// Tokens that were refused for another reason.
    pub invalid: Counter,
    /// Tokens that could not be verified because no key of the issuer has been fetched.
    pub unavailable: Counter,
    /// Tickets made.
    pub tickets: Counter,
    /// Tickets that were unknown, used or expired.
    pub refused_tickets: Counter,
    /// JWK sets fetched.
    pub jwks_fetched: Counter,
    /// Attempts to fetch a JWK set that failed.
    pub jwks_failed: Counter,
}

impl AuthStats {
    /// Counts a verification.
    pub(super) fn count<T>(&self, verified: &Result<T, TokenError>) {
        let counter = match verified {
            Ok(_) => &self.accepted,
            Err(TokenError::Expired) => &self.expired,
            Err(TokenError::UnknownKey | TokenError::Signature) => &self.wrong_key,
            Err(TokenError::Unavailable) => &self.unavailable,
            Err(_) => &self.invalid,
        };
        counter.add(1);
    }
}
