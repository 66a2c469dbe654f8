//! Which documents ended without an event of their own: with their collection or its database, or because another collection
//! took its name. Knows where documents were, not what they were.

use std::collections::{HashMap, HashSet};

use bson::Timestamp;

use super::Namespace;
use super::detail::{is_from_watched, quarantined, target};
use super::id::Id;
use super::states::Identity;
use crate::error::Result;
use crate::record::{Record, RecordId};

/// When a record happened: its cluster time, and its place among those of the same time.
pub(super) type Moment = (u32, u32, RecordId);

/// What became of the documents of some namespaces.
#[derive(Debug, Default)]
pub(super) struct Vanished {
    /// Those that are there, by namespace.
    alive: HashMap<Namespace, HashSet<Id>>,
    /// Those that ended without an event of their own and did not come back, and with which record.
    ended: HashMap<Identity, Moment>,
}

impl Vanished {
    /// Which documents ended so since a time, by their records and those about whole namespaces, in order.
    pub(super) fn among(records: &[Vec<u8>], since: Timestamp, concerned: &Concerned) -> Result<Vanished> {
        let mut vanished = Vanished::default();
        for bytes in records {
            vanished.advance(&Record::new(bytes)?, since, concerned)?;
        }
        Ok(vanished)
    }

    /// Those that ended, and with which record.
    pub(super) fn ended(self) -> impl Iterator<Item = (Identity, Moment)> {
        self.ended.into_iter()
    }

    /// Whether the document is among them.
    pub(super) fn has_ended(&self, identity: &Identity) -> bool {
        self.ended.contains_key(identity)
    }

    /// Whether the document is there again.
    pub(super) fn is_alive(&self, identity: &Identity) -> bool {
        self.alive.get(&identity.namespace).is_some_and(|ids| ids.contains(&identity.id))
    }

    fn advance(&mut self, record: &Record<'_>, since: Timestamp, concerned: &Concerned) -> Result<()> {
        let at = || -> Result<Option<Moment>> {
            let time = record.cluster_time()?;
            Ok((time >= since).then_some((time.time, time.increment, record.record_id()?)))
        };
        match record.op() {
            "drop" | "dropDatabase" => {
                let of_database = |n: &&Namespace| Some(n.db.as_str()) == record.db();
                let of_collection = |n: &&Namespace| record.coll().is_none_or(|coll| coll == n.coll);
                let gone: Vec<Namespace> =
                    self.alive.keys().filter(of_database).filter(of_collection).cloned().collect();
                for namespace in gone {
                    self.end(&namespace, at()?);
                }
            }
            "rename" => {
                let (Some(from), Some(to)) = (Namespace::of(record), target(record)) else { return Ok(()) };
                // Of a collection that was not watched, a comparison tells what became of the documents.
                if is_from_watched(record) {
                    self.end(&to, at()?);
                    let moved = self.alive.remove(&from).into_iter().flatten();
                    // What ends elsewhere has an event of its own.
                    for id in moved.filter(|_| concerned.hold(&to)) {
                        self.begin(Identity { namespace: to.clone(), id });
                    }
                }
            }
            op => {
                let Some(identity) = Identity::of(record) else { return Ok(()) };
                if !concerned.hold(&identity.namespace) {
                    return Ok(());
                }
                match op {
                    "delete" => {
                        self.alive.get_mut(&identity.namespace).map(|ids| ids.remove(&identity.id));
                    }
                    "insert" | "snapshot" | "update" | "replace" => self.begin(identity),
                    // A change without contents.
                    "gap" if quarantined(record, "op") != Some("delete") => self.begin(identity),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, identity: Identity) {
        self.ended.remove(&identity);
        self.alive.entry(identity.namespace).or_default().insert(identity.id);
    }

    /// Ends a namespace's documents; `at`: with which record, if that counts.
    fn end(&mut self, namespace: &Namespace, at: Option<Moment>) {
        let gone = self.alive.remove(namespace).unwrap_or_default();
        if let Some(at) = at {
            let identity = |id| Identity { namespace: namespace.clone(), id };
            self.ended.extend(gone.into_iter().map(|id| (identity(id), at)));
        }
    }
}

/// The namespaces whose documents can have ended without an event of their own.
#[derive(Debug, Default)]
pub(super) struct Concerned {
    namespaces: HashSet<Namespace>,
    databases: HashSet<String>,
}

impl Concerned {
    /// Those that ended so since a time, and those from which documents came there.
    pub(super) fn since(wide: &[Vec<u8>], since: Timestamp) -> Result<Concerned> {
        let mut found = Concerned::default();
        let mut renames = Vec::new();
        for bytes in wide {
            let record = Record::new(bytes)?;
            let counts = record.cluster_time()? >= since;
            match (record.op(), Namespace::of(&record)) {
                ("drop", Some(namespace)) if counts => drop(found.namespaces.insert(namespace)),
                ("dropDatabase", _) if counts => found.databases.extend(record.db().map(str::to_owned)),
                ("rename", Some(from)) if is_from_watched(&record) => {
                    let Some(to) = target(&record) else { continue };
                    if counts {
                        found.namespaces.insert(to.clone());
                    }
                    renames.push((from, to));
                }
                _ => {}
            }
        }
        let mut before = usize::MAX;
        while before != renames.len() {
            before = renames.len();
            renames.retain(|(from, to)| {
                let came = found.hold(to);
                if came {
                    found.namespaces.insert(from.clone());
                }
                !came
            });
        }
        Ok(found)
    }

    pub(super) fn hold(&self, namespace: &Namespace) -> bool {
        self.namespaces.contains(namespace) || self.databases.contains(&namespace.db)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && self.databases.is_empty()
    }
}
