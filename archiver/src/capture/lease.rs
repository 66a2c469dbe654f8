//! A lease says which process writes a stream. It keeps two from working at once; that two never both write is the
//! epoch's doing, which every append checks. All times are the audit server's.
//!
//! It also names the session in which its holder appends. A process that is killed leaves its last transaction open, and the
//! server keeps it, and the checkpoint that it has locked, for a minute (transactionLifetimeLimitSeconds): whoever takes
//! over ends that session first.

use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::Collection;
use mongodb::options::ReturnDocument;
use tracing::warn;

use crate::audit_log::{AuditLog, LEASES, mongo_error};
use crate::deployment::code;
use crate::error::{Error, Result};
use crate::fail_point::fail_point;
use crate::stream_id::StreamId;

const DUPLICATE_KEY: i32 = 11000;

/// A stream's lease, held.
#[derive(Debug, Clone)]
pub struct Lease {
    leases: Collection<Document>,
    stream: StreamId,
    holder: String,
    /// How long it holds without renewal.
    time: Duration,
    /// The writer's number that came with it; higher than every one before.
    pub epoch: i64,
}

impl Lease {
    /// Takes the lease of a stream for this time; `None` while another process holds it.
    pub async fn acquire(
        log: &AuditLog,
        stream: &StreamId,
        holder: &str,
        time: Duration,
    ) -> Result<Option<Lease>> {
        let leases = log.database().collection::<Document>(LEASES);
        let free = doc! {"$or": [
            {"$eq": ["$holder", holder]},
            {"$lte": [{"$ifNull": ["$expires", "$$NOW"]}, "$$NOW"]},
        ]};
        let if_free = |taken: Bson, field: &str| doc! {"$cond": [&free, taken, format!("${field}")]};
        let take = vec![doc! {"$set": {
            "holder": if_free(doc! {"$literal": holder}.into(), "holder"),
            "epoch": if_free(doc! {"$add": [{"$ifNull": ["$epoch", 0_i64]}, 1_i64]}.into(), "epoch"),
            "expires": if_free(expiry(time).into(), "expires"),
        }}];
        let lease = doc! {"_id": stream.to_string()};
        let taken =
            leases.find_one_and_update(lease, take).upsert(true).return_document(ReturnDocument::After).await;
        let lease = match taken {
            Ok(Some(lease)) if lease.get_str("holder").is_ok_and(|h| h == holder) => lease,
            Ok(_) => return Ok(None),
            // Another process has created it at this very moment.
            Err(e) if code(&e) == Some(DUPLICATE_KEY) => return Ok(None),
            Err(e) => return Err(mongo_error("taking the lease", e)),
        };
        fail_point!("lease:taken");
        if let Ok(session) = lease.get_document("session") {
            // It may belong to another account, or be long gone; then the transaction ends by its own time limit.
            if let Err(e) = log.database().run_command(doc! {"killSessions": [session]}).await {
                let error = mongo_error("ending the session of the writer before this one", e);
                warn!(%stream, error = error.explain(), "waiting for its last transaction to time out");
            }
        }
        let epoch = lease.get_i64("epoch").map_err(|e| Error::corrupt("a lease has no epoch").because(e))?;
        Ok(Some(Lease { leases, stream: stream.clone(), holder: holder.to_owned(), time, epoch }))
    }

    fn mine(&self) -> Document {
        doc! {"_id": self.stream.to_string(), "holder": &self.holder, "epoch": self.epoch}
    }

    /// Names the session in which the holder appends, before it does so for the first time.
    pub async fn name_session(&self, session: &Document) -> Result<()> {
        let named = self.leases.update_one(self.mine(), doc! {"$set": {"session": session}}).await;
        if named.map_err(|e| mongo_error("naming the session in the lease", e))?.matched_count == 0 {
            return Err(self.lost());
        }
        fail_point!("lease:session_named");
        Ok(())
    }

    fn lost(&self) -> Error {
        Error::fenced(format!("another process has taken the lease source={}", self.stream))
    }

    /// How often it is to be renewed: three tries before it runs out.
    pub fn renewal(&self) -> Duration {
        self.time / 3
    }

    /// Holds it for its time once more. Fails as fenced where another process has taken it.
    pub async fn renew(&self) -> Result<()> {
        let renewed =
            self.leases.update_one(self.mine(), vec![doc! {"$set": {"expires": expiry(self.time)}}]).await;
        match renewed.map_err(|e| mongo_error("renewing the lease", e))?.matched_count {
            0 => Err(self.lost()),
            _ => Ok(()),
        }
    }

    /// Gives it back, so that another process need not wait for it to run out. Leaves `error` for `status` to show.
    pub async fn release(&self, error: Option<&Error>) -> Result<()> {
        fail_point!("lease:before_release");
        let message: Bson = error.map_or(Bson::Null, |e| Bson::String(e.explain()));
        let last_error = match error {
            // As a literal: nothing in a message may be read as an expression.
            Some(_) => doc! {"at": "$$NOW", "message": {"$literal": message}},
            None => doc! {"$ifNull": ["$lastError", "$$REMOVE"]},
        };
        let update = vec![
            doc! {"$set": {"expires": "$$NOW", "holder": Bson::Null, "session": "$$REMOVE", "lastError": last_error}},
        ];
        let released = self.leases.update_one(self.mine(), update).await;
        released.map_err(|e| mongo_error("releasing the lease", e))?;
        fail_point!("lease:released");
        Ok(())
    }
}

fn expiry(time: Duration) -> Document {
    doc! {"$add": ["$$NOW", time.as_millis() as i64]}
}
