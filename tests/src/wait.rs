//! Waiting for conditions: no test sleeps for a while and hopes.

use std::fmt::Display;
use std::future::Future;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `condition` gives a value, and panics with `what` when it does not within `timeout`.
pub async fn wait_until<T, F, R>(what: impl Display, timeout: Duration, mut condition: F) -> T
where
    F: FnMut() -> R,
    R: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < timeout, "waited {timeout:?} in vain for: {what}");
        tokio::time::sleep(INTERVAL).await;
    }
}
