//! Which archivers live, and which streams each of them is willing to run: announcements beside the leases, expiring on the
//! server's time like them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::Leases;
use super::requests::{self, Failed, REQUEST, Request};
use crate::error::Result;
use crate::stream_id::StreamId;

/// Before the holder's name, in the `_id` of an announcement. No stream is named so, because a holder's name is no number.
const INSTANCE: &str = "instance/";

/// What one process tells the others about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Announcement {
    /// When the process started, by its own clock.
    pub started: DateTime,
    /// On which host.
    pub host: String,
    /// As which process there.
    pub pid: u32,
    /// The streams that it is willing to run.
    pub streams: BTreeSet<StreamId>,
    /// Those of them that keep failing there: others are to run them, where there are any.
    pub failing: BTreeSet<StreamId>,
    /// How the last attempt to read its configuration again ended.
    pub reloaded: Option<Reloaded>,
}

/// How an archiver read its configuration again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reloaded {
    /// When, by its own clock.
    pub at: DateTime,
    /// The last requests that this answers.
    pub requests: Vec<String>,
    /// The sources for which plugins, their configuration, or what happens when they fail is different from now on.
    pub changed: Vec<String>,
    /// What else is different in the file, and counts only after a restart.
    pub restart: Vec<String>,
    /// The streams that had halted there and are tried again.
    #[serde(default)]
    pub revived: Vec<String>,
    /// Why everything stays as it was.
    pub failed: Option<Failed>,
}

/// A living archiver, as it announced itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its name in the leases that it holds.
    pub holder: String,
    /// The streams that it is willing to run.
    pub streams: BTreeSet<StreamId>,
    /// Those of them that keep failing there.
    pub failing: BTreeSet<StreamId>,
    /// Whether it has renewed its announcement lately. One that has not may be paused, or gone.
    pub fresh: bool,
}

/// All leases and all archivers, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Board {
    /// Who holds what.
    pub held: BTreeMap<StreamId, String>,
    /// Who lives.
    pub instances: Vec<Instance>,
    /// What is asked of those who live, and not answered.
    pub requests: Vec<Request>,
    /// Whether there are announcements or requests that have expired.
    pub expired: bool,
}

/// The `_id` of an announcement.
pub(super) fn instance_id(holder: &str) -> String {
    format!("{INSTANCE}{holder}")
}

/// Who announced itself under this `_id`; `None` where it is a stream's lease.
pub fn instance_of(id: &str) -> Option<&str> {
    id.strip_prefix(INSTANCE).filter(|holder| holder.contains(':'))
}

impl Leases {
    /// Tells the others about this process, until [`Leases::leave`].
    pub async fn announce(&self, announcement: Announcement) -> Result<()> {
        self.set_announcement(Some(announcement));
        self.tell().await
    }

    /// Tells the others that this process takes nothing any more.
    pub async fn leave(&self) -> Result<()> {
        self.set_announcement(None);
        self.tell().await
    }

    /// Who holds what and who lives, by one small query.
    pub async fn look(&self) -> Result<Board> {
        let fields = doc! {
            "holder": 1, "streams": 1, "failing": 1, "leaseMillis": 1,
            "ask": 1, "stream": 1, "seqs": 1, "done": "$answer.done",
            // By the server's clock.
            "left": {"$subtract": ["$expires", "$$NOW"]},
        };
        let documents = async {
            let found = self.0.collection.find(doc! {}).projection(fields).batch_size(10_000).await?;
            found.try_collect::<Vec<Document>>().await
        };
        Ok(Board::read(&self.within("reading the leases", documents).await?))
    }

    /// How each of those who live has read its configuration again, by holder; `None`: it has not answered this request.
    pub async fn reloaded(&self, request: &Request) -> Result<BTreeMap<String, Option<Reloaded>>> {
        let live =
            doc! {"_id": {"$regex": format!("^{INSTANCE}.*:")}, "$expr": {"$gt": ["$expires", "$$NOW"]}};
        let documents = async {
            let found = self.0.collection.find(live).await?;
            found.try_collect::<Vec<Document>>().await
        };
        let documents = self.within("waiting for the archivers that run", documents).await?;
        let answers = |d: &Document| {
            let reloaded: Reloaded = bson::deserialize_from_bson(d.get("reloaded")?.clone()).ok()?;
            reloaded.requests.contains(&request.id).then_some(reloaded)
        };
        let found = documents.iter().filter_map(|d| Some((d.get_str("holder").ok()?.to_owned(), answers(d))));
        Ok(found.collect())
    }

    /// Removes the announcements and requests that have expired.
    pub async fn sweep(&self) -> Result<()> {
        let expired = doc! {"_id": {"$regex": format!("^({INSTANCE}|{REQUEST}).*:")}, "$expr": {"$lte": ["$expires", "$$NOW"]}};
        let removed = self.0.collection.delete_many(expired).into_future();
        self.within("removing announcements that have expired", removed).await.map(|_| ())
    }

