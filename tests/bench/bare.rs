//! The limit to compare with: a bare driver program that drains a change stream and inserts ready-made bytes.

use std::time::{Duration, Instant};

use anyhow::Result;
use bson::{RawDocumentBuf, Timestamp};
use mongodb::Client;
use mongodb::options::{
    Acknowledgment, CollectionOptions, FullDocumentBeforeChangeType, FullDocumentType, WriteConcern,
};

/// Events in one batch: what `archiver` takes by default.
pub(crate) const BATCH: usize = 1_000;

/// How many of the records are kept to be inserted, again and again under new seqs: a million would fill the memory.
pub(crate) const SAMPLE: usize = 50_000;

/// Drains so many events, from `start` on, and after each batch inserts records that Archiver made of such. One thing after the other: what one connection gives without any cleverness.
pub(crate) async fn drain_and_insert(
    client: &Client,
    start: Timestamp,
    database: &str,
    records: &[RawDocumentBuf],
    events: usize,
) -> Result<Duration> {
    let majority = WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build();
    let options = CollectionOptions::builder().write_concern(majority).build();
    let into = client.database("bare").collection_with_options::<RawDocumentBuf>("records", options);
    into.drop().await?;
    client.database("bare").create_collection("records").await?;
    let mut stream = client
        .database(database)
        .watch()
        .start_at_operation_time(start)
        .full_document(FullDocumentType::WhenAvailable)
        .full_document_before_change(FullDocumentBeforeChangeType::WhenAvailable)
        .show_expanded_events(true)
        .batch_size(BATCH as u32)
        .await?
        .with_type::<RawDocumentBuf>();
    let mut batch = Vec::with_capacity(BATCH);
    let mut begun = None;
    let mut preparing = Duration::ZERO;
    for first in (0..events).step_by(BATCH) {
        let started = Instant::now();
        let records: Vec<_> = (first..events.min(first + BATCH))
            .map(|n| numbered(&records[n % records.len()], n as i64))
            .collect();
        if begun.is_some() {
            preparing += started.elapsed();
        }
        while batch.len() < records.len() {
            if let Some(event) = stream.next_if_any().await? {
                begun.get_or_insert_with(Instant::now);
                batch.push(event);
            }
        }
        into.insert_many(records).await?;
        batch.clear();
    }
    Ok(begun.map_or(Duration::ZERO, |b| b.elapsed() - preparing))
}

/// The record with another seq: its first field, eight bytes behind length, type and name.
fn numbered(record: &RawDocumentBuf, seq: i64) -> RawDocumentBuf {
    const AT: std::ops::Range<usize> = 9..17;
    let mut bytes = record.as_bytes().to_vec();
    bytes[AT].copy_from_slice(&seq.to_le_bytes());
    RawDocumentBuf::from_bytes(bytes).expect("only a number has changed")
}
