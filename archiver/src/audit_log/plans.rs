//! The plans of baselines: which collections are read, in which order. One document for each collection, written once
//! before the checkpoint that names the plan, and never changed.

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use mongodb::Collection;

use super::{AuditLog, mongo_error};
use crate::error::{Error, Result};
use crate::progress::Planned;
use crate::stream_id::StreamId;

const SNAPSHOTS: &str = "archiver.snapshots";

impl AuditLog {
    fn plans(&self) -> Collection<Document> {
        self.database().collection(SNAPSHOTS)
    }

    /// Stores a plan, under a name that nobody has used before.
    pub async fn write_plan(&self, stream: &StreamId, plan: &str, collections: &[Planned]) -> Result<()> {
        let stored = collections.iter().zip(0_u32..).map(|(collection, number)| {
            let mut stored = bson::serialize_to_document(collection)?;
            stored.insert(
                "_id",
                doc! {"stream": stream.to_string(), "plan": plan, "number": i64::from(number)},
            );
            Ok(stored)
        });
        let stored: std::result::Result<Vec<_>, bson::error::Error> = stored.collect();
        let stored = stored.map_err(|e| Error::internal("a baseline's plan can't be encoded").because(e))?;
        if stored.is_empty() {
            return Ok(());
        }
        let written = self.plans().insert_many(stored).await;
        written.map(|_| ()).map_err(|e| mongo_error("storing the baseline's plan", e))
    }

    /// The collections of a plan in its order, from a number on.
    pub async fn read_plan(&self, stream: &StreamId, plan: &str, from: u32) -> Result<Vec<Planned>> {
        let failed = |e| mongo_error("reading the baseline's plan", e);
        let first = doc! {"stream": stream.to_string(), "plan": plan, "number": i64::from(from)};
        let end = doc! {"stream": stream.to_string(), "plan": plan, "number": Bson::MaxKey};
        let found = self.plans().find(doc! {"_id": {"$gte": first, "$lt": end}}).sort(doc! {"_id": 1}).await;
        let found: Vec<Document> = found.map_err(failed)?.try_collect().await.map_err(failed)?;
        let read = found.into_iter().map(bson::deserialize_from_document).collect::<Result<_, _>>();
        read.map_err(|e| Error::corrupt("the baseline's stored plan can't be read").because(e))
    }

    /// Deletes the plans of a stream that has no baseline to read any more.
    pub async fn forget_plans(&self, stream: &StreamId) -> Result<()> {
        let ids = doc! {"$gte": {"stream": stream.to_string()}, "$lt": {"stream": stream.to_string(), "plan": Bson::MaxKey}};
        let deleted = self.plans().delete_many(doc! {"_id": ids}).await;
        deleted.map(|_| ()).map_err(|e| mongo_error("deleting the baseline's plan", e))
    }
}
