//! The messages of engines that this one relays: no route decides about them, and what is kept of them is kept beside what routes say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tallycast_fanout::{Closed, Counter, Data, Publisher, Retention};

use super::Routes;
use crate::source::RelayedEvent;

/// What engines keep that this one relays, by the name of the source.
#[derive(Debug, Default)]
pub(super) struct Relayed(BTreeMap<Arc<str>, Origin>);

/// What one of them has said.
#[derive(Debug)]
struct Origin {
    retentions: Vec<Arc<Retention>>,
    path: Vec<Arc<str>>,
}

impl Relayed {
    /// Those of the routes, and all others.
    pub(super) fn retentions(&self, routes: &Routes) -> Vec<Arc<Retention>> {
        let relayed = self.0.values().flat_map(|origin| &origin.retentions).cloned();
        routes.retentions().into_iter().chain(relayed).collect()
    }

    /// Has the hub take an event of another engine. No route decides about it.
    pub(super) async fn pass_on(
        &mut self,
        event: RelayedEvent,
        routes: &Routes,
        hub: &Publisher,
        decoded: &Counter,
    ) -> Result<(), Closed> {
        match event {
            RelayedEvent::Message(message) => {
                if matches!(message.data, Data::Text(_) | Data::Tally(_)) {
                    decoded.add(1);
                }
                hub.send(message).await
            }
            RelayedEvent::Forget { retention, trimmed } => hub.forget(retention, trimmed).await,
            RelayedEvent::Declared { source, retentions, path } => {
                self.0.insert(source, Origin { retentions, path });
                hub.set_retentions(self.retentions(routes)).await?;
                let path: BTreeSet<Arc<str>> = self.0.values().flat_map(|origin| &origin.path).cloned().collect();
                hub.set_path(path.into_iter().collect(), self.0.len()).await
            }
        }
    }
}
