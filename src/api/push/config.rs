//! The URL of a push source -> its config: `webhook:?OPTIONS`, `cloudevents:?OPTIONS` or `pubsub:?OPTIONS`.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::HeaderName;

use super::event::IdPlace;
use super::options::{Options, SecretSource, UrlError};
use super::signature::{Scheme, Signatures};
use crate::auth::{JwksOption, Scope};
use crate::decode::OWN_CHANNELS;

/// The events that a source takes in a second, unless its URL says something else.
const DEFAULT_RATE: NonZeroU32 = NonZeroU32::new(1000).unwrap();
/// How far the timestamp of a signature may be from the clock, unless the URL says something else.
const DEFAULT_TOLERANCE: Duration = Duration::from_secs(5 * 60);
/// What signs the tokens of Pub/Sub, and the two names by which it is known.
const GOOGLE_KEYS: &str = "https://www.googleapis.com/oauth2/v3/certs";
const GOOGLE: [&str; 2] = ["https://accounts.google.com", "accounts.google.com"];
/// The longest name of a channel in a path or in a request, in bytes.
pub(super) const MAX_CHANNEL_BYTES: usize = 512;

/// What sends to a push source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Webhook,
    CloudEvents,
    PubSub,
}

impl Kind {
    fn parse(scheme: &str) -> Option<Self> {
        Some(match scheme {
            "webhook" => Self::Webhook,
            "cloudevents" => Self::CloudEvents,
            "pubsub" => Self::PubSub,
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::CloudEvents => "cloudevents",
            Self::PubSub => "pubsub",
        }
    }

    /// The options that its URL may have.
    pub(super) fn options(self) -> &'static [&'static str] {
        match self {
            Self::Webhook => &[
                "secret",
                "scheme",
                "header",
                "tolerance",
                "token",
                "auth",
                "id",
                "id-field",
                "rate",
                "rejected",
                "publish",
            ],
            Self::CloudEvents => &[
                "secret",
                "scheme",
                "header",
                "tolerance",
                "token",
                "auth",
                "audience",
                "jwks",
                "issuer",
                "email",
                "subject",
                "origin",
                "rate",
                "rejected",
                "publish",
            ],
            Self::PubSub => &["audience", "email", "jwks", "issuer", "subject", "rate", "rejected", "publish"],
        }
    }
}

/// What a URL says. `Debug` leaves the secrets out.
#[derive(Debug, Clone)]
pub struct Config {
    /// The URL without its secrets.
    shown: String,
    pub(super) kind: Kind,
    pub(super) credentials: Credentials,
    pub(super) id: IdPlace,
    /// The origins that may ask for permission to send (CloudEvents web hooks, section 4); empty for all.
    pub(super) origins: Vec<String>,
    /// Events in a second.
    pub(super) rate: NonZeroU32,
    /// The status of the answer to an event that is rejected for good, if it is not the one that names the reason.
    pub(super) rejected: Option<StatusCode>,
    /// Where events are published, if not only this process is to have them.
    pub(super) publish: Option<PublishTarget>,
}

/// What a sender has to show.
#[derive(Debug, Clone)]
pub(super) enum Credentials {
    /// Nothing.
    Open,
    /// One of these tokens.
    Tokens(Vec<SecretSource>),
    /// A signature by one of these secrets.
    Signature(SignatureRules),
    /// An ID token of an issuer.
    IdToken(IdTokenRules),
}

/// Which signatures count.
#[derive(Debug, Clone)]
pub(super) struct SignatureRules {
    scheme: Scheme,
    header: HeaderName,
    secrets: Vec<SecretSource>,
    tolerance: Duration,
}

/// Which ID tokens count.
#[derive(Debug, Clone)]
pub(super) struct IdTokenRules {
    pub(super) keys: JwksOption,
    /// The accounts; empty for all of the issuer.
    pub(super) emails: Vec<String>,
    /// The values of `sub`; empty for all.
    pub(super) subjects: Vec<String>,
}

/// Where events are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PublishTarget {
    /// On this channel.
    Channel(String),
    /// On the channels that start with this, each with the channel of the event.
    Prefix(String),
    /// In this stream, with the channel of the event as `topic`.
    Stream(Arc<str>),
}

