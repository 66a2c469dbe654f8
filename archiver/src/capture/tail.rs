//! A look at a source's stream from the present on, as its plugins would get it. Writes nothing and holds no lease.

use tokio_util::sync::CancellationToken;

use super::namespaces::archivers_databases;
use super::stream::StreamOptions;
use super::watcher::{Read, Start, Watcher};
use crate::config::{Config, SourceConfig};
use crate::deployment::{connect, operation_time};
use crate::error::{Error, Result};
use crate::event::Position;

/// Hands the next `count` events of the source to `each`, until that fails. `ready` is called once the stream stands at the present:
/// whatever is written from then on comes.
pub async fn tail(
    config: &Config,
    source: &SourceConfig,
    count: usize,
    ready: impl FnOnce() -> Result<()>,
    mut each: impl FnMut(Vec<u8>) -> Result<()>,
) -> Result<()> {
    let client = connect(&config.mongodb_uri).await?;
    let cluster_time = operation_time(&client.database("admin")).await?;
    let options = StreamOptions::new(&source.watch, &config.audit_database);
    let options = options.probed(&client).await?.with_context(source);
    let left_out = archivers_databases(&client, &source.watch, &config.audit_database).await?;
    let stop = CancellationToken::new();
    let _stop_reading = stop.clone().drop_guard();
    let watcher = Watcher {
        source: source.name.clone(),
        client,
        options,
        audit_database: config.audit_database.clone(),
        left_out,
        limits: config.capture,
        enable_images: Vec::new(),
    };
    let mut events = watcher.start(Start::After(Position { token: None, cluster_time }), stop);
    ready()?;
    let mut left = count;
    while left > 0 {
        match events.recv().await {
            Some(Ok(Read::Event(event, _))) => {
                each(event.body)?;
                left -= 1;
            }
            Some(Ok(Read::Quiet(_))) => {}
            Some(Err(error)) => return Err(error),
            None => return Err(Error::internal("the change stream ended without a reason")),
        }
    }
    Ok(())
}
