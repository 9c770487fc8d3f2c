//! What a client was granted: who it is, what it may read and publish, and until when.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use crate::{MAX_TOPICS, Namespace, Topic, Topics};

/// What an authorizer granted to a client. The engine ends the stream when the grant expires, and sends it private messages by
/// [`private`](Self::private) and [`plain`](Self::plain). It does not check the other topics: the transport does, when it opens a stream, changes its topics or
/// publishes.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Grant {
    /// The client's name, shown to operators.
    pub subject: Option<Arc<str>>,
    /// What it may read. Default: everything.
    pub readable: Access,
    /// What it may publish. Default: everything.
    pub publishable: Access,
    /// Of which topics it receives private messages: of those that it reads, the ones that have a topic in this set. Default: none.
    pub private: Topics,
    /// Of which topics it receives messages that are no [updates](crate::Update): of those that it reads, the ones that have a topic in
    /// this set. Default: all.
    pub plain: Access,
    /// The [sender](crate::Message::sender) whose messages it does not receive: usually the client itself. Its streams then have feeds of
    /// their own. Default: none.
    pub except_sender: Option<Arc<str>>,
    /// Whether it may [relay](crate::Framing::is_relay) what it reads, for which it is told the senders of messages. Default: no.
    pub may_relay: bool,
    /// When its streams end. The engine looks once a second.
    pub expires_at: Option<SystemTime>,
    /// Data about the client for the application.
    pub payload: Option<serde_json::Value>,
}

/// A set of namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Access {
    /// Every namespace.
    #[default]
    All,
    /// The namespaces that one of these topics contains. [`Topics::none`] is no namespace at all.
    Topics(Topics),
}

impl Access {
    /// Whether `namespace` is one of them.
    pub fn contains(&self, namespace: &Namespace) -> bool {
        match self {
            Self::All => true,
            Self::Topics(topics) => topics.iter().any(|topic| topic.contains(namespace)),
        }
    }

    /// Whether each of `topics` is covered by one of the topics of this set.
    pub fn covers(&self, topics: &Topics) -> bool {
        match self {
            Self::All => true,
            Self::Topics(granted) => {
                let granted: Vec<_> = granted.iter().collect();
                topics.iter().all(|topic| granted.iter().any(|granted| granted.covers(&topic)))
            }
        }
    }
}

impl Access {
    /// What a client gets that asks for `topics`: a topic without wildcards, if one of the topics of this set covers it, and of a topic
    /// with wildcards, or a template, all that it has [in common](Topic::intersection) with the topics of this set.
    ///
    /// # Errors
    /// The first topic of which that is nothing, or with which it would be more than [`MAX_TOPICS`] topics.
    pub fn narrow(&self, topics: &Topics) -> Result<Topics, Topic> {
        let Self::Topics(granted) = self else { return Ok(topics.clone()) };
        let granted: Vec<Topic> = granted.iter().collect();
        let mut narrowed = Vec::new();
        for topic in topics.iter() {
            let before = narrowed.len();
            if granted.iter().any(|granted| granted.covers(&topic)) {
                narrowed.push(topic.clone());
            } else if topic.as_namespace().is_none() {
                let common: BTreeSet<Topic> =
                    granted.iter().filter_map(|granted| granted.intersection(&topic)).collect();
                narrowed.extend(common);
            }
            if narrowed.len() == before || narrowed.len() > MAX_TOPICS {
                return Err(topic);
            }
        }
        // Only an empty set is none here.
        Ok(Topics::new(narrowed).unwrap_or_default())
    }
}

