//! The stored form of a checkpoint: one document in `archiver.checkpoints`, named after its stream.

use bson::{Bson, DateTime, Document, doc};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::event::Position;
use crate::stream_id::StreamId;

pub(super) fn encode(checkpoint: &Checkpoint) -> Result<Document> {
    let bad = |e| Error::internal("a checkpoint can't be encoded").because(e);
    let mut stored = doc! {
        "_id": checkpoint.stream.to_string(),
        "epoch": checkpoint.epoch,
        "nextSeq": checkpoint.next_seq,
        "clusterTime": checkpoint.position.cluster_time,
        "policy": checkpoint.policy,
        "policyDigest": &checkpoint.policy_digest,
        "options": &checkpoint.options,
        "watch": &checkpoint.watch,
        "counters": bson::serialize_to_bson(&checkpoint.counters).map_err(bad)?,
        "updated": DateTime::now(),
    };
    if checkpoint.stream.partition.is_some() {
        stored.insert("partitions", checkpoint.partitions as i32);
    }
    if let Some(token) = &checkpoint.position.token {
        let token: Document = bson::deserialize_from_slice(token).map_err(bad)?;
        stored.insert("token", token);
    }
    if let Some(snapshot) = &checkpoint.snapshot {
        stored.insert("snapshot", bson::serialize_to_bson(snapshot).map_err(bad)?);
    }
    if !checkpoint.resyncs.is_empty() {
        stored.insert("resyncs", bson::serialize_to_bson(&checkpoint.resyncs).map_err(bad)?);
    }
    if let Some(server) = &checkpoint.server {
        stored.insert("server", bson::serialize_to_bson(server).map_err(bad)?);
    }
    if let Some(salt) = &checkpoint.salt {
        stored.insert("salt", bson::serialize_to_bson(salt).map_err(bad)?);
    }
    if !checkpoint.failures.is_empty() {
        stored.insert("recentFailures", bson::serialize_to_bson(&checkpoint.failures).map_err(bad)?);
    }
    if let Some(retried) = &checkpoint.retried {
        stored.insert("retried", bson::serialize_to_bson(retried).map_err(bad)?);
    }
    if checkpoint.expired_end > 1 {
        stored.insert("expiredEnd", checkpoint.expired_end);
    }
    if checkpoint.holds_recorded > 0 {
        stored.insert("holdsRecorded", checkpoint.holds_recorded);
    }
    if let Some(context) = &checkpoint.context {
        stored.insert("context", bson::serialize_to_bson(context).map_err(bad)?);
    }
    Ok(stored)
}

pub(super) fn decode(stored: &Document) -> Result<Checkpoint> {
    decode_fields(stored).map_err(|e| {
        let source = stored.get_str("_id").unwrap_or("?");
        Error::corrupt(format!("the stored checkpoint can't be read source={source}")).because(e)
    })
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

fn decode_fields(stored: &Document) -> std::result::Result<Checkpoint, Cause> {
    let token = match stored.get("token") {
        Some(Bson::Document(token)) => Some(bson::serialize_to_vec(token)?),
        _ => None,
    };
    let snapshot = optional(stored, "snapshot")?;
    Ok(Checkpoint {
        stream: StreamId::parse(stored.get_str("_id")?).ok_or("its name is no stream's")?,
        partitions: optional(stored, "partitions")?.unwrap_or(1),
        epoch: stored.get_i64("epoch")?,
        next_seq: stored.get_i64("nextSeq")?,
        position: Position { token, cluster_time: stored.get_timestamp("clusterTime")? },
        snapshot,
        resyncs: optional(stored, "resyncs")?.unwrap_or_default(),
        policy: stored.get_i64("policy")?,
        policy_digest: stored.get_str("policyDigest")?.to_owned(),
        options: stored.get_str("options")?.to_owned(),
        watch: optional(stored, "watch")?.unwrap_or_default(),
        server: optional(stored, "server")?,
        context: optional(stored, "context")?,
        salt: optional(stored, "salt")?,
        failures: optional(stored, "recentFailures")?.unwrap_or_default(),
        retried: optional(stored, "retried")?,
        expired_end: optional(stored, "expiredEnd")?.unwrap_or(1),
        holds_recorded: optional(stored, "holdsRecorded")?.unwrap_or_default(),
        counters: bson::deserialize_from_bson(stored.get("counters").cloned().unwrap_or_default())?,
    })
}

fn optional<T: serde::de::DeserializeOwned>(
    stored: &Document,
    field: &str,
) -> std::result::Result<Option<T>, bson::error::Error> {
    stored.get(field).cloned().map(bson::deserialize_from_bson).transpose()
}
