//! Whether a stored position is one of the deployment that is watched now, asked before anything is read from it.

use std::time::Duration;

use bson::Timestamp;
use mongodb::Client;
use tracing::info;

use crate::checkpoint::{Checkpoint, ServerVersion};
use crate::deployment::{operation_time, server};
use crate::error::{Error, Result};
use crate::fault::Fault;

/// How often, and how long between, a clock that is behind the checkpoint is asked again: a router that has just started
/// learns the time from the others.
const ATTEMPTS: usize = 4;
const INTERVAL: Duration = Duration::from_secs(1);

/// Notes in the checkpoint which deployment is watched now. Fails as history lost, with [`Fault::TokenInvalid`], where its
/// position can't be one of it; a stream opened from there would wait for ever, or start in the middle of another history.
pub(super) async fn identify(client: &Client, checkpoint: &mut Checkpoint) -> Result<()> {
    let now = server(client).await?;
    if let Some(before) = &checkpoint.server {
        if before.deployment.is_some() && now.deployment.is_some() && before.deployment != now.deployment {
            return Err(foreign(checkpoint, "the position is one of another deployment"));
        }
        if *before != now {
            info!(source = %checkpoint.stream, from = describe(before), to = describe(&now), "the deployment has changed");
        }
    }
    let position = checkpoint.position.cluster_time;
    if reaches(client, position).await? {
        checkpoint.server = Some(now);
        return Ok(());
    }
    Err(foreign(checkpoint, "the position is ahead of the deployment's clock"))
}

async fn reaches(client: &Client, position: Timestamp) -> Result<bool> {
    for attempt in 1.. {
        if operation_time(&client.database("admin")).await? >= position {
            return Ok(true);
        }
        if attempt == ATTEMPTS {
            break;
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(false)
}

fn foreign(checkpoint: &Checkpoint, what: &str) -> Error {
    let Timestamp { time, increment } = checkpoint.position.cluster_time;
    Error::history_lost(format!("{what} source={} position={time}:{increment}", checkpoint.stream))
        .with_fault(Fault::TokenInvalid)
        .hint(
            "was [mongodb] uri changed, or the watched deployment restored from a backup? What it held since then is another \
             history: give it a source of a new name, and keep this one's records; see docs/operating.md",
        )
}

fn describe(server: &ServerVersion) -> String {
    format!("{} (feature compatibility {})", server.version, server.feature.as_deref().unwrap_or("unknown"))
}