impl Config {
    /// Whether a URL is one of a push source, by its scheme.
    pub fn is_push(url: &str) -> bool {
        url.split_once(':').is_some_and(|(scheme, _)| Kind::parse(scheme).is_some())
    }

    /// Reads a URL. Files are not read yet.
    ///
    /// # Errors
    /// It is none of a push source, or lacks what senders have to show.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        let expected = "expected webhook:?OPTIONS, cloudevents:?OPTIONS or pubsub:?OPTIONS";
        let (scheme, rest) = url.split_once(':').unwrap_or_default();
        let kind = Kind::parse(scheme).ok_or_else(|| UrlError::new(expected.to_owned()))?;
        let query = rest.strip_prefix('?').or(rest.is_empty().then_some(""));
        let options = Options::parse(query.ok_or_else(|| UrlError::new(expected.to_owned()))?, kind)?;
        let id = match (options.header("id")?, options.one("id-field")?) {
            (Some(_), Some(_)) => return Err(UrlError::new("expected id= or id-field=, found both")),
            (Some(name), None) => IdPlace::Header(name),
            (None, Some(field)) => IdPlace::Field(field.to_owned()),
            // Stripe has it nowhere else.
            (None, None) if options.one("scheme")? == Some("stripe") => IdPlace::Field("id".to_owned()),
            (None, None) => IdPlace::Usual,
        };
        let rate = options
            .one("rate")?
            .map(|rate| rate.parse().map_err(|_| UrlError::new("expected events per second for rate=, such as 100")));
        let rejected = options.one("rejected")?.map(|status| {
            let status = status.parse().ok().and_then(|status| StatusCode::from_u16(status).ok());
            let status = status.filter(|status| status.is_success() || status.is_client_error());
            status.ok_or_else(|| UrlError::new("expected a status from 200 to 299 or from 400 to 499 for rejected="))
        });
        // Pub/Sub sends a message again after every other answer.
        let rejected = rejected.transpose()?.or((kind == Kind::PubSub).then_some(StatusCode::NO_CONTENT));
        Ok(Self {
            shown: Self::shown(url),
            kind,
            credentials: Credentials::parse(kind, &options)?,
            id,
            origins: options.all("origin"),
            rate: rate.transpose()?.unwrap_or(DEFAULT_RATE),
            rejected,
            publish: options.one("publish")?.map(PublishTarget::parse).transpose()?,
        })
    }

    /// A URL without its secrets, whether it is valid or not.
    pub(super) fn shown(url: &str) -> String {
        let Some((scheme, query)) = url.split_once(":?").filter(|(scheme, _)| Kind::parse(scheme).is_some()) else {
            return "***".to_owned();
        };
        let kind = Kind::parse(scheme);
        let pair = |pair: &str| match pair.split_once('=') {
            Some((name @ ("secret" | "token"), value)) if !value.starts_with('@') => format!("{name}=***"),
            Some((name, _)) if kind.is_some_and(|kind| kind.options().contains(&name)) => pair.to_owned(),
            _ => "***".to_owned(),
        };
        format!("{scheme}:?{}", query.split('&').map(pair).collect::<Vec<_>>().join("&"))
    }

    /// Reads the files of secrets.
    ///
    /// # Errors
    /// One cannot be read, or is no secret.
    pub fn with_files(mut self) -> Result<Self, UrlError> {
        let (name, secrets) = match &mut self.credentials {
            Credentials::Tokens(tokens) => ("token", tokens),
            Credentials::Signature(rules) => ("secret", &mut rules.secrets),
            Credentials::Open | Credentials::IdToken(_) => return Ok(self),
        };
        secrets.iter_mut().try_for_each(|secret| secret.read(name))?;
        if let Credentials::Signature(rules) = &self.credentials {
            rules.signatures()?;
        }
        Ok(self)
    }

    /// Whether the keys of an issuer are needed.
    pub fn has_id_tokens(&self) -> bool {
        matches!(self.credentials, Credentials::IdToken(_))
    }

    /// Whether anyone may send.
    pub fn is_open(&self) -> bool {
        matches!(self.credentials, Credentials::Open)
    }

    /// Whether the events go to the broker, and not to the readers of this process alone.
    pub fn publishes(&self) -> bool {
        self.publish.is_some()
    }
}

