//! What a source's change stream delivers: built from the configuration alone, so that it is always reopened with the
//! same options, and its digest tells when it is not.

use bson::{Document, doc};
use mongodb::Client;
use sha2::{Digest, Sha256};

use super::portion::Portion;
use crate::audit_log::MARKER;
use crate::config::{SourceConfig, Watch};
use crate::deployment::{code, mongo_error};
use crate::error::Result;
use crate::record::hex;
use crate::stream_id::StreamId;

/// Databases that MongoDB keeps for itself.
pub const INTERNAL_DATABASES: [&str; 3] = ["admin", "config", "local"];

/// The options of a source's change stream.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamOptions {
    /// The one database all watched namespaces are in; `None`: the whole deployment is watched.
    pub database: Option<String>,
    /// Selects the watched namespaces, on the server.
    pub pipeline: Vec<Document>,
    /// Whether events without a document key (what happens to collections and databases) become records of this stream. They
    /// are delivered all the same where they do not: settings change by them, and an `invalidate` ends every stream.
    pub keyless: bool,
    /// Whether the server splits events that are larger than a reply.
    pub split: bool,
}

impl StreamOptions {
    /// The stream of these namespaces, in whatever order, the audit database always left out.
    pub fn new(watch: &[Watch], audit_database: &str) -> Self {
        let mut watch = watch.to_vec();
        watch.sort();
        let watch = &watch[..];
        let mut wanted: Vec<Document> = watch.iter().flat_map(selection).collect();
        // A stream on a database ends with an event that has no namespace; filtered out, the stream would just end.
        wanted.push(doc! {"operationType": "invalidate"});
        let mut left_out = vec![audit_database];
        left_out.extend(INTERNAL_DATABASES);
        let selected = doc! {"$match": {"$and": [{"ns.db": {"$nin": left_out}}, {"$or": wanted}]}};
        StreamOptions {
            database: common_database(watch),
            pipeline: vec![selected],
            keyless: true,
            split: false,
        }
    }

    /// The part of it that one stream of a source with this many partitions delivers.
    pub fn of(mut self, stream: &StreamId, partitions: u32) -> Self {
        if let Some(of_partition) = partition_filter(stream, partitions, "$documentKey._id") {
            self.keyless = stream.partition == Some(0);
            self.pipeline.push(doc! {"$match": {"$or": [
                of_partition,
                {"documentKey._id": {"$exists": false}},
                // Every stream must learn of a database that another archiver makes its own.
                {"operationType": "insert", "ns.coll": MARKER},
            ]}});
        }
        self
    }

    /// The options of one stream of a source on this deployment, as they are whenever it is opened.
    pub async fn of_source(
        source: &SourceConfig,
        stream: &StreamId,
        audit_database: &str,
        client: &Client,
    ) -> Result<Self> {
        let options = StreamOptions::new(&source.watch, audit_database).of(stream, source.partitions);
        options.with_context(source).probed(client).await
    }

    /// The same, with large events split where the server can do it. Asked by trying: versions lie, look-alikes differ.
    pub async fn probed(mut self, client: &Client) -> Result<Self> {
        let mut pipeline = self.pipeline.clone();
        pipeline.push(split_stage());
        let tried = match &self.database {
            Some(database) => client.database(database).watch().pipeline(pipeline).await,
            None => client.watch().pipeline(pipeline).await,
        };
        self.split = match tried {
            Ok(_) => true,
            // In words of its own, as each look-alike does. What else is wrong shows when the stream is opened.
            Err(e) if code(&e).is_some() => false,
            Err(e) => return Err(mongo_error("asking whether large events can be split", e)),
        };
        Ok(self)
    }

    /// The stages behind `$changeStream`.
    pub(super) fn stages(&self, portion: Portion) -> Vec<Document> {
        let mut stages = self.pipeline.clone();
        stages.extend(portion.stages());
        if self.split {
            // The last stage, by MongoDB's rule, and always there: the tokens of fragments are valid with it only.
            stages.push(split_stage());
        }
        stages
    }

    /// Delivers what is inserted into the source's `actor_context` collection too, through every filter there is: whichever
    /// partition's document a transaction changes, who acts in it must be known. To be called last.
    pub fn with_context(mut self, source: &SourceConfig) -> Self {
        let Some((db, coll)) = &source.actor_context else { return self };
        if source.watch.iter().any(|w| w.covers(db, coll)) {
            return self;
        }
        let context = doc! {"operationType": "insert", "ns.db": db, "ns.coll": coll};
        for stage in &mut self.pipeline {
            if let Ok(selected) = stage.get_document("$match") {
                *stage = doc! {"$match": {"$or": [&context, selected.clone()]}};
            }
        }
        self.database = self.database.filter(|database| database == db);
        self
    }

