//! Who a reader is, and until when: what its connection needs of a grant. Its feed has the rest, which many readers share.

use std::sync::Arc;
use std::time::SystemTime;

use crate::Grant;

/// The parts of a [`Grant`] that each connection keeps.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) subject: Option<Arc<str>>,
    expires_at: Option<SystemTime>,
}

impl Identity {
    /// That of a client with `grant`. `None` if it is anonymous for ever.
    pub(crate) fn of(grant: Option<&Grant>) -> Option<Box<Self>> {
        let Grant { subject, expires_at, .. } = grant?;
        let is_known = subject.is_some() || expires_at.is_some();
        is_known.then(|| Box::new(Self { subject: subject.clone(), expires_at: *expires_at }))
    }

    /// As [`Grant::is_expired`].
    pub(crate) fn is_expired(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }
}
