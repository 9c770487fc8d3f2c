//! The service that answers every request that is not for a stream, with its types erased.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use tower_service::Service;

use crate::response::{BoxError, ResponseBody};

/// A fallback whose service, future and body types are erased.
pub(crate) trait Fallback: Send + Sync {
    fn call(&self, request: Request<Incoming>) -> Pin<Box<dyn Future<Output = Response<ResponseBody>> + Send>>;
}

/// A tower service as a [`Fallback`]. Each request is served by a clone.
pub(crate) struct TowerFallback<S>(pub(crate) S);

impl<S, B> Fallback for TowerFallback<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn call(&self, request: Request<Incoming>) -> Pin<Box<dyn Future<Output = Response<ResponseBody>> + Send>> {
        let mut service = self.0.clone();
        Box::pin(async move {
            let Ok(()) = poll_fn(|context| service.poll_ready(context)).await;
            let Ok(response) = service.call(request).await;
            response.map(|body| body.map_err(Into::into).boxed_unsync())
        })
    }
}