impl fmt::Display for Config {
    /// The URL without its secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

impl SignatureRules {
    /// What checks signatures. Secrets whose files have not been read are left out.
    pub(super) fn signatures(&self) -> Result<Signatures, UrlError> {
        let bytes = |secret: &str| {
            let bytes = self.scheme.secret_bytes(secret);
            bytes.ok_or_else(|| UrlError::new("expected base64 in the value of secret=, as scheme=standard has it"))
        };
        let secrets = self.secrets.iter().filter_map(SecretSource::value).map(bytes).collect::<Result<Vec<_>, _>>()?;
        Ok(Signatures::new(self.scheme, self.header.clone(), &secrets, self.tolerance))
    }
}

impl Credentials {
    fn parse(kind: Kind, options: &Options) -> Result<Self, UrlError> {
        let ways =
            ["secret", "token", "audience", "auth"].into_iter().filter(|way| options.has(way)).collect::<Vec<_>>();
        let of_signatures = ["scheme", "header", "tolerance"];
        let of_id_tokens = ["jwks", "issuer", "email", "subject"];
        let needs = |names: &[&str], what: &str| match names.iter().find(|name| options.has(name)) {
            Some(name) => Err(UrlError::new(format!("{name}= needs {what}"))),
            None => Ok(()),
        };
        if ways != ["secret"] {
            needs(&of_signatures, "secret=, and no other way to tell who sends")?;
        }
        if ways != ["audience"] {
            needs(&of_id_tokens, "audience=, and no other way to tell who sends")?;
        }
        match (&ways[..], kind) {
            (["secret"], _) => Self::signature(options),
            (["token"], _) => Ok(Self::Tokens(options.secrets("token")?)),
            (["audience"], _) => Self::id_token(kind, options),
            (["auth"], _) if options.one("auth")? == Some("none") => Ok(Self::Open),
            (["auth"], _) => Err(UrlError::new("expected auth=none")),
            (_, Kind::Webhook) => Err(UrlError::new("expected one of secret=, token= and auth=none")),
            (_, Kind::CloudEvents) => Err(UrlError::new("expected one of secret=, token=, audience= and auth=none")),
            (_, Kind::PubSub) => Err(UrlError::new("expected audience= and email=")),
        }
    }

    fn signature(options: &Options) -> Result<Self, UrlError> {
        let scheme = Scheme::parse(options.one("scheme")?.unwrap_or("hex"))
            .ok_or_else(|| UrlError::new("expected scheme=hex, base64, standard or stripe"))?;
        let named = options.header("header")?;
        if named.is_some() && scheme == Scheme::Standard {
            return Err(UrlError::new("header= is not for scheme=standard, which says where signatures are"));
        }
        let tolerance = options.one("tolerance")?.map(|tolerance| {
            if !scheme.has_timestamp() {
                return Err(UrlError::new("tolerance= is for scheme=standard and stripe, which have timestamps"));
            }
            let tolerance = humantime::parse_duration(tolerance).ok().filter(|tolerance| !tolerance.is_zero());
            tolerance.ok_or_else(|| UrlError::new("expected a duration for tolerance=, such as 5m"))
        });
        let header = named.or(scheme.default_header());
        let header = header.ok_or_else(|| UrlError::new("expected header= beside scheme=base64"))?;
        let tolerance = tolerance.transpose()?.unwrap_or(DEFAULT_TOLERANCE);
        let rules = SignatureRules { scheme, header, secrets: options.secrets("secret")?, tolerance };
        rules.signatures()?;
        Ok(Self::Signature(rules))
    }

