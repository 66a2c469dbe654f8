//! A lease says which process writes a stream. It keeps two from working at once; that two never both write is the
//! epoch's doing, which every append checks. All times are the audit server's.
//!
//! It also names the session in which its holder appends. A process that is killed leaves its last transaction open, and the
//! server keeps it, and the checkpoint that it has locked, for a minute (transactionLifetimeLimitSeconds): whoever takes
//! over ends that session first.
//!
//! Leases have a small client of their own, and every operation on them a time limit: neither a busy connection pool nor
//! a server that does not answer keeps a process from learning that it holds a lease no longer.

mod instances;
mod keeper;
mod requests;
mod term;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bson::{Bson, Document, doc};
use mongodb::Collection;
use mongodb::options::ReturnDocument;
use serde::Serialize;
use tracing::warn;

pub use self::instances::{Announcement, Board, Instance, Reloaded, instance_of};
pub use self::requests::{Answer, Ask, Failed, Request, Seqs};
use self::term::Term;
use crate::audit_log::{LEASES, mongo_error};
use crate::config::Config;
use crate::deployment::{code, connect_small};
use crate::error::{Error, Result};
use crate::fail_point::fail_point;
use crate::stream_id::StreamId;

const DUPLICATE_KEY: i32 = 11000;
/// The most that one operation on a lease may take …
const LONGEST: Duration = Duration::from_secs(5);
/// … and what it may take however short leases are: releasing one late is better than letting it run out.
const SHORTEST: Duration = Duration::from_secs(2);

/// The leases of the audit database, as one process sees and holds them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Leases(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    collection: Collection<Document>,
    /// This process, in the leases that it holds.
    holder: String,
    /// How long a lease holds without renewal.
    time: Duration,
    /// Those that this process holds. A lease that was dropped instead of released is not renewed.
    held: Mutex<BTreeMap<StreamId, Weak<Term>>>,
    /// What the others are told about this process; `None`: nothing.
    announcement: Mutex<Option<Announcement>>,
    /// Whether they have been told. Locked while telling them, so that the last word is the newest.
    announced: tokio::sync::Mutex<bool>,
}

/// A stream's lease, held.
#[derive(Debug, Clone)]
pub struct Lease {
    leases: Leases,
    stream: StreamId,
    term: Arc<Term>,
    /// The writer's number that came with it; higher than every one before.
    pub epoch: i64,
}

impl Leases {
    /// For the process that is named `holder`. Reaches no server yet.
    pub async fn connect(config: &Config, holder: &str) -> Result<Self> {
        let time = config.capture.lease_time;
        let uri = config.audit_uri.as_ref().unwrap_or(&config.mongodb_uri);
        let client = connect_small(uri, limit(time)).await?;
        Ok(Leases(Arc::new(Shared {
            collection: client.database(&config.audit_database).collection(LEASES),
            holder: holder.to_owned(),
            time,
            held: Mutex::default(),
            announcement: Mutex::default(),
            announced: tokio::sync::Mutex::default(),
        })))
    }

    /// Takes the lease of a stream; `None` while another process holds it.
    pub async fn acquire(&self, stream: &StreamId) -> Result<Option<Lease>> {
        let holder = &self.0.holder;
        let free = doc! {"$or": [
            {"$eq": ["$holder", holder]},
            {"$lte": [{"$ifNull": ["$expires", "$$NOW"]}, "$$NOW"]},
        ]};
        let if_free = |taken: Bson, field: &str| doc! {"$cond": [&free, taken, format!("${field}")]};
        let take = vec![doc! {"$set": {
            "holder": if_free(doc! {"$literal": holder}.into(), "holder"),
            "epoch": if_free(doc! {"$add": [{"$ifNull": ["$epoch", 0_i64]}, 1_i64]}.into(), "epoch"),
            "since": if_free("$$NOW".into(), "since"),
            "expires": if_free(self.expiry().into(), "expires"),
            "halted": if_free("$$REMOVE".into(), "halted"),
        }}];
        let lease = doc! {"_id": stream.to_string()};
        let asked = Instant::now();
        let taken = self.0.collection.find_one_and_update(lease, take).upsert(true);
        let taken = taken.return_document(ReturnDocument::After);
        let lease = match tokio::time::timeout(limit(self.0.time), taken).await {
            Ok(Ok(Some(lease))) if lease.get_str("holder").is_ok_and(|h| h == holder) => lease,
            Ok(Ok(_)) => return Ok(None),
            // Another process has created it at this very moment.
            Ok(Err(e)) if code(&e) == Some(DUPLICATE_KEY) => return Ok(None),
            Ok(Err(e)) => return Err(mongo_error("taking the lease", e)),
            Err(_) => return Err(too_slow("taking the lease")),
        };
        fail_point!("lease:taken");
        let epoch = lease.get_i64("epoch").map_err(|e| Error::corrupt("a lease has no epoch").because(e))?;
        let term = Arc::new(Term::new(asked + self.0.time));
        self.held().insert(stream.clone(), Arc::downgrade(&term));
        let lease_taken = Lease { leases: self.clone(), stream: stream.clone(), term, epoch };
        if let Ok(session) = lease.get_document("session") {
            lease_taken.end_session(session).await;
        }
        Ok(Some(lease_taken))
    }

