//! Cuts a large collection into ranges of about the same size, at `_id`s that a sample found.

use bson::{Bson, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use tracing::debug;

use super::Snapshot;
use crate::deployment::mongo_error;
use crate::error::Result;
use crate::progress::{IdKey, Planned};

/// A range is worth a reader of its own from this many batches on.
const RANGE_BATCHES: i64 = 50;
/// Ranges of one collection at most: what is left of them is in every checkpoint.
const RANGES: i64 = 64;
/// Sampled documents for each range: the ranges then differ in size by a quarter or so.
const SAMPLES: i64 = 20;
/// Larger `_id`s are no places to cut at, for the same reason. In bytes, with the BSON around it.
const BOUND_MAX: i64 = 256;

impl Snapshot {
    /// The places to cut a collection at, in the order of its `_id` index; none where it is small, or can't be sampled.
    pub(super) async fn cut(&self, collection: &Planned) -> Vec<IdKey> {
        let ranges =
            (collection.documents / (self.limits.batch_max_events as i64 * RANGE_BATCHES)).min(RANGES);
        if ranges < 2 {
            return Vec::new();
        }
        match self.sample(collection, ranges * SAMPLES).await {
            Ok(sample) => bounds(sample, ranges as usize),
            Err(error) => {
                debug!(collection = %collection.coll, error = %error.explain(), "not sampled, read in one range");
                Vec::new()
            }
        }
    }

    /// Some `_id`s, sorted as the collection's own index is: its collation is the default of the sort's.
    async fn sample(&self, collection: &Planned, size: i64) -> Result<Vec<IdKey>> {
        let Planned { db, coll, .. } = collection;
        let small = doc! {"$expr": {"$lte": [{"$bsonSize": "$$ROOT"}, BOUND_MAX]}};
        // No range can begin at the end of the index.
        let bound = doc! {"$and": [{"_id": {"$ne": Bson::MaxKey}}, small]};
        let pipeline = [
            doc! {"$sample": {"size": size}},
            doc! {"$project": {"_id": 1}},
            doc! {"$match": bound},
            doc! {"$sort": {"_id": 1}},
        ];
        let database = self.client.database(db).collection::<Document>(coll);
        let failed = |e| mongo_error(&format!("sampling {db}.{coll}"), e);
        let cursor = database.aggregate(pipeline).with_type::<RawDocumentBuf>().await.map_err(failed)?;
        let found: Vec<RawDocumentBuf> = cursor.try_collect().await.map_err(failed)?;
        Ok(found.into_iter().map(|id| IdKey(id.into_bytes())).collect())
    }
}

/// Every so-manieth of a sorted sample. A sample can have an `_id` twice.
fn bounds(sample: Vec<IdKey>, ranges: usize) -> Vec<IdKey> {
    let mut bounds: Vec<IdKey> =
        (1..ranges).filter_map(|n| sample.get(n * sample.len() / ranges).cloned()).collect();
    bounds.dedup();
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_spread_over_the_sample_and_differ() {
        let sample = |ids: &[u8]| ids.iter().map(|n| IdKey(vec![*n])).collect::<Vec<_>>();
        assert_eq!(bounds(sample(&[0, 1, 2, 3, 4, 5, 6, 7]), 4), sample(&[2, 4, 6]));
        assert_eq!(bounds(sample(&[1, 1, 1, 1, 2, 2]), 3), sample(&[1, 2]));
        assert_eq!(bounds(sample(&[1]), 3), sample(&[1]));
        assert_eq!(bounds(Vec::new(), 3), []);
    }
}