    fn id_token(kind: Kind, options: &Options) -> Result<Self, UrlError> {
        let (emails, mut issuers) = (options.all("email"), options.all("issuer"));
        let (mut url, is_google) = (options.one("jwks")?, kind == Kind::PubSub);
        if is_google {
            // Every account of Google could have a token for the audience.
            if emails.is_empty() {
                return Err(UrlError::new("expected email=, the service account of the subscription"));
            }
            url = url.or(Some(GOOGLE_KEYS));
            if issuers.is_empty() {
                issuers.extend(GOOGLE.map(str::to_owned));
            }
        }
        let (Some(url), false) = (url, issuers.is_empty()) else {
            return Err(UrlError::new("expected jwks= and issuer= beside audience="));
        };
        let scope = Scope { issuers, audiences: options.all("audience"), role: None };
        let keys = JwksOption::new(url, scope).map_err(|error| UrlError::new(format!("jwks=: {error}")))?;
        Ok(Self::IdToken(IdTokenRules { keys, emails, subjects: options.all("subject") }))
    }
}

impl PublishTarget {
    fn parse(text: &str) -> Result<Self, UrlError> {
        let (name, is_stream) = text.strip_prefix("stream:").map_or((text, false), |key| (key, true));
        let prefix = name.strip_suffix('*').filter(|_| !is_stream);
        let literal = prefix.unwrap_or(name);
        // A prefix in front of what senders choose keeps them from the channels of tallycast.
        let is_own = literal.starts_with(OWN_CHANNELS) || (prefix.is_some() && OWN_CHANNELS.starts_with(literal));
        let has_others = literal.contains(|character: char| character.is_control() || character == '*');
        if is_own || has_others || literal.is_empty() || literal.len() > MAX_CHANNEL_BYTES {
            let expected = "expected a channel, a prefix of channels with a * at its end, or stream:KEY";
            return Err(UrlError::new(format!(
                "publish=: {expected}; not of {OWN_CHANNELS}, which belongs to tallycast"
            )));
        }
        Ok(match (prefix, is_stream) {
            (Some(prefix), _) => Self::Prefix(prefix.to_owned()),
            (None, true) => Self::Stream(literal.into()),
            (None, false) => Self::Channel(literal.to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "0123+567/9abcdef";

    fn error(url: &str) -> String {
        Config::parse(url).unwrap_err().to_string()
    }

    #[test]
    fn options_are_read_and_shown_without_secrets() {
        let url = format!("webhook:?secret={SECRET}&secret=@/run/key&header=X-Sig&id=x-id&rate=5&publish=hooks.*");
        let config = Config::parse(&url).unwrap();
        let Credentials::Signature(SignatureRules { scheme, header, secrets, tolerance }) = &config.credentials else {
            panic!("{config:?}")
        };
        assert_eq!((*scheme, header.as_str(), *tolerance), (Scheme::Hex, "x-sig", DEFAULT_TOLERANCE));
        assert_eq!((secrets[0].value(), secrets[1].value()), (Some(SECRET), None));
        assert_eq!(
            (config.rate.get(), config.rejected, config.id.clone()),
            (5, None, IdPlace::Header("x-id".parse().unwrap()))
        );
        assert_eq!(config.publish, Some(PublishTarget::Prefix("hooks.".to_owned())));
        assert!(!format!("{config:?}").contains(SECRET));
        let shown = Config::shown(&url);
        assert_eq!(shown, "webhook:?secret=***&secret=@/run/key&header=X-Sig&id=x-id&rate=5&publish=hooks.*");
        assert_eq!(Config::shown("webhook:?s=hunter2&hunter2"), "webhook:?***&***");
        assert_eq!(Config::shown("hunter2"), "***");
        let stripe =
            Config::parse(&format!("webhook:?scheme=stripe&secret={SECRET}&tolerance=10m&rejected=204")).unwrap();
        assert_eq!((stripe.id, stripe.rejected), (IdPlace::Field("id".to_owned()), Some(StatusCode::NO_CONTENT)));
    }

    #[test]
    fn pubsub_has_the_keys_and_names_of_google_unless_it_says_otherwise() {
        let config = Config::parse("pubsub:?audience=https://a/push&email=a%40b.iam.gserviceaccount.com").unwrap();
        let Credentials::IdToken(rules) = &config.credentials else { panic!("{config:?}") };
        let expected = Scope {
            issuers: GOOGLE.map(str::to_owned).to_vec(),
            audiences: vec!["https://a/push".to_owned()],
            role: None,
        };
        assert_eq!(rules.keys, JwksOption::new(GOOGLE_KEYS, expected).unwrap());
        assert_eq!(
            (&rules.emails[0][..], config.rejected),
            ("a@b.iam.gserviceaccount.com", Some(StatusCode::NO_CONTENT))
        );
        assert!(Config::parse("cloudevents:?audience=a&jwks=https://b/k&issuer=https://b&subject=x").is_ok());
        assert!(Config::parse("pubsub:?audience=a&email=b&jwks=http://127.0.0.1:1/k&issuer=c&rejected=400").is_ok());
    }

    #[test]
    fn urls_that_let_anyone_in_by_mistake_are_refused() {
        assert_eq!(error("webhook:"), "expected one of secret=, token= and auth=none");
        assert_eq!(error("cloudevents:?"), "expected one of secret=, token=, audience= and auth=none");
        assert_eq!(error("pubsub:?audience=a"), "expected email=, the service account of the subscription");
        assert_eq!(error("pubsub:"), "expected audience= and email=");
        assert_eq!(error("pubsub:?email=a"), "email= needs audience=, and no other way to tell who sends");
        assert_eq!(error("cloudevents:?audience=a"), "expected jwks= and issuer= beside audience=");
        assert!(error("webhook:?secret=short").starts_with("the value of secret= has 5 bytes: expected at least 16"));
        assert!(error(&format!("webhook:?secret={SECRET}&token={SECRET}")).starts_with("expected one of"));
        assert!(Config::parse("webhook:?auth=none").unwrap().is_open());
        assert_eq!(error("webhook:?auth=off"), "expected auth=none");
    }

    #[test]
    fn other_mistakes_are_named() {
        let with = |rest: &str| error(&format!("webhook:?secret={SECRET}&{rest}"));
        assert!(
            with("secert=x").starts_with("unknown option in the URL of a webhook source; expected secret=, scheme=")
        );
        assert_eq!(with("rate=0"), "expected events per second for rate=, such as 100");
        assert_eq!(with("rate=1&rate=2"), "expected rate= once");
        assert_eq!(with("rate="), "expected a value for rate=, percent-encoded UTF-8");
        assert_eq!(with("scheme=md5"), "expected scheme=hex, base64, standard or stripe");
        assert_eq!(with("scheme=base64"), "expected header= beside scheme=base64");
        assert!(with("scheme=standard&header=x").starts_with("header= is not for scheme=standard"));
        assert!(with("tolerance=1m").starts_with("tolerance= is for scheme=standard and stripe"));
        assert!(with("rejected=503").starts_with("expected a status from 200 to 299 or from 400 to 499"));
        assert_eq!(with("id=x&id-field=y"), "expected id= or id-field=, found both");
        for publish in ["*", "t*", "tallycast:*", "tallycast:sent:", "stream:", "a*b", "stream:a*", "a%0Ab"] {
            assert!(with(&format!("publish={publish}")).starts_with("publish=: expected a channel"), "{publish}");
        }
        assert!(
            error("redis://a").starts_with("expected webhook:?OPTIONS")
                && error("webhook:x").starts_with("expected webhook")
        );
    }

    #[test]
    fn files_are_read_as_late_as_possible() {
        let path = std::env::temp_dir().join(format!("tallycast-push-{}", std::process::id()));
        let url = format!("webhook:?scheme=standard&secret=@{}", path.display());
        let config = Config::parse(&url).unwrap();
        assert!(config.clone().with_files().unwrap_err().to_string().starts_with("cannot read "));
        std::fs::write(&path, "whsec_?????????????????\n").unwrap();
        let error = config.clone().with_files().unwrap_err().to_string();
        assert_eq!(error, "expected base64 in the value of secret=, as scheme=standard has it");
        std::fs::write(&path, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let Credentials::Signature(rules) = config.with_files().unwrap().credentials else { panic!("it is signed") };
        assert!(rules.secrets[0].value().is_some());
        std::fs::remove_file(&path).unwrap();
    }

    proptest! {
        #[test]
        fn any_url_is_read_or_refused_without_its_secret(rest in "(secret|token|auth|id|publish|rate|[ -~]{0,3})=[ -~]{0,20}(&[ -~]{0,10}){0,3}") {
            for scheme in ["webhook", "cloudevents", "pubsub"] {
                let url = format!("{scheme}:?secret=SECRET-OF-SIXTEEN&{rest}");
                if let Err(error) = Config::parse(&url) {
                    prop_assert!(!error.to_string().contains("SECRET-OF"));
                }
                prop_assert!(!Config::shown(&url).contains("SECRET-OF"));
            }
        }
    }
}
