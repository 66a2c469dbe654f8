//! Legal holds and what is about to be deleted in spite of none: one document, so that each change of it sees all others.
//!
//! Whoever deletes expired records claims them here first, where no hold covers them, and only for [`CLAIM`]. A hold that is
//! added behind a claim waits until the claim is given back or is over. So behind an added hold nothing that it covers is
//! deleted any more: a later claim sees the hold, an earlier one has ended.

use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use jiff::Timestamp;
use mongodb::Collection;
use mongodb::options::ReturnDocument;

use super::{AuditLog, DUPLICATE_KEY, mongo_error};
use crate::deployment::code;
use crate::error::{Error, Result};
use crate::fail_point::fail_point;
use crate::hold::{FORMAT, Held, Hold, Release};
use crate::stream_id::StreamId;

pub(super) const COLLECTION: &str = "archiver.holds";
const ID: &str = "archiver";

/// How long a claim holds. The claimant asks for the deletion within [`CLAIMANTS`] of it by its own clock; what is left is for a
/// request that is on its way.
const CLAIM: Duration = Duration::from_secs(30);
/// See [`CLAIM`].
const CLAIMANTS: Duration = Duration::from_secs(15);
/// How often whoever adds a hold looks whether earlier claims have ended.
const POLL: Duration = Duration::from_millis(100);
/// Holds and released ones together: they lie in one document of MongoDB's.
const MOST_HOLDS: usize = 4_000;
/// How often a claim is tried again that met another change of the document.
const ATTEMPTS: usize = 20;

/// All holds, released ones included, and the number of the last thing that happened to any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holds {
    /// In the order in which they were added.
    pub list: Vec<Held>,
    /// The number of the last hold or release; 0 before the first.
    pub last: i64,
}

impl Holds {
    /// The first hold in force that covers records of this source from `first` to `last`, in seconds.
    pub fn covering(&self, source: &str, first: u32, last: u32) -> Option<&Hold> {
        let in_force = self.list.iter().filter(|held| held.is_in_force()).map(|held| &held.hold);
        in_force.into_iter().find(|hold| hold.covers(source, first, last))
    }

    /// How many holds in force concern a source.
    pub fn in_force_of(&self, source: &str) -> usize {
        let concerns = |held: &&Held| {
            held.is_in_force() && held.hold.source.as_deref().is_none_or(|held| held == source)
        };
        self.list.iter().filter(concerns).count()
    }
}

/// What somebody wants held.
#[derive(Debug, Clone)]
pub struct NewHold {
    /// The source; `None`: all.
    pub source: Option<String>,
    /// Only records from this time on.
    pub from: Option<Timestamp>,
    /// Only records before this time.
    pub to: Option<Timestamp>,
    /// Why.
    pub reason: String,
    /// Who orders it.
    pub by: String,
}

/// Records that are about to be deleted.
#[derive(Debug, Clone, Copy)]
pub struct Expiring<'a> {
    /// Their stream.
    pub stream: &'a StreamId,
    /// The first one's seq.
    pub first_seq: i64,
    /// The lowest cluster time, in seconds.
    pub first: u32,
    /// The highest one.
    pub last: u32,
}

/// The right to delete records, for a short time.
#[derive(Debug)]
pub struct Claim {
    log: AuditLog,
    id: ObjectId,
    /// When it was given, by the audit server's clock: no hold was in force then.
    pub at: Timestamp,
    ends: Instant,
}

impl Claim {
    /// How long there is left to delete.
    pub fn time_left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    /// Gives the claim back: nothing is deleted under it any more.
    pub async fn give_back(self) -> Result<()> {
        let pull = doc! {"$pull": {"expiring": {"claim": self.id}}};
        let pulled = self.log.holds_document().update_one(doc! {"_id": ID}, pull).await;
        pulled.map(|_| ()).map_err(|e| mongo_error("giving back the right to delete", e))?;
        fail_point!("expire:given_back");
        Ok(())
    }
}

impl AuditLog {
    fn holds_document(&self) -> Collection<Document> {
        self.database().collection(COLLECTION)
    }

    /// All legal holds there are, and those that were released.
    pub async fn holds(&self) -> Result<Holds> {
        let found = self.holds_document().find_one(doc! {"_id": ID}).await;
        let found = found.map_err(|e| mongo_error("reading the legal holds", e))?;
        found.map_or(Ok(Holds::default()), |document| decode(&document))
    }

