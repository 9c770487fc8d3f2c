//! The pages for browsers, as they are in `web/`, held by the binary.
//!
//! | path | file |
//! |---|---|
//! | `GET /` | `board.html` |
//! | `GET /admin/` | `admin.html` |
//! | `GET /assets/<name>` | the scripts, styles and pictures of both |

use std::collections::HashMap;

use http_body_util::Full;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue, LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};

use crate::representation::{Representation, refuse_other_methods};
use tallycast_server::Page;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// Path, type and text.
const ASSETS: [(&str, &str, &str); 14] = [
    ("/", HTML, include_str!("../web/board.html")),
    (ADMIN, HTML, include_str!("../web/admin.html")),
    ("/assets/admin-connections.js", SCRIPT, include_str!("../web/admin-connections.js")),
    ("/assets/admin.css", STYLE, include_str!("../web/admin.css")),
    ("/assets/admin.js", SCRIPT, include_str!("../web/admin.js")),
    ("/assets/board.css", STYLE, include_str!("../web/board.css")),
    ("/assets/board.js", SCRIPT, include_str!("../web/board.js")),
    ("/assets/chart.js", SCRIPT, include_str!("../web/chart.js")),
    ("/assets/dom.js", SCRIPT, include_str!("../web/dom.js")),
    ("/assets/favicon.svg", PICTURE, include_str!("../web/favicon.svg")),
    ("/assets/panel.js", SCRIPT, include_str!("../web/panel.js")),
    ("/assets/stream.js", SCRIPT, include_str!("../web/stream.js")),
    ("/assets/style.css", STYLE, include_str!("../web/style.css")),
    ("/assets/units.js", SCRIPT, include_str!("../web/units.js")),
];

/// The page for operators.
const ADMIN: &str = "/admin/";

/// Scripts and styles come from here only, and nothing else may be done. Pictures may be written into a style.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Asked for again each time, which costs 304: a new version is seen at once.
const CACHE: &str = "no-cache";

/// Serves the assets.
pub struct Assets {
    by_path: HashMap<&'static str, Representation>,
}

impl Assets {
    /// All assets, or those without the page for operators.
    pub fn new(admin: bool) -> Self {
        let served = ASSETS.iter().filter(|(path, _, _)| admin || *path != ADMIN);
        let by_path = served.map(|(path, content_type, text)| (*path, Representation::new(content_type, *text)));
        Self { by_path: by_path.collect() }
    }

    /// The paths of the pages.
    pub fn paths(&self) -> impl Iterator<Item = &'static str> {
        ["/", ADMIN].into_iter().filter(|path| self.by_path.contains_key(path))
    }

    /// Answers a request for an asset; nothing for another path.
    pub fn respond(&self, request: &Parts) -> Option<Page> {
        let path = request.uri.path();
        if path == "/admin" && self.by_path.contains_key(ADMIN) {
            return Some(to_admin());
        }
        let asset = self.by_path.get(path)?;
        if let Some(refusal) = refuse_other_methods(request) {
            return Some(refusal);
        }
        let mut page = asset.respond(request, CACHE);
        let headers = page.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        Some(page)
    }
}

/// For those who leave out the slash at the end.
fn to_admin() -> Page {
    let mut page = Response::new(Full::default());
    *page.status_mut() = StatusCode::PERMANENT_REDIRECT;
    page.headers_mut().insert(LOCATION, HeaderValue::from_static(ADMIN));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_served_and_every_link_leads_to_one() {
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/web")).unwrap();
        for file in files.map(|file| file.unwrap().file_name().into_string().unwrap()) {
            if [".js", ".css", ".svg"].iter().any(|end| file.ends_with(end)) {
                let path = format!("/assets/{file}");
                assert!(ASSETS.iter().any(|(served, _, _)| *served == path), "{path} is not served");
            }
        }
        for (page, _, text) in ASSETS {
            for link in text.split(['"', '\'']).filter(|link| link.starts_with("/assets/") || link.starts_with("./")) {
                let path = link.replace("./", "/assets/");
                assert!(ASSETS.iter().any(|(served, _, _)| *served == path), "{page} links to {link}");
            }
        }
    }
}