    /// Identifies everything that determines what the stream delivers. The image and event options are constants of
    /// this version and part of it.
    pub fn digest(&self) -> String {
        let options = doc! {
            "database": self.database.as_deref(),
            "pipeline": self.stages(Portion::Whole),
            "fullDocument": "whenAvailable",
            "fullDocumentBeforeChange": "whenAvailable",
            "showExpandedEvents": true,
        };
        hex(&Sha256::digest(options.to_string()).into())
    }
}

fn split_stage() -> Document {
    doc! {"$changeStreamSplitLargeEvent": {}}
}

/// Selects the documents of one partition by the hash of their `_id`, which `id` is the path of, such as `$_id`; `None` where
/// the source has only one stream. Numbers that MongoDB takes for the same `_id` hash alike, whatever their type.
pub fn partition_filter(stream: &StreamId, partitions: u32, id: &str) -> Option<Document> {
    let partition = i64::from(stream.partition?);
    // The remainder first: the smallest of all hashes has no absolute value.
    let remainder = doc! {"$mod": [{"$toHashedIndexKey": id}, i64::from(partitions)]};
    Some(doc! {"$expr": {"$eq": [{"$abs": remainder}, partition]}})
}

fn selection(watch: &Watch) -> Vec<Document> {
    match watch {
        Watch::Everything => vec![doc! {}],
        Watch::Database(db) => vec![doc! {"ns.db": db}, doc! {"to.db": db}],
        Watch::Collection(db, coll) => vec![
            doc! {"ns.db": db, "ns.coll": coll},
            doc! {"to.db": db, "to.coll": coll},
            // What happens to the whole database.
            doc! {"ns.db": db, "ns.coll": {"$exists": false}},
        ],
    }
}

fn common_database(watch: &[Watch]) -> Option<String> {
    let database = |w: &Watch| match w {
        Watch::Collection(db, _) | Watch::Database(db) => Some(db.clone()),
        Watch::Everything => None,
    };
    let first = database(watch.first()?)?;
    watch.iter().all(|w| database(w).as_ref() == Some(&first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collection(db: &str, coll: &str) -> Watch {
        Watch::Collection(db.into(), coll.into())
    }

    #[test]
    fn one_database_is_watched_alone_and_several_through_the_deployment() {
        let one = StreamOptions::new(&[collection("shop", "a"), Watch::Database("shop".into())], "audit");
        assert_eq!(one.database.as_deref(), Some("shop"));
        let two = StreamOptions::new(&[collection("shop", "a"), collection("hr", "a")], "audit");
        assert_eq!(two.database, None);
        assert_eq!(StreamOptions::new(&[Watch::Everything], "audit").database, None);
    }

    #[test]
    fn large_events_are_split_behind_everything_else() {
        let mut options = StreamOptions::new(&[collection("shop", "a")], "audit");
        let digest = options.digest();
        options.split = true;
        assert_ne!(options.digest(), digest);
        for portion in [Portion::Whole, Portion::WithoutImages, Portion::Identity] {
            assert_eq!(options.stages(portion).last(), Some(&split_stage()));
            assert_eq!(options.stages(portion).len(), 2 + portion.stages().len());
        }
    }

    #[test]
    fn the_digest_changes_with_what_is_delivered() {
        let a = StreamOptions::new(&[collection("shop", "a")], "audit");
        let both = [collection("shop", "a"), collection("shop", "b")];
        let turned = [collection("shop", "b"), collection("shop", "a")];
        assert_eq!(
            StreamOptions::new(&both, "audit").digest(),
            StreamOptions::new(&turned, "audit").digest()
        );
        let b = StreamOptions::new(&[collection("shop", "b")], "audit");
        assert_eq!(a.digest(), StreamOptions::new(&[collection("shop", "a")], "audit").digest());
        assert_ne!(a.digest(), b.digest());
        assert_ne!(a.digest(), StreamOptions::new(&[collection("shop", "a")], "other").digest());
    }

    #[test]
    fn a_source_of_one_stream_is_not_filtered_and_each_partition_has_options_of_its_own() {
        let options = || StreamOptions::new(&[collection("shop", "a")], "audit");
        let of = |n: u32| StreamId::all("s", n).iter().map(|s| options().of(s, n)).collect::<Vec<_>>();
        assert_eq!(of(1), [options()]);
        let all: Vec<_> = [1, 2, 3].into_iter().flat_map(of).collect();
        let digests: std::collections::HashSet<String> = all.iter().map(StreamOptions::digest).collect();
        assert_eq!(digests.len(), 6);
        assert_eq!(of(3).iter().map(|o| o.keyless).collect::<Vec<_>>(), [true, false, false]);
    }
}