    /// What the others are told about this process.
    pub fn announcement(&self) -> Option<Announcement> {
        self.0.announcement.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_announcement(&self, announcement: Option<Announcement>) {
        *self.0.announcement.lock().unwrap_or_else(PoisonError::into_inner) = announcement;
    }

    /// Stores what is to be announced now.
    pub(super) async fn tell(&self) -> Result<()> {
        let mut told = self.0.announced.lock().await;
        let id = instance_id(&self.0.holder);
        if let Some(announcement) = self.announcement() {
            *told = true;
            let instance = self.encode(&id, &announcement);
            let instance = doc! {"$mergeObjects": [{"$literal": instance}, {"expires": self.expiry()}]};
            let stored = self
                .0
                .collection
                .update_one(doc! {"_id": id}, vec![doc! {"$replaceWith": instance}])
                .upsert(true);
            self.within("announcing this archiver", stored.into_future()).await?;
        } else if *told {
            let removed = self.0.collection.delete_one(doc! {"_id": id}).into_future();
            self.within("taking this archiver's announcement back", removed).await?;
            *told = false;
        }
        Ok(())
    }

    fn encode(&self, id: &str, announcement: &Announcement) -> Document {
        let names =
            |streams: &BTreeSet<StreamId>| streams.iter().map(StreamId::to_string).collect::<Vec<_>>();
        let reloaded = announcement.reloaded.as_ref().and_then(|r| bson::serialize_to_bson(r).ok());
        doc! {
            "_id": id,
            "reloaded": reloaded,
            "holder": &self.0.holder,
            "host": &announcement.host,
            "pid": i64::from(announcement.pid),
            "version": env!("CARGO_PKG_VERSION"),
            "started": announcement.started,
            "leaseMillis": self.0.time.as_millis() as i64,
            "streams": names(&announcement.streams),
            "failing": names(&announcement.failing),
        }
    }
}

impl Board {
    fn read(documents: &[Document]) -> Board {
        let mut board = Board::default();
        for document in documents {
            let left = document.get_i64("left").unwrap_or(0);
            if let Some(request) = requests::read(document) {
                match left > 0 {
                    true => board.requests.push(request),
                    false => board.expired = true,
                }
                continue;
            }
            let (Ok(id), Ok(holder)) = (document.get_str("_id"), document.get_str("holder")) else {
                continue;
            };
            if instance_of(id).is_some() {
                match left > 0 {
                    true => board.instances.push(Instance {
                        holder: holder.to_owned(),
                        streams: streams(document, "streams"),
                        failing: streams(document, "failing"),
                        fresh: document.get_i64("leaseMillis").is_ok_and(|time| left >= time / 2),
                    }),
                    false => board.expired = true,
                }
            } else if let Some(stream) = StreamId::parse(id).filter(|_| left > 0) {
                board.held.insert(stream, holder.to_owned());
            }
        }
        board
    }
}

/// The streams in a field of an announcement. Names that this version can't read are another's business.
fn streams(document: &Document, field: &str) -> BTreeSet<StreamId> {
    let names = document.get_array(field).into_iter().flatten().filter_map(|name| name.as_str());
    names.filter_map(StreamId::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_told_from_the_lease_of_any_stream() {
        assert_eq!(instance_of(&instance_id("host:7:abcd")), Some("host:7:abcd"));
        for stream in StreamId::all("instance", 3).into_iter().chain(StreamId::all("instance", 1)) {
            assert_eq!(instance_of(&stream.to_string()), None);
        }
    }

    #[test]
    fn what_has_run_out_holds_nothing_and_who_has_not_renewed_lately_is_not_fresh() {
        let instance = |holder: &str, left: i64| {
            doc! {"_id": instance_id(holder), "holder": holder, "left": left, "leaseMillis": 900_i64, "streams": ["a", "b/1"]}
        };
        let board = Board::read(&[
            doc! {"_id": "a", "holder": "h:1:x", "left": 5_i64},
            doc! {"_id": "b/1", "holder": "h:2:y", "left": -5_i64},
            doc! {"_id": "c", "holder": bson::Bson::Null, "left": 5_i64},
            instance("h:1:x", 500),
            instance("h:2:y", 400),
            instance("h:3:z", 0),
        ]);
        let (a, b) = (StreamId::parse("a").unwrap(), StreamId::parse("b/1").unwrap());
        assert_eq!(board.held, BTreeMap::from([(a.clone(), "h:1:x".to_owned())]));
        let fresh: Vec<_> = board.instances.iter().map(|i| (i.holder.as_str(), i.fresh)).collect();
        assert_eq!(fresh, [("h:1:x", true), ("h:2:y", false)]);
        assert_eq!(board.instances[0].streams, BTreeSet::from([a, b]));
        assert!(board.expired);
    }
}
