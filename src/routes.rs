//! All routes that are not streams, as one router: board and assets, REST API, probes, admin routes. Above them, the
//! layers for everything that HTTP asks of each response: conditional requests, compression, limits, and CORS where pages
//! of other origins may read.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL, HeaderValue, IF_NONE_MATCH,
};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::cors::{Any, CorsLayer};
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;

use crate::admin::{self, Admin, StatusSource, Token};
use crate::api::contracts::Contracts;
use crate::api::emojitracker::{self, Store};
use crate::api::mercure::{self, Hub};
use crate::api::native::{self, Publishing, SubscriptionsGuard};
use crate::api::push::{self, Endpoint};
use crate::presence::Presence;
use crate::responses::{line, method_not_allowed};
use crate::site::Site;
use crate::{assets, conditional};
use tallycast_server::{AllowedOrigin, PREFIX, WEBSOCKET_PREFIX};
use tokio::sync::watch;

/// Bytes of a request body; a larger one is answered with 413.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// Time for a response to start, the arrival of the request body included; a slower one is answered with 408.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Shorter bodies are not compressed: the additional headers would use up the gain.
const MIN_COMPRESSED_BYTES: u16 = 512;
/// How long browsers remember the answer to a CORS preflight request.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The route for subscriptions, for the admin token, and for tokens that may read there.
#[derive(Debug)]
pub struct Subscriptions {
    /// The subscriptions.
    pub presence: Presence,
    /// The admin token.
    pub token: watch::Receiver<Option<Token>>,
}

/// What the routes need.
#[derive(Debug)]
pub struct Services {
    /// What the REST API reads from.
    pub store: Store,
    /// What publishes.
    pub publishing: Publishing,
    /// The endpoints of push sources.
    pub push: Vec<Endpoint>,
    /// The hub of the Mercure protocol, if it is served.
    pub mercure: Option<Arc<Hub>>,
    /// The contracts that are switched on.
    pub contracts: Contracts,
    /// Who subscribes, if that is served.
    pub subscriptions: Option<Subscriptions>,
    /// What probes and admin routes show.
    pub status: StatusSource,
    /// The admin routes, if there are any.
    pub admin: Option<Admin>,
    /// Whether the pages of the demo are served.
    pub demo: bool,
    /// The configuration of the server.
    pub server: watch::Receiver<tallycast_server::Config>,
}

/// The routes.
pub fn router(services: Services) -> Router {
    let not_found = not_found(services.paths());
    let Services { store, publishing, push, mercure, contracts, subscriptions, status, admin, demo, server } = services;
    let publishing = Arc::new(publishing);
    let site = Site::new(&store, admin.as_ref().map(|admin| admin.token.clone()), Arc::clone(&publishing));
    let public = Router::new()
        .merge(assets::router(&site))
        .merge(contracts.pages())
        .merge(if demo { assets::demo_router(&site) } else { Router::new() })
        .merge(emojitracker::router(store))
        .merge(admin::probes(status.clone()))
        .merge(contracts.public_router())
        .fallback(not_found.clone())
        .method_not_allowed_fallback(method_not_allowed);
    let mut router = with_layers(public).layer(cors());
    let auth = publishing.auth.clone();
    let (for_programs, for_operators) = (contracts.router(&publishing, admin.is_some()), contracts.admin_router());
    router =
        router.merge(publishing_routes(for_programs.merge(native::router(Arc::clone(&publishing))), server.clone()));
    if !push.is_empty() {
        router = router.merge(uncached(push::router(push)));
    }
    if let Some(hub) = mercure {
        router = router.merge(publishing_routes(mercure::router(hub), server));
    }
    if let Some(Subscriptions { presence, token }) = subscriptions {
        let guard = from_fn_with_state(SubscriptionsGuard { token, auth: auth.clone() }, native::guard_subscriptions);
        // Without CORS, as the admin routes: they say who the clients are.
        router = router.merge(with_layers(native::subscriptions_router(presence).route_layer(guard)));
    }
    if let Some(admin) = admin {
        let token = admin.token.clone();
        let admin_routes = Router::new()
            .merge(admin::router(status, admin, publishing))
            .merge(assets::admin_router(&site))
            .merge(for_operators)
            // Unknown paths too are behind the token.
            .route("/admin/{*path}", any(not_found))
            .method_not_allowed_fallback(method_not_allowed);
        let admin_routes = admin_routes.route_layer(from_fn_with_state(token, admin::require_token));
        // Without CORS: they hold the addresses of clients, and a page of another site that an operator visits could read
        // them behind a firewall.
        router = router.merge(with_layers(admin_routes));
    }
    router
}

