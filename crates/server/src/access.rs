//! The decision about one stream when it starts.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::http::request::Parts;
use tallycast_fanout::{Access, Grant, Topics};

use crate::authorizer::{AccessRequest, Action, AuthorizeError, authorize, check, narrow};
use crate::streams::Streams;

/// The access that a host gives to one request.
#[derive(Debug, Default)]
pub(crate) struct HostAccess {
    /// The grant of a middleware.
    pub(crate) grant: Option<Arc<Grant>>,
    /// What the stream may read where neither a grant nor an authorizer limits it.
    pub(crate) readable: Access,
}

/// The access of one stream.
pub(crate) struct StreamAccess {
    /// The topics that it reads.
    pub(crate) topics: Topics,
    pub(crate) grant: Option<Arc<Grant>>,
    /// The limit of later changes of topics.
    #[cfg(feature = "websocket")]
    pub(crate) readable: Access,
}

impl StreamAccess {
    /// Decides what a stream of `topics` may read.
    pub(crate) async fn decide(
        request: &Parts,
        topics: &Topics,
        client: IpAddr,
        host: HostAccess,
        streams: &Streams,
    ) -> Result<Self, AuthorizeError> {
        let (grant, topics) = grant(request, topics, client, &host, streams).await.inspect_err(|error| {
            streams.stats.denied.add(u64::from(matches!(error, AuthorizeError::Denied(_))));
        })?;
        Ok(Self {
            topics,
            #[cfg(feature = "websocket")]
            readable: grant.as_ref().map_or(host.readable, |grant| grant.readable.clone()),
            grant,
        })
    }
}

/// The grant of the authorizer if there is one, or else of the host, and what it allows of `topics`.
async fn grant(
    request: &Parts,
    topics: &Topics,
    client: IpAddr,
    host: &HostAccess,
    streams: &Streams,
) -> Result<(Option<Arc<Grant>>, Topics), AuthorizeError> {
    if let Some(authorizer) = &streams.authorizer {
        let access = AccessRequest::new(request, client, Action::Subscribe);
        let limit = streams.config.borrow().authorize_timeout;
        let (grant, topics) = authorize(&**authorizer, access, topics, limit).await?;
        return Ok((Some(grant), topics));
    }
    match &host.grant {
        Some(grant) => {
            let topics = check(grant, topics)?;
            Ok((Some(Arc::clone(grant)), topics))
        }
        None => Ok((None, narrow(&host.readable, topics)?)),
    }
}
