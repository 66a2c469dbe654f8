//! What is watched, as policy records say: behind one that leaves a namespace out, nothing is known of its documents.

use std::collections::BTreeMap;

use bson::Timestamp;

use super::Namespace;
use super::gaps::PastGaps;
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
    /// When collections, or whole databases, began, ended or came under another name.
    turns: Vec<Turn>,
}

/// That another collection has a name from some time on.
#[derive(Debug, Clone)]
struct Turn {
    time: Timestamp,
    db: String,
    coll: Option<String>,
    what: Turned,
}

impl Turn {
    fn is_of(&self, namespace: &Namespace) -> bool {
        self.db == namespace.db && self.coll.as_ref().is_none_or(|coll| *coll == namespace.coll)
    }
}

/// What a name stands for from a turn on.
#[derive(Debug, Clone)]
pub(super) enum Turned {
    /// Nothing any more.
    Ended,
    /// A collection that is empty, where there was none.
    Began,
    /// The collection that had this name before; `None`: one of which nothing is known.
    Renamed(Option<Namespace>),
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
    pub(super) fn turn(&mut self, time: Timestamp, db: &str, coll: Option<&str>, what: Turned) {
        self.turns.push(Turn { time, db: db.to_owned(), coll: coll.map(str::to_owned), what });
    }

    /// Whether nothing was in a collection, just before a time, of which nothing is recorded behind another time: it began empty since
    /// then and has been watched. `whole`: what to say of one that was there from the beginning.
    pub(super) fn is_complete(
        &self,
        namespace: &Namespace,
        before: Timestamp,
        since: Option<Timestamp>,
        whole: bool,
        gaps: &PastGaps,
    ) -> bool {
        let turn = self.turns.iter().rfind(|turn| turn.time < before && turn.is_of(namespace));
        let began = turn.map(|turn| turn.time);
        let is_watched = self.lists.values().all(|lists| {
            let in_force = lists.iter().rposition(|list| began.is_some_and(|began| list.time <= began));
            lists.iter().skip(in_force.unwrap_or(0)).all(|list| list.covers(namespace))
        });
        let is_known = match turn.map(|turn| &turn.what) {
            None => whole && since.is_none(),
            Some(Turned::Ended | Turned::Began) => began > since,
            Some(Turned::Renamed(None)) => false,
            Some(Turned::Renamed(Some(from))) => {
                began > since && self.is_complete(from, began.unwrap_or(before), since, whole, gaps)
            }
        };
        is_known && is_watched && !gaps.is_untold_since(namespace, began)
    }

    /// As a partition's last policy record says.
    pub(super) fn last(&self, partition: Option<u32>) -> Option<&Watched> {
        self.lists.get(&partition)?.last()
    }

    /// Whether a namespace is watched, as far as policy records say.
    pub(super) fn is_watched(&self, namespace: &Namespace) -> bool {
        self.lists.values().filter_map(|lists| lists.last()).all(|list| list.covers(namespace))
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
        let is_end = |turn: &&Turn| !matches!(turn.what, Turned::Began);
        let turns = self.turns.iter().filter(|turn| turn.time < time && turn.is_of(namespace)).filter(is_end);
        turns.map(|turn| turn.time).chain([watched]).max()
    }
}
