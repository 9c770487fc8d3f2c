//! Which source each sequence of this server comes from. If there were two, the messages of the slower one would be lost as repetitions.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::source::StreamKey;

/// The sequences of all sources. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Claims(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Those of the routes of each source, as they are now.
    routes: Vec<watch::Receiver<Vec<StreamKey>>>,
    /// Those that each relay has got from its origin, by the name of the source. A relay that is not connected keeps its own.
    relays: Mutex<HashMap<Arc<str>, HashSet<Arc<str>>>>,
}

impl Claims {
    /// Beside the streams that `routes` read, which may change.
    pub fn new(routes: Vec<watch::Receiver<Vec<StreamKey>>>) -> Self {
        Self(Arc::new(Inner { routes, relays: Mutex::default() }))
    }

    /// Makes `sequences` those of the relay `source`, in place of what it had before. `topics` are those whose partitions are among them: a
    /// route may read a topic whose partitions are not known yet.
    ///
    /// # Errors
    /// With the name of a sequence that is one of another source; the relay then has what it had before.
    pub(super) fn claim(
        &self,
        source: &Arc<str>,
        sequences: HashSet<Arc<str>>,
        topics: &HashSet<Arc<str>>,
    ) -> Result<(), Arc<str>> {
        let Inner { routes, relays } = &*self.0;
        for streams in routes {
            let is_claimed = |name: &&Arc<str>| sequences.contains(*name) || topics.contains(*name);
            if let Some(name) = streams.borrow().iter().map(|stream| &stream.sequence).find(is_claimed) {
                return Err(Arc::clone(name));
            }
        }
        // A panic cannot leave it half changed.
        let mut relays = relays.lock().unwrap_or_else(PoisonError::into_inner);
        let others = relays.iter().filter(|(relay, _)| *relay != source).map(|(_, of)| of);
        // Names that are no epochs are the later ones, and say more.
        if let Some(name) = others.flat_map(|of| of.intersection(&sequences)).max() {
            return Err(Arc::clone(name));
        }
        relays.insert(Arc::clone(source), sequences);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_has_one_source() {
        let (routes, streams) = watch::channel(Vec::new());
        let claims = Claims::new(vec![streams]);
        let claim = |source: &str, names: &[&str]| {
            let names = names.iter().map(|name| Arc::from(*name)).collect();
            let topics = HashSet::from(["topic".into()]);
            claims.clone().claim(&source.into(), names, &topics).map_err(|name| name.to_string())
        };
        assert_eq!(claim("a", &["orders", "trades"]), Ok(()));
        assert_eq!(claim("b", &["trades"]), Err("trades".to_owned()));
        // Those of a session replace those of the one before.
        assert_eq!((claim("a", &["orders"]), claim("b", &["trades"])), (Ok(()), Ok(())));
        // A route is added.
        for name in ["orders", "topic"] {
            let stream = StreamKey { key: name.into(), sequence: name.into(), retention: None };
            routes.send_replace(vec![stream]);
            assert_eq!(claim("a", &["orders", "topic#0"]), Err(name.to_owned()));
        }
    }
}
