//! The pages for browsers, as they are in `web/`, and the client library, compiled into the binary.
//!
//! | path | file |
//! |---|---|
//! | `GET /` | `board.html` |
//! | `GET /admin/` | `admin.html` |
//! | `GET /admin` | a redirect to `/admin/` |
//! | `GET /web/chat`, `GET /web/notifications` | `chat.html` and `notifications.html` |
//! | `GET /assets/operations.md` | `docs/operations.md`, with the runbook of the admin page |
//! | `GET /assets/tallycast.js` | the client library, `clients/js/tallycast.js` |
//! | `GET /demo/`, `GET /demo/<name>` | `demo.html` and `demo-<name>.html`, in `tallycast demo` |
//! | `GET /assets/<name>` | the scripts, styles and pictures of all |

use axum::Router;
use axum::http::HeaderName;
use axum::http::header::{CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::response::Redirect;
use axum::routing::get;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::conditional::TaggedBody;
use crate::site::Site;

/// The path of the board.
pub(crate) const BOARD: &str = "/";
/// The path of the admin page.
pub(crate) const ADMIN: &str = "/admin/";
/// The path of the demo pages.
pub(crate) const DEMO: &str = "/demo/";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// Path, content type and text.
type Asset = (&'static str, &'static str, &'static str);

const BOARD_PAGE: Asset = (BOARD, HTML, include_str!("../web/board.html"));
const ADMIN_PAGE: Asset = (ADMIN, HTML, include_str!("../web/admin.html"));

/// The paths of the pages of channels.
pub(crate) const REALTIME: [&str; 2] = ["/web/chat", "/web/notifications"];

const REALTIME_PAGES: [Asset; 2] = [
    (REALTIME[0], HTML, include_str!("../web/chat.html")),
    (REALTIME[1], HTML, include_str!("../web/notifications.html")),
];

/// The pages of the demo.
const DEMO_PAGES: [Asset; 5] = [
    (DEMO, HTML, include_str!("../web/demo.html")),
    ("/demo/chat", HTML, include_str!("../web/demo-chat.html")),
    ("/demo/counter", HTML, include_str!("../web/demo-counter.html")),
    ("/demo/notifications", HTML, include_str!("../web/demo-notifications.html")),
    ("/demo/prices", HTML, include_str!("../web/demo-prices.html")),
];

/// What they alone need.
const DEMO_ASSETS: [Asset; 7] = [
    ("/assets/demo-chat.js", SCRIPT, include_str!("../web/demo-chat.js")),
    ("/assets/demo-counter.js", SCRIPT, include_str!("../web/demo-counter.js")),
    ("/assets/demo-notifications.js", SCRIPT, include_str!("../web/demo-notifications.js")),
    ("/assets/demo-overview.js", SCRIPT, include_str!("../web/demo-overview.js")),
    ("/assets/demo-page.js", SCRIPT, include_str!("../web/demo-page.js")),
    ("/assets/demo-prices.js", SCRIPT, include_str!("../web/demo-prices.js")),
    ("/assets/demo.css", STYLE, include_str!("../web/demo.css")),
];

/// All assets but the pages that can be switched off.
const ASSETS: [Asset; 47] = [
    ("/assets/admin-alarms.js", SCRIPT, include_str!("../web/admin-alarms.js")),
    ("/assets/admin-api.js", SCRIPT, include_str!("../web/admin-api.js")),
    ("/assets/admin-chart.js", SCRIPT, include_str!("../web/admin-chart.js")),
    ("/assets/admin-charts.js", SCRIPT, include_str!("../web/admin-charts.js")),
    ("/assets/admin-cluster.js", SCRIPT, include_str!("../web/admin-cluster.js")),
    ("/assets/admin-config.js", SCRIPT, include_str!("../web/admin-config.js")),
    ("/assets/admin-connections.js", SCRIPT, include_str!("../web/admin-connections.js")),
    ("/assets/admin-explore.js", SCRIPT, include_str!("../web/admin-explore.js")),
    ("/assets/admin-figures.js", SCRIPT, include_str!("../web/admin-figures.js")),
    ("/assets/admin-history.js", SCRIPT, include_str!("../web/admin-history.js")),
    ("/assets/admin-log.js", SCRIPT, include_str!("../web/admin-log.js")),
    ("/assets/admin-publish.js", SCRIPT, include_str!("../web/admin-publish.js")),
    ("/assets/admin-runbook.js", SCRIPT, include_str!("../web/admin-runbook.js")),
    ("/assets/admin-sessions.js", SCRIPT, include_str!("../web/admin-sessions.js")),
    ("/assets/admin-sources.js", SCRIPT, include_str!("../web/admin-sources.js")),
    ("/assets/admin-table.js", SCRIPT, include_str!("../web/admin-table.js")),
    ("/assets/admin-tail.js", SCRIPT, include_str!("../web/admin-tail.js")),
    ("/assets/admin-time.js", SCRIPT, include_str!("../web/admin-time.js")),
    ("/assets/admin-views.js", SCRIPT, include_str!("../web/admin-views.js")),
    ("/assets/admin.css", STYLE, include_str!("../web/admin.css")),
    ("/assets/admin.js", SCRIPT, include_str!("../web/admin.js")),
    ("/assets/board-cells.js", SCRIPT, include_str!("../web/board-cells.js")),
    ("/assets/board-empty.js", SCRIPT, include_str!("../web/board-empty.js")),
    ("/assets/board-glyphs.js", SCRIPT, include_str!("../web/board-glyphs.js")),
    ("/assets/board-search.js", SCRIPT, include_str!("../web/board-search.js")),
    ("/assets/board-source.js", SCRIPT, include_str!("../web/board-source.js")),
    ("/assets/board-symbols.js", SCRIPT, include_str!("../web/board-symbols.js")),
    ("/assets/board-totals.js", SCRIPT, include_str!("../web/board-totals.js")),
    ("/assets/board.css", STYLE, include_str!("../web/board.css")),
    ("/assets/board.js", SCRIPT, include_str!("../web/board.js")),
    ("/assets/channel.css", STYLE, include_str!("../web/channel.css")),
    ("/assets/channel.js", SCRIPT, include_str!("../web/channel.js")),
    ("/assets/chart.js", SCRIPT, include_str!("../web/chart.js")),
    ("/assets/chat.js", SCRIPT, include_str!("../web/chat.js")),
    ("/assets/dom.js", SCRIPT, include_str!("../web/dom.js")),
    ("/assets/favicon.svg", PICTURE, include_str!("../web/favicon.svg")),
    ("/assets/keywords.txt", TEXT, include_str!("../web/vendor/keywords.txt")),
    ("/assets/message-list.js", SCRIPT, include_str!("../web/message-list.js")),
    ("/assets/messages.css", STYLE, include_str!("../web/messages.css")),
    ("/assets/notifications.js", SCRIPT, include_str!("../web/notifications.js")),
    ("/assets/operations.md", TEXT, include_str!("../docs/operations.md")),
    ("/assets/panel.js", SCRIPT, include_str!("../web/panel.js")),
    ("/assets/style.css", STYLE, include_str!("../web/style.css")),
    ("/assets/tallycast.js", SCRIPT, include_str!("../clients/js/tallycast.js")),
    ("/assets/units.js", SCRIPT, include_str!("../web/units.js")),
    ("/assets/vendor/uplot.css", STYLE, include_str!("../web/vendor/uplot.css")),
    ("/assets/vendor/uplot.js", SCRIPT, include_str!("../web/vendor/uplot.js")),
];

/// Scripts and styles come from this server only; styles may contain pictures. Everything else is forbidden.
const SECURITY_HEADERS: [(HeaderName, &str); 3] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
];

/// The routes of the board, which says what `site` has, and of all scripts, styles and pictures.
pub(crate) fn router(site: &Site) -> Router {
    serve(&ASSETS).merge(describe(&[BOARD_PAGE], site))
}

/// The routes of the admin page, which says what `site` has, without its scripts and styles, which hold nothing secret.
pub(crate) fn admin_router(site: &Site) -> Router {
    describe(&[ADMIN_PAGE], site).route(ADMIN.trim_end_matches('/'), get(async || Redirect::permanent(ADMIN)))
}

/// The routes of the pages of channels.
pub(crate) fn realtime_router() -> Router {
    serve(&REALTIME_PAGES)
}

/// The routes of the demo, whose pages say what `site` has.
pub(crate) fn demo_router(site: &Site) -> Router {
    serve(&DEMO_ASSETS)
        .merge(describe(&DEMO_PAGES, site))
        .route(DEMO.trim_end_matches('/'), get(async || Redirect::permanent(DEMO)))
}

fn serve(assets: &[Asset]) -> Router {
    let mut router = Router::new();
    for (path, content_type, text) in assets {
        let body = TaggedBody::new(content_type, *text);
        router = router.route(path, get(async || body));
    }
    secure(router)
}

/// The routes of pages that say what `site` has.
fn describe(pages: &[Asset], site: &Site) -> Router {
    let mut router = Router::new();
    for &(path, content_type, text) in pages {
        let site = site.clone();
        router = router.route(path, get(async move || TaggedBody::new(content_type, site.describe(text))));
    }
    secure(router)
}

fn secure(mut router: Router) -> Router {
    for (name, value) in SECURITY_HEADERS {
        router = router.layer(SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value)));
    }
    router
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_served_and_every_link_leads_to_one() {
        let is_served = |path: &str| ASSETS.iter().chain(&DEMO_ASSETS).any(|(served, _, _)| *served == path);
        for directory in ["", "vendor/"] {
            let files = std::fs::read_dir(format!("{}/web/{directory}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            for file in files.map(|file| file.unwrap().file_name().into_string().unwrap()) {
                // Declarations of types and licences are not for browsers.
                if [".js", ".css", ".svg"].iter().any(|end| file.ends_with(end)) {
                    assert!(is_served(&format!("/assets/{directory}{file}")), "{directory}{file} is not served");
                }
            }
        }
        let pages = [BOARD_PAGE, ADMIN_PAGE].into_iter().chain(REALTIME_PAGES);
        for (page, _, text) in ASSETS.into_iter().chain(pages).chain(DEMO_PAGES).chain(DEMO_ASSETS) {
            let of_demo = DEMO_PAGES.iter().chain(&DEMO_ASSETS).any(|(path, _, _)| *path == page);
            for link in text.split(['"', '\'']).filter(|link| link.starts_with("/assets/") || link.starts_with("./")) {
                let path = link.replace("./", "/assets/");
                assert!(is_served(&path), "{page} links to {link}");
                // The demo may be absent.
                assert!(of_demo || ASSETS.iter().any(|(served, _, _)| *served == path), "{page} links to {link}");
            }
        }
    }

    /// What a page of the demo shows of a file is the text between two comments, or all of a configuration.
    #[test]
    fn demo_pages_show_what_they_run() {
        const START: &str = "// Shown on the page, to the next line of this kind.\n";
        const END: &str = "// The end of what is shown.\n";
        let mut shown = Vec::new();
        for (page, _, html) in DEMO_PAGES {
            for block in html.split("<code data-shows=\"").skip(1) {
                let (file, rest) = block.split_once("\">").unwrap();
                let code = rest.split_once("</code>").unwrap().0;
                let code = code.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
                let path = format!("{}/web/{file}", env!("CARGO_MANIFEST_DIR"));
                let text = std::fs::read_to_string(path).unwrap();
                let expected = match file.ends_with(".toml") {
                    true => &*text,
                    false => text.split_once(START).unwrap().1.split_once(END).unwrap().0,
                };
                assert_eq!(code, expected.trim_end(), "{page} shows something else of {file}");
                if file.ends_with(".js") {
                    assert!(html.contains(&format!("src=\"/assets/{file}\"")), "{page} does not run {file}");
                }
                shown.push(file);
            }
        }
        let names = ["chat", "counter", "notifications", "prices"];
        let both = names.iter().flat_map(|name| [format!("demo-{name}.toml"), format!("demo-{name}.js")]);
        assert!(both.chain(["demo-overview.js".to_owned()]).all(|file| shown.contains(&&*file)), "{shown:?}");
    }
}
