//! Renews what this process holds, in a task of its own. One write renews everything: all leases and the announcement.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{Bson, doc};
use futures_util::future::join_all;
use tracing::warn;

use super::instances::instance_id;
use super::term::Term;
use super::{Leases, too_slow};
use crate::error::Result;
use crate::stream_id::StreamId;

/// How often the same thing is said at most.
const REMINDER: Duration = Duration::from_secs(60);

impl Leases {
    /// Renews the leases and the announcement of this process for as long as it is polled. What could not be renewed ends by
    /// itself: see [`Lease::lost`](super::Lease::lost).
    pub async fn keep(&self) {
        let mut said: Option<Instant> = None;
        loop {
            let begun = Instant::now();
            // Three tries before a lease runs out, the last of them sooner after a failure.
            let pause = match self.renew_all().await {
                Ok(()) => self.0.time / 3,
                Err(error) => {
                    warn!(error = error.explain(), "the leases were not renewed; trying again");
                    self.0.time / 20
                }
            };
            tokio::time::sleep(pause).await;
            let late = begun.elapsed().saturating_sub(pause);
            if late > self.0.time / 4 && said.is_none_or(|said| said.elapsed() > REMINDER) {
                said = Some(Instant::now());
                warn!(
                    late_ms = late.as_millis() as u64,
                    lease_time_ms = self.0.time.as_millis() as u64,
                    "renewing the leases is nearly too late: raise lease_time, this machine or the audit database is too slow for it"
                );
            }
        }
    }

    async fn renew_all(&self) -> Result<()> {
        let terms = self.terms();
        let announced = self.announcement().is_some();
        let mut ids: Vec<Bson> = terms.iter().map(|(stream, _)| stream.to_string().into()).collect();
        if announced {
            ids.push(instance_id(&self.0.holder).into());
        }
        if ids.is_empty() {
            return Ok(());
        }
        let expected = ids.len() as u64;
        let asked = Instant::now();
        let longer = vec![doc! {"$set": {"expires": self.expiry()}}];
        let renewed = self
            .0
            .collection
            .update_many(doc! {"_id": {"$in": ids}, "holder": &self.0.holder}, longer)
            .into_future();
        // Short enough for more than one try.
        let renewed =
            match tokio::time::timeout(self.0.time / 4, self.within("renewing the leases", renewed)).await {
                Ok(renewed) => renewed?,
                Err(_) => return Err(too_slow("renewing the leases")),
            };
        if renewed.matched_count == expected {
            terms.iter().for_each(|(_, term)| term.extend(asked + self.0.time));
            return Ok(());
        }
        // One of them is another's now, or was given back meanwhile, or the announcement was removed as expired.
        let announcing = async {
            match announced {
                true => self.tell().await,
                false => Ok(()),
            }
        };
        let (renewed, announced) =
            tokio::join!(join_all(self.terms().into_iter().map(|(s, t)| self.renew(s, t))), announcing);
        renewed.into_iter().collect::<Result<()>>().and(announced)
    }

    /// Renews one lease; ends its term where another process has it.
    async fn renew(&self, stream: StreamId, term: Arc<Term>) -> Result<()> {
        let asked = Instant::now();
        let mine = doc! {"_id": stream.to_string(), "holder": &self.0.holder};
        let longer = vec![doc! {"$set": {"expires": self.expiry()}}];
        let renewed = self.0.collection.update_one(mine, longer).into_future();
        match self.within("renewing a lease", renewed).await?.matched_count {
            0 => term.take_away(),
            _ => term.extend(asked + self.0.time),
        }
        Ok(())
    }

    /// The leases that this process holds.
    fn terms(&self) -> Vec<(StreamId, Arc<Term>)> {
        let mut held = self.held();
        held.retain(|_, term| term.strong_count() > 0);
        held.iter().filter_map(|(stream, term)| Some((stream.clone(), term.upgrade()?))).collect()
    }
}