    /// Puts a hold in force. When it returns, nothing that the hold covers is deleted any more until it is released.
    ///
    /// Fails as unavailable where that is not certain; the hold may be in force all the same.
    pub async fn add_hold(&self, new: NewHold) -> Result<Hold> {
        if self.holds().await?.list.len() >= MOST_HOLDS {
            return Err(Error::invalid(format!(
                "there are {MOST_HOLDS} legal holds already, released ones included"
            )));
        }
        let date = |time: Option<Timestamp>| {
            time.map_or(Bson::Null, |t| DateTime::from_millis(t.as_millisecond()).into())
        };
        let number = doc! {"$add": [{"$ifNull": ["$last", 0_i64]}, 1_i64]};
        // As literals: nothing in a text may be read as an expression.
        let hold = doc! {
            "id": "$last",
            "source": {"$literal": new.source.map_or(Bson::Null, Bson::from)},
            "from": date(new.from), "to": date(new.to),
            "reason": {"$literal": new.reason}, "by": {"$literal": new.by}, "at": "$$NOW",
        };
        let add = vec![
            doc! {"$set": {"last": number}},
            doc! {"$set": {"holds": {"$concatArrays": [{"$ifNull": ["$holds", []]}, [hold]]}}},
        ];
        let failed = |e| mongo_error("adding a legal hold", e);
        let holds = self.holds_document();
        let added = holds.find_one_and_update(doc! {"_id": ID}, add).upsert(true);
        let document = added.return_document(ReturnDocument::After).await.map_err(failed)?;
        let document = document.ok_or_else(|| Error::internal("a legal hold was added to nothing"))?;
        let added = decode(&document)?;
        let hold = added.list.last().map(|held| held.hold.clone());
        let hold = hold.ok_or_else(|| Error::internal("a legal hold that was added is not there"))?;
        fail_point!("hold:added");
        self.wait_for_claims(&document).await?;
        Ok(hold)
    }

    /// Waits until the claims of this document have ended. Claims that were made since then have seen the hold.
    async fn wait_for_claims(&self, then: &Document) -> Result<()> {
        let claims = |document: &Document| -> Vec<Bson> {
            let claims = document.get_array("expiring").map(Vec::as_slice).unwrap_or_default();
            let id = |claim: &Bson| claim.as_document().and_then(|claim| claim.get("claim")).cloned();
            claims.iter().filter_map(id).collect()
        };
        let mut left = claims(then);
        // Each was given before the document was read, so it is over after this time by this machine's clock too.
        let over = Instant::now() + CLAIM;
        while !left.is_empty() && Instant::now() < over {
            tokio::time::sleep(POLL).await;
            let now = self.holds_document().find_one(doc! {"_id": ID}).await;
            let now =
                now.map_err(|e| mongo_error("waiting for deletions that have begun before the hold", e))?;
            let now = now.map(|document| claims(&document)).unwrap_or_default();
            left.retain(|claim| now.contains(claim));
        }
        Ok(())
    }

    /// Ends a hold. Fails as not found where there is no such hold in force.
    pub async fn release_hold(&self, id: i64, reason: &str, by: &str) -> Result<Release> {
        let number = doc! {"$add": ["$last", 1_i64]};
        let released =
            doc! {"number": "$last", "reason": {"$literal": reason}, "by": {"$literal": by}, "at": "$$NOW"};
        let ended = doc! {"$mergeObjects": ["$$hold", {"released": released}]};
        let is_it = doc! {"$eq": ["$$hold.id", id]};
        let one = doc! {"$cond": [is_it, ended, "$$hold"]};
        let release = vec![
            doc! {"$set": {"last": number}},
            doc! {"$set": {"holds": {"$map": {"input": "$holds", "as": "hold", "in": one}}}},
        ];
        let in_force = doc! {"_id": ID, "holds": {"$elemMatch": {"id": id, "released": {"$exists": false}}}};
        let failed = |e| mongo_error("releasing a legal hold", e);
        let holds = self.holds_document();
        let released = holds.find_one_and_update(in_force, release).return_document(ReturnDocument::After);
        let none = || {
            Error::not_found(format!("no legal hold in force has this id: {id}"))
                .hint("archiver hold list shows them")
        };
        let holds = decode(&released.await.map_err(failed)?.ok_or_else(none)?)?;
        fail_point!("hold:released");
        holds.list.into_iter().find(|held| held.hold.id == id).and_then(|held| held.released).ok_or_else(none)
    }

