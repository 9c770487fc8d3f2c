//! Response bodies, and the plain-text responses that the server itself sends.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use tallycast_fanout::{BodyReceiver, CutOff, CutOffSignal};

use crate::limits::Permits;

/// Any error that a fallback's body ends with.
pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// The body of any response: of the server itself, or of the fallback.
pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// A response whose body is known, such as [`text_response`] makes.
pub type WholeResponse = Response<Full<Bytes>>;

/// The body of a stream, or of the response that refuses one. It fails when the engine cuts a stream off because its
/// reader does not read.
#[derive(Debug)]
pub struct StreamBody(Content);

#[derive(Debug)]
enum Content {
    Whole(Full<Bytes>),
    /// With the permits of the stream, which are released as soon as the client has reset it.
    Stream(BodyReceiver, #[expect(dead_code, reason = "released when dropped")] Permits),
}

impl StreamBody {
    pub(crate) fn whole(body: Full<Bytes>) -> Self {
        Self(Content::Whole(body))
    }

    /// What the engine sends to the other end. `permits` are released with the body.
    pub(crate) fn stream(stream: BodyReceiver, permits: Permits) -> Self {
        Self(Content::Stream(stream, permits))
    }

    /// The signal that the engine has cut the stream off, if this is one.
    pub(crate) fn cut_off_signal(&self) -> Option<CutOffSignal> {
        match &self.0 {
            Content::Whole(_) => None,
            Content::Stream(stream, _) => Some(stream.cut_off_signal()),
        }
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match &mut self.get_mut().0 {
            Content::Whole(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Content::Stream(stream, _) => stream.poll_recv(context).map_ok(Frame::data),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Whole(body) => body.is_end_stream(),
            Content::Stream(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Whole(body) => body.size_hint(),
            Content::Stream(..) => SizeHint::default(),
        }
    }
}

/// A response of plain text that pages of every origin may read and no cache stores.
pub fn text_response(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// A response of the server itself, as any other.
pub(crate) fn boxed<B>(response: Response<B>) -> Response<ResponseBody>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    response.map(|body| body.map_err(Into::into).boxed_unsync())
}
