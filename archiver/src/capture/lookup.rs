//! Looks withheld documents up again: those that a baseline or a comparison read are in no stream, and only the digest of its `_id` tells
//! which document it was. So their collections are read as a baseline reads them, a batch at a time, until all of them have come.
//! Does not know what becomes of them.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::sync::mpsc;

use super::barrier::Hold;
use super::resync::reader::Reader;
use super::snapshot::{Snapshot, plan};
use crate::audit_log::Withheld;
use crate::error::Result;
use crate::event::Event;
use crate::salt::Salt;

/// What came of looking for some of them.
#[derive(Debug)]
pub(super) enum Looked {
    /// Documents as they are at the time that is held.
    Found(Vec<(Event, Withheld)>, Hold),
    /// These are not there, or not watched, any more.
    Gone(Vec<i64>),
}

/// Looks documents up.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) snapshot: Snapshot,
    pub(super) salt: Salt,
    pub(super) audit_database: String,
    /// Databases of other archivers.
    pub(super) left_out: HashSet<String>,
}

/// Documents of one collection by the digest of their `_id`; one can be withheld more than once.
type Open = HashMap<String, Vec<Withheld>>;

impl Lookup {
    /// Looks these up, which can be. A closed channel means that nobody wants to know any more.
    pub(super) async fn run<T: From<Looked>>(
        &self,
        wanted: Vec<Withheld>,
        looked: &mpsc::Sender<Result<T>>,
    ) -> Result<()> {
        let mut by_collection: BTreeMap<(String, String), Open> = BTreeMap::new();
        for withheld in wanted {
            let name = |part| withheld.ns.get_str(part).unwrap_or_default().to_owned();
            let open = by_collection.entry((name("db"), name("coll"))).or_default();
            let digest = withheld.key_digest.clone().unwrap_or_default();
            open.entry(digest).or_default().push(withheld);
        }
        let Snapshot { client, watch, .. } = &self.snapshot;
        let present = plan::present(client, watch, &self.audit_database, &self.left_out).await?;
        for ((db, coll), mut open) in by_collection {
            if let Some(collection) = present.iter().find(|c| c.db == db && c.coll == coll) {
                let mut reader = Reader::new(&self.snapshot, collection.clone());
                while !open.is_empty()
                    && let Some((events, hold)) = reader.next().await?
                {
                    let found = self.among(events, &mut open)?;
                    if !found.is_empty() {
                        looked.send(Ok(Looked::Found(found, hold).into())).await.ok();
                    }
                }
            }
            if !open.is_empty() {
                let gone = open.into_values().flatten().map(|withheld| withheld.id.seq);
                looked.send(Ok(Looked::Gone(gone.collect()).into())).await.ok();
            }
        }
        Ok(())
    }

    /// Those of these documents that are looked for. Takes out those that came.
    fn among(&self, events: Vec<Event>, open: &mut Open) -> Result<Vec<(Event, Withheld)>> {
        let mut found = Vec::new();
        for event in events {
            let id = event.doc()?.get_path(&["key", "_id"]);
            let digest = id.map(|id| self.salt.id_digest(id.kind(), id.value()));
            let all = digest.and_then(|digest| open.remove(&digest)).unwrap_or_default();
            found.extend(all.into_iter().map(|withheld| (event.clone(), withheld)));
        }
        Ok(found)
    }
}