    /// Claims the right to delete these records; the hold that forbids it, where there is one. Under a claim that is not given
    /// back in time nothing may be deleted any more.
    pub async fn claim(&self, expiring: Expiring<'_>) -> Result<std::result::Result<Claim, Hold>> {
        let stream = expiring.stream.to_string();
        for _ in 0..ATTEMPTS {
            let ends = Instant::now() + CLAIMANTS;
            let holds = self.holds().await?;
            if let Some(hold) = holds.covering(&expiring.stream.source, expiring.first, expiring.last) {
                return Ok(Err(hold.clone()));
            }
            // Only where nothing has happened to any hold since they were read.
            let unchanged = match holds.last {
                0 => doc! {"_id": ID, "last": {"$in": [0_i64, Bson::Null]}},
                last => doc! {"_id": ID, "last": last},
            };
            let id = ObjectId::new();
            let claim = doc! {
                "claim": id, "stream": {"$literal": &stream}, "firstSeq": expiring.first_seq, "at": "$$NOW",
            };
            // Those of claimants that have ended without giving theirs back stay as long as anything may follow.
            let is_over = doc! {"$subtract": ["$$NOW", CLAIM.as_millis() as i64]};
            let others = doc! {"$filter": {
                "input": {"$ifNull": ["$expiring", []]}, "as": "other", "cond": {"$gt": ["$$other.at", is_over]},
            }};
            let add = vec![doc! {"$set": {"expiring": {"$concatArrays": [others, [claim]]}}}];
            let document = self.holds_document();
            let claimed = document.find_one_and_update(unchanged, add).upsert(holds.last == 0);
            match claimed.return_document(ReturnDocument::After).await {
                Ok(Some(document)) => {
                    fail_point!("expire:claimed");
                    return Ok(Ok(Claim { log: self.clone(), at: claimed_at(&document, id)?, id, ends }));
                }
                Ok(None) => {}
                // The first hold has just been added, so it does not match any more.
                Err(e) if code(&e) == Some(DUPLICATE_KEY) => {}
                Err(e) => return Err(mongo_error("claiming the right to delete", e)),
            }
        }
        Err(Error::unavailable("legal holds change too often for a claim to be made"))
    }
}

fn claimed_at(document: &Document, id: ObjectId) -> Result<Timestamp> {
    let claims = document.get_array("expiring").map(Vec::as_slice).unwrap_or_default();
    let own =
        claims.iter().filter_map(Bson::as_document).find(|c| c.get_object_id("claim").is_ok_and(|c| c == id));
    own.and_then(|claim| timestamp(claim, "at"))
        .ok_or_else(|| Error::internal("a claim that was made is not there"))
}

fn timestamp(document: &Document, field: &str) -> Option<Timestamp> {
    Timestamp::from_millisecond(document.get_datetime(field).ok()?.timestamp_millis()).ok()
}

fn decode(document: &Document) -> Result<Holds> {
    let list = document.get_array("holds").map(Vec::as_slice).unwrap_or_default();
    let read: Option<Vec<Held>> = list.iter().map(|held| decode_one(held.as_document()?)).collect();
    let list = read.ok_or_else(|| Error::corrupt("the stored legal holds can't be read"))?;
    Ok(Holds { list, last: document.get_i64("last").unwrap_or_default() })
}

fn decode_one(stored: &Document) -> Option<Held> {
    let text = |document: &Document, field: &str| document.get_str(field).ok().map(str::to_owned);
    let id = stored.get_i64("id").ok()?;
    let released = match stored.get_document("released") {
        Err(_) => None,
        Ok(released) => Some(Release {
            format: FORMAT,
            id,
            number: released.get_i64("number").ok()?,
            reason: text(released, "reason")?,
            by: text(released, "by")?,
            at: timestamp(released, "at")?,
        }),
    };
    let hold = Hold {
        format: FORMAT,
        id,
        source: text(stored, "source"),
        from: timestamp(stored, "from"),
        to: timestamp(stored, "to"),
        reason: text(stored, "reason")?,
        by: text(stored, "by")?,
        at: timestamp(stored, "at")?,
    };
    Some(Held { hold, released })
}
