//! Everything that is served beside the streams, put together.

use hyper::http::request::Parts;

use crate::admin::AdminPages;
use crate::assets::Assets;
use crate::snapshot::{self, SnapshotPages};
use tallycast_server::{Pages, Reply};

/// All pages of the binary.
pub struct Site {
    /// The board, and the page for operators.
    pub assets: Assets,
    /// Rankings and details.
    pub snapshot: SnapshotPages,
    /// What operators ask for.
    pub admin: AdminPages,
}

impl Pages for Site {
    fn paths(&self) -> Vec<&'static str> {
        let mut paths: Vec<_> = self.assets.paths().collect();
        paths.extend(snapshot::PATHS);
        paths.extend(self.admin.paths());
        paths
    }

    async fn respond(&self, request: &Parts) -> Option<Reply> {
        let path = request.uri.path();
        if AdminPages::is_protected(path)
            && let Some(refusal) = self.admin.refuse(request)
        {
            return Some(refusal.into());
        }
        if let Some(page) = self.assets.respond(request) {
            return Some(page.into());
        }
        if let Some(page) = self.snapshot.respond(request).await {
            return Some(page.into());
        }
        self.admin.respond(request).await
    }
}
