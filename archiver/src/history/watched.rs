//! What is watched, as policy records say: behind one that leaves a namespace out, nothing is known of its documents.

use super::Namespace;
use crate::config::Watch;
use crate::error::Result;
use crate::record::Record;

/// What is watched since a policy record.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    /// The policy record's seq.
    pub(super) seq: i64,
    list: Vec<Watch>,
}

impl Watched {
    /// Reads a policy record; `None` where it does not say.
    pub(super) fn of(record: &Record<'_>) -> Result<Option<Watched>> {
        let list = record.part("detail").and_then(|detail| detail.get("watch")).and_then(|e| e.as_doc());
        let seq = record.seq()?;
        Ok(list.map(|list| Watched {
            seq,
            list: list.elements().map_while(|e| Watch::parse(e.ok()?.as_str()?)).collect(),
        }))
    }

    /// Whether a namespace is watched.
    pub(super) fn covers(&self, namespace: &Namespace) -> bool {
        self.list.iter().any(|watch| watch.covers(&namespace.db, &namespace.coll))
    }

    /// Whether a record of this seq is one from before the namespace was left out. A baseline's records can be of a later time
    /// than that.
    pub(super) fn ends(&self, namespace: &Namespace, seq: i64) -> bool {
        seq < self.seq && !self.covers(namespace)
    }
}
