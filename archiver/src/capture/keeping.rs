//! Records of what is kept and what is not: legal holds, and history that has expired; and of what people do with it. Each is recorded
//! once: how far they are is in the checkpoint, which becomes durable with the records, and notices leave their queue with them.

use bson::{DateTime, Document, Timestamp, doc};
use bson_walker::{Doc, Writer};

use super::writer::{BatchWriter, own_record};
use crate::archive::retention::Removal;
use crate::archive::tombstone::DeletedBy;
use crate::audit_log::{Append, Holds};
use crate::error::{Error, Result};
use crate::hold::Event;
use crate::notice::Notice;
use crate::stream_id::StreamId;

/// What there is to record, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Keeping {
    /// All legal holds.
    pub holds: Holds,
    /// What has expired and was not recorded when this was looked up.
    pub removal: Option<Removal>,
    /// The first of the notices that had no records.
    pub notices: Vec<Notice>,
}

impl BatchWriter<'_> {
    /// Appends records of holds, removals and notices that have none yet.
    pub(super) async fn record_keeping(&mut self) -> Result<()> {
        let keeping = self.keeping.borrow_and_update().clone();
        let mut next = self.durable.clone();
        let time = next.position.cluster_time;
        let mut bodies = Vec::new();
        for event in events_of(&next.stream, &keeping.holds, next.holds_recorded) {
            bodies.push(body(time, &hold_detail(event))?);
        }
        next.holds_recorded = next.holds_recorded.max(keeping.holds.last);
        if let Some(removal) = keeping.removal.filter(|removal| removal.first_seq == next.expired_end) {
            bodies.push(body(time, &removal_detail(&removal))?);
            next.expired_end = removal.end_seq;
        }
        // Those that were looked up may have their records by now.
        let notices = match keeping.notices.is_empty() {
            true => Vec::new(),
            false => self.capture.log.notices(&next.stream).await?,
        };
        for notice in &notices {
            bodies.push(notice.body(time)?);
        }
        if bodies.is_empty() {
            // Holds of other sources: noted with the next batch.
            self.durable.holds_recorded = next.holds_recorded;
            return Ok(());
        }
        let records = bodies.iter().map(|body| own_record(body, &mut next)).collect::<Result<Vec<_>>>()?;
        let noticed = notices.into_iter().map(|notice| notice.id).collect();
        self.store(Append { records, noticed, ..Append::default() }, next).await
    }
}

/// What happened to holds that concern a stream, in order. One of a source's streams records them.
fn events_of<'a>(stream: &StreamId, holds: &'a Holds, after: i64) -> Vec<Event<'a>> {
    if stream.partition.is_some_and(|partition| partition != 0) {
        return Vec::new();
    }
    let concerns = |source: &Option<String>| source.as_ref().is_none_or(|source| *source == stream.source);
    let held = holds.list.iter().filter(|held| concerns(&held.hold.source));
    let mut events: Vec<_> = held.flat_map(|held| held.events(after)).collect();
    events.sort_by_key(|(number, _)| *number);
    events.into_iter().map(|(_, event)| event).collect()
}

fn hold_detail(event: Event<'_>) -> Document {
    let date = |time: jiff::Timestamp| DateTime::from_millis(time.as_millisecond());
    match event {
        Event::Added(hold) => {
            let mut detail = doc! {"id": hold.id};
            detail.extend(hold.source.as_ref().map(|source| ("source".to_owned(), source.into())));
            detail.extend(hold.from.map(|from| ("from".to_owned(), date(from).into())));
            detail.extend(hold.to.map(|to| ("to".to_owned(), date(to).into())));
            detail.extend(doc! {"reason": &hold.reason, "by": &hold.by, "at": date(hold.at)});
            doc! {"hold": detail}
        }
        Event::Released(release) => doc! {"holdReleased": {
            "id": release.id, "reason": &release.reason, "by": &release.by, "at": date(release.at),
        }},
    }
}

fn removal_detail(removal: &Removal) -> Document {
    doc! {"expired": {
        "firstSeq": removal.first_seq,
        "endSeq": removal.end_seq,
        "records": i64::try_from(removal.rows).unwrap_or(i64::MAX),
        "until": Timestamp { time: removal.removed_until.t, increment: removal.removed_until.i },
        "policy": &removal.policy,
        "deletedBy": match removal.deleted_by {
            DeletedBy::Archiver => "archiver",
            DeletedBy::Store => "store",
        },
        "tombstones": &removal.tombstones,
    }}
}

fn body(time: Timestamp, detail: &Document) -> Result<Vec<u8>> {
    let unusable = || Error::internal("a record of our own can't be encoded");
    let detail = bson::serialize_to_vec(detail).map_err(|e| unusable().because(e))?;
    Doc::new(&detail).map_err(|e| unusable().because(e))?;
    Ok(Writer::build(|writer| {
        writer.str("op", "policy");
        writer.timestamp("clusterTime", time.time, time.increment);
        writer.doc("detail", &detail);
    }))
}