/// The routes by which programs and pages with tokens publish: the size of their bodies has a limit of its own.
fn publishing_routes(router: Router, server: watch::Receiver<tallycast_server::Config>) -> Router {
    uncached(router.layer(from_fn_with_state(server, listed_origins)))
}

/// The layers of routes for programs, whose responses no cache may keep.
fn uncached(router: Router) -> Router {
    router
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, REQUEST_TIMEOUT))
        .layer(map_response(explain_timeout))
        .layer(SetResponseHeaderLayer::if_not_present(CACHE_CONTROL, HeaderValue::from_static("no-store")))
}

/// Lets pages of every origin read. The server narrows `*` to the origins of `--allowed-origin`.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::HEAD])
        .allow_headers([ACCEPT, CACHE_CONTROL, IF_NONE_MATCH])
        .max_age(PREFLIGHT_MAX_AGE)
        .vary([])
}

/// CORS for pages of listed origins, which publish with the tokens of their users. Where every origin is allowed there is none: then
/// no page is trusted with credentials.
async fn listed_origins(
    State(server): State<watch::Receiver<tallycast_server::Config>>,
    request: Request,
    next: Next,
) -> Response {
    if server.borrow().allowed_origins.contains(&AllowedOrigin::ANY) {
        return next.run(request).await;
    }
    let is_preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if is_preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    if is_preflight {
        let allowed = HeaderValue::from_static("authorization, content-type, idempotency-key");
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        headers.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE.as_secs().into());
    }
    // The server narrows it to the listed origins, and allows credentials.
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// The layers of every route, innermost first.
fn with_layers(router: Router) -> Router {
    let compressed = SizeAbove::new(MIN_COMPRESSED_BYTES).and(NotForContentType::SSE);
    router
        .layer(CompressionLayer::new().compress_when(compressed))
        .layer(from_fn(conditional::not_modified))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, REQUEST_TIMEOUT))
        .layer(RequestBodyLimitLayer::new(MAX_BODY_BYTES))
        .layer(map_response(explain))
        .layer(SetResponseHeaderLayer::if_not_present(CACHE_CONTROL, HeaderValue::from_static("no-cache")))
}

/// Replaces the bodies of errors that come from layers by a line that names the limit.
async fn explain(response: Response) -> Response {
    match response.status() {
        status @ StatusCode::PAYLOAD_TOO_LARGE => {
            line(status, format!("the request body is too large; the limit is {MAX_BODY_BYTES} bytes"))
        }
        _ => explain_timeout(response).await,
    }
}

/// Replaces the body of a response that took too long by a line that names the limit.
async fn explain_timeout(response: Response) -> Response {
    match response.status() {
        status @ StatusCode::REQUEST_TIMEOUT => {
            line(status, format!("the request was not complete within {} s", REQUEST_TIMEOUT.as_secs()))
        }
        _ => response,
    }
}

impl Services {
    /// All documented paths.
    fn paths(&self) -> Vec<String> {
        let mut paths = vec![format!("{PREFIX}/<namespace>"), format!("{WEBSOCKET_PREFIX}/<namespace>")];
        let pages = if self.admin.is_some() { &[assets::BOARD, assets::ADMIN][..] } else { &[assets::BOARD] };
        let admin = if self.admin.is_some() { &admin::PATHS[..] } else { &[] };
        let tickets = if self.publishing.auth.is_some() { &[native::tickets::PATH][..] } else { &[] };
        let subscriptions = if self.subscriptions.is_some() { &[native::SUBSCRIPTIONS_PATH][..] } else { &[] };
        let mercure = if self.mercure.is_some() { &[mercure::PATH][..] } else { &[] };
        let push = if self.push.is_empty() { &[] } else { &[push::PATH][..] };
        let demo = if self.demo { &[assets::DEMO][..] } else { &[] };
        let all: [&[&str]; 10] = [
            pages,
            demo,
            &emojitracker::PATHS,
            &native::PATHS,
            push,
            tickets,
            subscriptions,
            mercure,
            &admin::PROBES,
            admin,
        ];
        paths.extend(all.concat().into_iter().map(str::to_owned));
        paths.extend(self.contracts.paths());
        paths.extend(self.admin.iter().flat_map(|_| self.contracts.admin_paths()));
        paths
    }
}