    /// This process's name in the leases that it holds.
    pub fn holder(&self) -> &str {
        &self.0.holder
    }

    /// How long this process has held the lease of a stream; `None` where it does not.
    pub fn held_for(&self, stream: &StreamId) -> Option<Duration> {
        Some(self.held().get(stream)?.upgrade()?.since.elapsed())
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<StreamId, Weak<Term>>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expiry(&self) -> Document {
        doc! {"$add": ["$$NOW", self.0.time.as_millis() as i64]}
    }

    /// Runs an operation within its time limit.
    async fn within<T>(
        &self,
        doing: &str,
        operation: impl Future<Output = mongodb::error::Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(limit(self.0.time), operation).await {
            Ok(done) => done.map_err(|e| mongo_error(doing, e)),
            Err(_) => Err(too_slow(doing)),
        }
    }
}

impl Lease {
    /// Says to whoever asked something of the holder how far it is; see [`Leases::answer`].
    pub async fn answer<T: Serialize>(&self, request: &str, answer: &Answer<T>) -> Result<()> {
        self.leases.answer(request, answer).await
    }

    /// Names the session in which the holder appends, before it does so for the first time.
    pub async fn name_session(&self, session: &Document) -> Result<()> {
        let name = doc! {"$set": {"session": session}};
        let named = self.leases.0.collection.update_one(self.mine(), name);
        let named = self.leases.within("naming the session in the lease", named.into_future()).await?;
        if named.matched_count == 0 {
            return Err(self.lost_to_another());
        }
        fail_point!("lease:session_named");
        Ok(())
    }

    /// Fails where it is not certain any more that this process holds the lease. To be asked before every append.
    pub fn check(&self) -> Result<()> {
        match self.term.is_over() {
            false => Ok(()),
            true => Err(self.lost_error()),
        }
    }

    /// Waits until this process holds the lease no longer: another has taken it, or it could not be renewed in time. Cancel safe.
    pub async fn lost(&self) -> Error {
        self.term.over().await;
        self.lost_error()
    }

    /// Gives it back, so that another process need not wait for it to run out. Leaves `error` for `status` to show, as what
    /// halted the stream where only a human can mend it.
    ///
    /// With `in_order`, the holder has ended its last transaction; otherwise whoever comes next does.
    pub async fn release(&self, error: Option<&Error>, in_order: bool) -> Result<()> {
        fail_point!("lease:before_release");
        self.leases.held().remove(&self.stream);
        let mut changes = doc! {"expires": "$$NOW", "holder": Bson::Null};
        if in_order {
            changes.insert("session", "$$REMOVE");
        }
        if let Some(error) = error {
            // As a literal: nothing in a message may be read as an expression.
            let message = doc! {"$literal": error.explain()};
            changes
                .insert("lastError", doc! {"at": "$$NOW", "kind": error.kind().name(), "message": &message});
            if error.kind().needs_a_human() {
                let by = doc! {"$literal": &self.leases.0.holder};
                let halted = doc! {"at": "$$NOW", "kind": error.kind().name(), "message": message, "by": by};
                changes.insert("halted", halted);
            }
        }
        let released = self.leases.0.collection.update_one(self.mine(), vec![doc! {"$set": changes}]);
        self.leases.within("releasing the lease", released.into_future()).await?;
        fail_point!("lease:released");
        Ok(())
    }

    fn mine(&self) -> Document {
        doc! {"_id": self.stream.to_string(), "holder": &self.leases.0.holder, "epoch": self.epoch}
    }

    /// Ends the session of the writer before this one, and its transaction with it.
    async fn end_session(&self, session: &Document) {
        let database = self.leases.0.collection.client().database("admin");
        let end = database.run_command(doc! {"killSessions": [session]});
        // It may belong to another account, or be long gone; then the transaction ends by its own time limit.
        if let Err(error) =
            self.leases.within("ending the session of the writer before this one", end.into_future()).await
        {
            warn!(stream = %self.stream, error = error.explain(), "waiting for its last transaction to time out");
        }
    }

    fn lost_error(&self) -> Error {
        match self.term.is_taken() {
            true => self.lost_to_another(),
            false => Error::unavailable(format!(
                "the lease could not be renewed in time source={}",
                self.stream
            ))
            .hint(
                "the audit database did not answer, or this process did not run; another archiver may go on",
            ),
        }
    }

    fn lost_to_another(&self) -> Error {
        Error::fenced(format!("another process has taken the lease source={}", self.stream))
    }
}

/// How long one operation on leases that hold for `time` may take.
fn limit(time: Duration) -> Duration {
    (time / 2).clamp(SHORTEST, LONGEST)
}

fn too_slow(doing: &str) -> Error {
    Error::unavailable(format!("{doing} took too long"))
}
