//! The decision about one stream when it starts.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::http::request::Parts;
use tallycast_fanout::{Access, Grant, Topics};

use crate::authorizer::{AccessRequest, Action, AuthorizeError, Denied, authorize, check};
use crate::streams::Streams;

/// The access that a host gives to one request.
#[derive(Debug, Default)]
pub(crate) struct HostAccess {
    /// The grant of a middleware.
    pub(crate) grant: Option<Arc<Grant>>,
    /// The topics that the stream may read where neither a grant nor an authorizer limits it.
    pub(crate) readable: Access,
}

/// The access of one stream.
pub(crate) struct StreamAccess {
    pub(crate) grant: Option<Arc<Grant>>,
    /// The limit of later changes of topics.
    #[cfg(feature = "websocket")]
    pub(crate) readable: Access,
}

impl StreamAccess {
    /// Decides whether a stream of `topics` may start.
    pub(crate) async fn decide(
        request: &Parts,
        topics: &Topics,
        client: IpAddr,
        host: HostAccess,
        streams: &Streams,
    ) -> Result<Self, AuthorizeError> {
        let grant = grant(request, topics, client, &host, streams).await.inspect_err(|error| {
            streams.stats.denied.add(u64::from(matches!(error, AuthorizeError::Denied(_))));
        })?;
        Ok(Self {
            #[cfg(feature = "websocket")]
            readable: grant.as_ref().map_or(host.readable, |grant| grant.readable.clone()),
            grant,
        })
    }
}

/// The grant of the authorizer if there is one, or else of the host.
async fn grant(
    request: &Parts,
    topics: &Topics,
    client: IpAddr,
    host: &HostAccess,
    streams: &Streams,
) -> Result<Option<Arc<Grant>>, AuthorizeError> {
    if let Some(authorizer) = &streams.authorizer {
        let access = AccessRequest::new(request, client, Action::Subscribe);
        let limit = streams.config.borrow().authorize_timeout;
        return Ok(Some(authorize(&**authorizer, access, topics, limit).await?));
    }
    match &host.grant {
        Some(grant) => {
            check(grant, topics)?;
            Ok(Some(Arc::clone(grant)))
        }
        None if host.readable.covers(topics) => Ok(None),
        None => Err(Denied::not_readable(topics).into()),
    }
}