/// The handler for unknown paths. The answer lists `paths`.
fn not_found(paths: Vec<String>) -> impl Fn(Uri) -> Ready<Response> + Clone + Send + Sync + 'static {
    let paths: Arc<str> = paths.join(", ").into();
    move |uri| ready(line(StatusCode::NOT_FOUND, format!("no such path: {}; there are {paths}", uri.path())))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, ORIGIN, VARY};
    use axum::routing::{get, post};
    use bytes::Bytes;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;
    use crate::conditional::TaggedBody;

    async fn send(router: Router, request: Request) -> Response {
        with_layers(router).oneshot(request).await.unwrap()
    }

    async fn body(response: Response) -> Bytes {
        response.into_body().collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn request_body_over_the_limit_is_refused() {
        let echo = || Router::new().route("/", post(async |body: Bytes| body));
        let fits = Bytes::from(vec![b'x'; MAX_BODY_BYTES]);
        let response = send(echo(), Request::post("/").body(Body::from(fits.clone())).unwrap()).await;
        assert_eq!((response.status(), body(response).await), (StatusCode::OK, fits));
        for announced in [true, false] {
            let mut request = Request::post("/").body(Body::from(vec![b'x'; MAX_BODY_BYTES + 1])).unwrap();
            if announced {
                request.headers_mut().insert(CONTENT_LENGTH, (MAX_BODY_BYTES + 1).into());
            }
            let response = send(echo(), request).await;
            assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
            assert_eq!(body(response).await, "the request body is too large; the limit is 65536 bytes\n");
        }
    }

    #[tokio::test]
    async fn preflight_request_is_answered_with_the_methods() {
        let router = Router::new().route("/", get(async || "a"));
        let request = Request::options("/").header(ORIGIN, "https://example.org").body(Body::empty()).unwrap();
        let response = with_layers(router).layer(cors()).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_METHODS], "GET,HEAD");
    }

    #[tokio::test]
    async fn compressed_and_unmodified_responses_vary_by_accept_encoding() {
        let text = TaggedBody::new("text/plain", "text ".repeat(200));
        let router = Router::new().route("/", get(async || text));
        let request = || Request::get("/").header(ACCEPT_ENCODING, "gzip, zstd");
        let compressed = send(router.clone(), request().body(Body::empty()).unwrap()).await;
        assert_eq!(compressed.headers()[CONTENT_ENCODING], "zstd");
        assert_eq!(compressed.headers()[VARY], "accept-encoding");
        let condition = request().header(IF_NONE_MATCH, &compressed.headers()[ETAG]);
        let unmodified = send(router, condition.body(Body::empty()).unwrap()).await;
        assert_eq!(unmodified.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(unmodified.headers()[VARY], "accept-encoding");
        assert_eq!(unmodified.headers()[ETAG], compressed.headers()[ETAG]);
        for absent in [CONTENT_ENCODING, CONTENT_TYPE] {
            assert!(!unmodified.headers().contains_key(&absent), "{absent}");
        }
        assert!(body(unmodified).await.is_empty());
    }

    #[tokio::test]
    async fn event_streams_are_not_compressed() {
        let event = format!("data: {}\n\n", "x".repeat(1000));
        let router = Router::new().route("/", get(async || ([(CONTENT_TYPE, "text/event-stream")], event)));
        let request = Request::get("/").header(ACCEPT_ENCODING, "gzip").body(Body::empty()).unwrap();
        assert!(!send(router, request).await.headers().contains_key(CONTENT_ENCODING));
    }
}
