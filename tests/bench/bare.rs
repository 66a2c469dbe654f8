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

/// Drains as many events as there are records, from `start` on, and after each batch inserts the records that Archiver
/// made of it. One thing after the other: what one connection gives without any cleverness.
pub(crate) async fn drain_and_insert(
    client: &Client,
    start: Timestamp,
    database: &str,
    records: &[RawDocumentBuf],
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
    for records in records.chunks(BATCH) {
        while batch.len() < records.len() {
            if let Some(event) = stream.next_if_any().await? {
                begun.get_or_insert_with(Instant::now);
                batch.push(event);
            }
        }
        into.insert_many(records).await?;
        batch.clear();
    }
    Ok(begun.map_or(Duration::ZERO, |b| b.elapsed()))
}
