//! What is watched, as policy records say: behind one that leaves a namespace out, nothing is known of its documents.

use std::collections::BTreeMap;

use bson::Timestamp;

use super::Namespace;
use crate::config::Watch;
use crate::error::Result;
use crate::record::{Record, RecordId};

/// What is watched since a policy record.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    /// The policy record's seq.
    pub(super) seq: i64,
    /// From when on.
    time: Timestamp,
    list: Vec<Watch>,
}

impl Watched {
    /// Reads a policy record; `None` where it does not say.
    pub(super) fn of(record: &Record<'_>) -> Result<Option<Watched>> {
        let list = record.part("detail").and_then(|detail| detail.get("watch")).and_then(|e| e.as_doc());
        let (seq, time) = (record.seq()?, record.cluster_time()?);
        Ok(list.map(|list| Watched {
            seq,
            time,
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

/// What was watched when, as the policy records of each partition say.
#[derive(Debug, Clone, Default)]
pub(super) struct WatchLists {
    /// When each partition began.
    began: BTreeMap<Option<u32>, Timestamp>,
    lists: BTreeMap<Option<u32>, Vec<Watched>>,
    /// When collections, or whole databases, ended or came under another name.
    turns: Vec<(Timestamp, String, Option<String>)>,
}

impl WatchLists {
    /// Takes a policy record in.
    pub(super) fn note(&mut self, record: &Record<'_>) -> Result<()> {
        let partition = record.record_id()?.partition;
        self.began.entry(partition).or_insert(record.cluster_time()?);
        if let Some(watched) = Watched::of(record)? {
            self.lists.entry(partition).or_default().push(watched);
        }
        Ok(())
    }

    /// Notes that another collection can have this name from now on: what was not recorded of the one before may have been there.
    pub(super) fn turn(&mut self, time: Timestamp, db: &str, coll: Option<&str>) {
        self.turns.push((time, db.to_owned(), coll.map(str::to_owned)));
    }

    /// As a partition's last policy record says.
    pub(super) fn last(&self, partition: Option<u32>) -> Option<&Watched> {
        self.lists.get(&partition)?.last()
    }

    /// Since when one collection was watched under this name without a break, when a record came.
    pub(super) fn since(
        &self,
        namespace: &Namespace,
        record: RecordId,
        time: Timestamp,
    ) -> Option<Timestamp> {
        let began = *self.began.get(&record.partition)?;
        let lists = self.lists.get(&record.partition).map_or(&[][..], Vec::as_slice);
        let before: Vec<&Watched> = lists.iter().filter(|list| list.seq < record.seq).collect();
        let watched = match before.iter().rposition(|list| !list.covers(namespace)) {
            Some(left_out) => before.get(left_out + 1)?.time,
            None => began,
        };
        let is_its = |db: &str, coll: Option<&str>| {
            db == namespace.db && coll.is_none_or(|coll| coll == namespace.coll)
        };
        let turns = self.turns.iter().filter(|(at, db, coll)| *at < time && is_its(db, coll.as_deref()));
        turns.map(|turn| turn.0).chain([watched]).max()
    }
}
