//! The options of the URL of a push source, and the secrets that they name.

use axum::http::header::HeaderName;
use percent_encoding::percent_decode_str;

use super::config::Kind;
use super::signature::Scheme;
use crate::config::Secret;

/// The shortest secret or token, in bytes.
const MIN_SECRET_BYTES: usize = 16;
/// The secrets or tokens of a source: one, and others while it is rotated.
const MAX_SECRETS: usize = 8;
/// The size of a file with a secret, in bytes.
const MAX_FILE_BYTES: u64 = 4 * 1024;

/// Why a URL is none of a push source. Never repeats a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(String);

impl UrlError {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// The options of a URL, in their order.
pub(super) struct Options(Vec<(String, String)>);

impl Options {
    pub(super) fn parse(query: &str, kind: Kind) -> Result<Self, UrlError> {
        let mut options = Vec::new();
        // A + is a +: base64 has some.
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !kind.options().contains(&name) {
                // Not the value, nor a name that could be a part of a value.
                let expected = kind.options().join("=, ");
                return Err(UrlError(format!(
                    "unknown option in the URL of a {} source; expected {expected}=",
                    kind.name()
                )));
            }
            let value = percent_decode_str(value).decode_utf8().ok().filter(|value| !value.is_empty());
            let value =
                value.ok_or_else(|| UrlError(format!("expected a value for {name}=, percent-encoded UTF-8")))?;
            options.push((name.to_owned(), value.into_owned()));
        }
        Ok(Self(options))
    }

    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(found, _)| found == name).map(|(_, value)| value.clone()).collect()
    }

    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, UrlError> {
        let mut values = self.0.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(UrlError(format!("expected {name}= once"))),
            (value, None) => Ok(value),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(found, _)| found == name)
    }

    pub(super) fn secrets(&self, name: &str) -> Result<Vec<SecretSource>, UrlError> {
        let values = self.all(name);
        if values.len() > MAX_SECRETS {
            return Err(UrlError(format!("expected at most {MAX_SECRETS} times {name}=")));
        }
        // Tokens have none.
        let scheme = self.one("scheme")?.and_then(Scheme::parse).filter(|_| name == "secret");
        let source = |value: String| match value.strip_prefix('@') {
            Some(path) => Ok(SecretSource::File(path.to_owned(), scheme)),
            None => check_length(name, &value, scheme).map(|()| SecretSource::Value(Secret::new(&value))),
        };
        values.into_iter().map(source).collect()
    }

    pub(super) fn header(&self, name: &str) -> Result<Option<HeaderName>, UrlError> {
        let parse =
            |value: &str| value.parse().map_err(|_| UrlError(format!("expected the name of a header for {name}=")));
        self.one(name)?.map(parse).transpose()
    }
}

/// Checks the length of what a secret stands for, which may be written in base64. One that its scheme cannot read is
/// refused elsewhere.
fn check_length(name: &str, secret: &str, scheme: Option<Scheme>) -> Result<(), UrlError> {
    let bytes = scheme.and_then(|scheme| scheme.secret_bytes(secret));
    let length = bytes.map_or(secret.len(), |bytes| bytes.len());
    if length >= MIN_SECRET_BYTES {
        return Ok(());
    }
    let expected = format!("expected at least {MIN_SECRET_BYTES} random ones, such as of openssl rand -hex 32");
    Err(UrlError(format!("the value of {name}= has {length} bytes: {expected}")))
}

/// Where a secret is.
#[derive(Debug, Clone)]
pub(super) enum SecretSource {
    Value(Secret),
    /// The path of a file, and how the secret in it is written.
    File(String, Option<Scheme>),
}

impl SecretSource {
    /// Reads its file, if it is in one, as the value of the option `name`.
    pub(super) fn read(&mut self, name: &str) -> Result<(), UrlError> {
        let Self::File(path, scheme) = self else { return Ok(()) };
        let value = read(path).map_err(|error| UrlError(format!("cannot read {path}: {error}")))?;
        check_length(name, value.trim_end(), *scheme)?;
        *self = Self::Value(Secret::new(value.trim_end()));
        Ok(())
    }

    pub(super) fn value(&self) -> Option<&str> {
        match self {
            Self::Value(secret) => Some(secret.expose()),
            Self::File(..) => None,
        }
    }
}

/// The text of a file of bounded size.
fn read(path: &str) -> std::io::Result<String> {
    let size = std::fs::metadata(path)?.len();
    if size > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("{size} bytes, the limit is {MAX_FILE_BYTES}")));
    }
    std::fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_that_of_what_a_secret_stands_for() {
        let secrets = |query: &str| Options::parse(query, Kind::Webhook).and_then(|options| options.secrets("secret"));
        let error = secrets("scheme=standard&secret=whsec_MDEyMzQ1Njc4OQ==").unwrap_err().to_string();
        assert!(error.starts_with("the value of secret= has 10 bytes: expected at least 16"), "{error}");
        assert!(secrets("scheme=standard&secret=MDEyMzQ1Njc4OWFiY2RlZg==").is_ok());
        // The same text is no base64 elsewhere.
        assert!(secrets("scheme=stripe&secret=whsec_MDEyMzQ1Njc4OQ==").is_ok());
    }
}
