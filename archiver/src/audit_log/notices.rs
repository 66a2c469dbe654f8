//! Notices of what people do with what is kept: a queue, from which whoever writes the source takes them as records. Each is taken out
//! in the transaction that appends its record, so it becomes one record, once.

use bson::{Bson, DateTime, Document, doc};
use futures_util::TryStreamExt;
use mongodb::{ClientSession, Collection};

use super::{AuditLog, mongo_error};
use crate::deployment::durable;
use crate::error::{Error, Result};
use crate::fail_point::fail_point;
use crate::notice::{Notice, NoticeOf};
use crate::stream_id::StreamId;

pub(super) const COLLECTION: &str = "archiver.notices";
/// Notices that become records at once; the next ones wait for the next time.
const MOST_AT_ONCE: i64 = 500;

impl AuditLog {
    fn notices_collection(&self) -> Collection<Document> {
        self.database().collection(COLLECTION)
    }

    /// Gives notice of something about a source. When it returns, the notice is in the journals of a majority: it becomes a record as
    /// soon as somebody writes the source.
    pub async fn give_notice(&self, source: &str, of: NoticeOf, detail: Document) -> Result<Bson> {
        let at = self.server_time().await?;
        let notice = Notice::new(of, at, detail);
        let stored = doc! {
            "_id": {"source": source, "notice": &notice.id}, "op": of.op(), "at": at, "detail": notice.detail,
        };
        let given = self.notices_collection().insert_one(stored).write_concern(durable()).await;
        given.map_err(|e| mongo_error("giving notice of what is done", e))?;
        fail_point!("notice:given");
        Ok(notice.id)
    }

    /// The first notices about a source, oldest first, for the stream that records them.
    pub async fn notices(&self, stream: &StreamId) -> Result<Vec<Notice>> {
        if !records_notices(stream) {
            return Ok(Vec::new());
        }
        let failed = |e| mongo_error("reading notices", e);
        let notices = self.notices_collection();
        let found = notices.find(of(&stream.source)).sort(doc! {"_id": 1}).limit(MOST_AT_ONCE).await;
        let found: Vec<Document> = found.map_err(failed)?.try_collect().await.map_err(failed)?;
        let mut notices: Vec<Notice> = found.into_iter().filter_map(read).collect();
        // Ids of one second are in no order where several processes made them.
        notices.sort_by_key(|notice| notice.at);
        Ok(notices)
    }

    /// How many notices wait for the stream that records them.
    pub async fn count_notices(&self, stream: &StreamId) -> Result<u64> {
        if !records_notices(stream) {
            return Ok(0);
        }
        let counted = self.notices_collection().count_documents(of(&stream.source)).await;
        counted.map_err(|e| mongo_error("counting notices", e))
    }

    /// Takes notices out of the queue, in the session's transaction. Fails where one is not in it.
    pub(super) async fn take_notices(
        &self,
        session: &mut ClientSession,
        source: &str,
        notices: &[Bson],
    ) -> Result<()> {
        if notices.is_empty() {
            return Ok(());
        }
        let ids: Vec<Document> = notices.iter().map(|id| doc! {"source": source, "notice": id}).collect();
        let deleted =
            self.notices_collection().delete_many(doc! {"_id": {"$in": ids}}).session(session).await;
        let deleted = deleted.map_err(|e| mongo_error("taking notices out of the queue", e))?.deleted_count;
        match deleted == notices.len() as u64 {
            true => Ok(()),
            false => Err(Error::unavailable(format!("a notice was taken by another writer source={source}"))),
        }
    }

    /// Whoever is logged in at the audit database, as `user@database`; `None` without access control.
    pub async fn account(&self) -> Result<Option<String>> {
        let status = self.database().run_command(doc! {"connectionStatus": 1}).await;
        let status = status.map_err(|e| mongo_error("asking who is logged in", e))?;
        Ok(account_of(&status))
    }

    /// The audit server's clock.
    async fn server_time(&self) -> Result<DateTime> {
        let hello = self.database().run_command(doc! {"hello": 1}).await;
        let hello = hello.map_err(|e| mongo_error("asking the audit server for the time", e))?;
        hello
            .get_datetime("localTime")
            .copied()
            .map_err(|e| Error::unavailable("the audit server does not tell the time").because(e))
    }
}

/// The account in the answer to `connectionStatus`.
pub fn account_of(status: &Document) -> Option<String> {
    let users = status.get_document("authInfo").ok()?.get_array("authenticatedUsers").ok()?;
    let user = users.first()?.as_document()?;
    Some(format!("{}@{}", user.get_str("user").ok()?, user.get_str("db").ok()?))
}

/// Whoever may give notice can put anything there: whatever it is becomes a record.
fn read(stored: Document) -> Option<Notice> {
    let id = stored.get_document("_id").ok()?.get("notice")?.clone();
    let of = match stored.get_str("op") {
        Ok("recovery") => NoticeOf::Recovery,
        _ => NoticeOf::Access,
    };
    let at = stored.get_datetime("at").ok().copied();
    Some(Notice { id, of, at, detail: stored.get_document("detail").cloned().unwrap_or_default() })
}

/// One of a source's streams records what is noted of it.
fn records_notices(stream: &StreamId) -> bool {
    stream.partition.is_none_or(|partition| partition == 0)
}

/// Selects a source's notices, through the `_id` index.
fn of(source: &str) -> Document {
    let id = |notice: Bson| doc! {"source": source, "notice": notice};
    doc! {"_id": {"$gte": id(Bson::MinKey), "$lte": id(Bson::MaxKey)}}
}