impl Grant {
    /// Sets [`subject`](Self::subject).
    #[must_use]
    pub fn with_subject(mut self, subject: impl Into<Arc<str>>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Sets [`may_relay`](Self::may_relay).
    #[must_use]
    pub fn with_relay(mut self, may_relay: bool) -> Self {
        self.may_relay = may_relay;
        self
    }

    /// Sets [`expires_at`](Self::expires_at).
    #[must_use]
    pub fn with_expiry(mut self, expires_at: SystemTime) -> Self {
        self.expires_at = Some(expires_at);
        self
    }

    /// Sets [`readable`](Self::readable).
    #[must_use]
    pub fn with_readable(mut self, readable: Access) -> Self {
        self.readable = readable;
        self
    }

    /// Sets [`publishable`](Self::publishable).
    #[must_use]
    pub fn with_publishable(mut self, publishable: Access) -> Self {
        self.publishable = publishable;
        self
    }

    /// Sets [`private`](Self::private).
    #[must_use]
    pub fn with_private(mut self, private: Topics) -> Self {
        self.private = private;
        self
    }

    /// Sets [`plain`](Self::plain).
    #[must_use]
    pub fn with_plain(mut self, plain: Access) -> Self {
        self.plain = plain;
        self
    }

    /// Sets [`except_sender`](Self::except_sender).
    #[must_use]
    pub fn with_except_sender(mut self, sender: impl Into<Arc<str>>) -> Self {
        self.except_sender = Some(sender.into());
        self
    }

    /// Sets [`payload`](Self::payload).
    #[must_use]
    pub fn with_payload(mut self, payload: serde_json::Value) -> Self {
        self.payload = Some(payload);
        self
    }

    /// The memory that its topics take in the engine if no other reader's grant has them, in bytes, at most, roughly.
    pub fn weight(&self) -> usize {
        let plain = match &self.plain {
            Access::All => None,
            Access::Topics(topics) => Some(topics),
        };
        [Some(&self.private), plain].into_iter().flatten().filter(|topics| !topics.is_empty()).map(Topics::weight).sum()
    }

    /// Whether it has expired. By the wall clock, as the expiry is.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_follows_topics() {
        let namespace = |text: &str| text.parse::<Namespace>().unwrap();
        let access = Access::Topics(Topics::new(vec!["/user/42/**".parse().unwrap()]).unwrap());
        assert!(access.contains(&namespace("/user/42")) && access.contains(&namespace("/user/42/inbox")));
        assert!(!access.contains(&namespace("/user/4")));
        assert!(Access::All.contains(&Namespace::root()));
        assert!(!Access::Topics(Topics::none()).contains(&Namespace::root()));
    }

    #[test]
    fn topics_with_wildcards_are_narrowed_and_others_must_be_covered() {
        let of = |texts: &str| Topics::new(texts.split(',').map(|text| text.parse().unwrap()).collect()).unwrap();
        let access = Access::Topics(of("/user/42,/room/*/public/**"));
        let narrow =
            |texts: &str| access.narrow(&of(texts)).map(|topics| topics.to_string()).map_err(|topic| topic.to_string());
        let (ok, outside) = (|text: &str| Ok(text.to_owned()), |text: &str| Err(text.to_owned()));
        assert_eq!(narrow("/user/42/inbox,/room/1/public"), ok("/room/1/public,/user/42/inbox"));
        assert_eq!(narrow("/user/*"), ok("/user/42"));
        assert_eq!(narrow("/*/*/**"), ok("/room/*/public/**,/user/42"));
        assert_eq!(narrow("/user/42,/user/43"), outside("/user/43"));
        assert_eq!(narrow("/"), outside("/"));
        assert_eq!(narrow("/price/*"), outside("/price/*"));
        assert_eq!(Access::All.narrow(&of("/a/*")), Ok(of("/a/*")));
        assert!(Access::Topics(Topics::none()).narrow(&of("/a/*")).is_err());
        assert_eq!(access.narrow(&Topics::none()), Ok(Topics::none()));

        let template = |text: &str| Topics::new(vec![Topic::template(text).unwrap()]).unwrap();
        let access =
            Access::Topics(Topics::new(vec![Topic::template("x:{id}").unwrap(), "x:a/b".parse().unwrap()]).unwrap());
        assert_eq!(access.narrow(&template("x:{other}")), Ok(template("x:{other}")));
        assert_eq!(access.narrow(&template("x:a{/rest}")), Ok(of("x:a/b")));
        assert!(access.narrow(&template("y:{id}")).is_err() && access.narrow(&of("x:1")).is_ok());
    }

    #[test]
    fn narrowing_has_a_bound() {
        let many =
            |format: fn(usize) -> String| Topics::new((0..100).map(|n| format(n).parse().unwrap()).collect()).unwrap();
        let access = Access::Topics(many(|number| format!("/*/{number}")));
        let wanted = many(|number| format!("/{number}/*"));
        assert!(access.narrow(&wanted).is_err(), "it would be 10,000 topics");
    }

    #[test]
    fn weight_is_that_of_the_topics_that_restrict_messages() {
        let topics: Topics = "/a".parse::<Namespace>().unwrap().into();
        let readable = Grant::default().with_readable(Access::Topics(topics.clone()));
        let plain = |topics| Grant::default().with_plain(Access::Topics(topics));
        assert_eq!((readable.weight(), plain(Topics::none()).weight()), (0, 0));
        let both = plain(topics.clone()).with_private(topics.clone());
        assert_eq!(both.weight(), 2 * topics.weight());
    }

    #[test]
    fn grant_without_expiry_never_expires() {
        let now = SystemTime::now();
        assert!(Grant::default().with_expiry(now).is_expired(now) && !Grant::default().is_expired(now));
        assert!(!Grant::default().with_expiry(now + std::time::Duration::from_secs(1)).is_expired(now));
    }
}
