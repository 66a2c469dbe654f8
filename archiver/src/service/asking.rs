//! Asks archivers for something: those that run, through the audit database; where nobody holds a stream's lease, this process
//! does the work itself, under the lease.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Service, load_plugins};
use crate::archive::roll::check_continues;
use crate::capture::keeping::Keeping;
use crate::capture::lease::{Answer, Ask, Lease, Reloaded, Request, Seqs};
use crate::capture::retry::{Retry, Tried};
use crate::capture::{Capture, check_partitions};
use crate::config::{Config, SourceConfig};
use crate::error::{Error, Result};
use crate::fault::Fault;
use crate::stream_id::StreamId;

/// How often an answer is looked for.
const POLL: Duration = Duration::from_millis(200);
/// How often a request is renewed, and a lease asked for.
const RENEW: Duration = Duration::from_secs(2);
/// How long nothing may come from those who were asked.
const PATIENCE: Duration = Duration::from_secs(60);

/// What became of one stream's withheld events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamTried {
    /// The source's name.
    pub source: String,
    /// The partition, where the source has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// What became of them.
    #[serde(flatten)]
    pub tried: Tried,
}

/// Has withheld events tried again, stream by stream. `progress` is called with how far a stream is.
pub async fn retry(
    config: &Config,
    source: Option<&str>,
    seqs: Seqs,
    mut progress: impl FnMut(&StreamId, &Tried),
) -> Result<Vec<StreamTried>> {
    let service = Arc::new(Service::connect(config.clone(), CancellationToken::new()).await?);
    let mut beside = JoinSet::new();
    let leases = service.leases.clone();
    beside.spawn(async move { leases.keep().await });
    let sources: Vec<&SourceConfig> = match source {
        Some(name) => vec![config.source(name)?],
        None => config.sources.iter().collect(),
    };
    let mut all = Vec::new();
    for source in sources {
        for stream in service.log.streams_of(&source.name).await? {
            if seqs.is_none() && service.log.count_withheld(&stream).await? == 0 {
                continue;
            }
            let tried = service.have_tried(source, &stream, seqs.clone(), &mut progress).await?;
            let StreamId { source, partition } = stream;
            all.push(StreamTried { source, partition, tried });
        }
    }
    Ok(all)
}

/// Has every living archiver read its configuration again: how it went, by holder.
///
/// Fails as not found where none lives, and as unavailable where one does not answer.
pub async fn reload(config: &Config) -> Result<BTreeMap<String, Reloaded>> {
    let service = Service::connect(config.clone(), CancellationToken::new()).await?;
    let leases = &service.leases;
    let request = leases.ask(Ask::Reload).await?;
    let asked = Instant::now();
    let answers = loop {
        let answers = leases.reloaded(&request).await;
        let open = |answers: &BTreeMap<_, Option<Reloaded>>| answers.values().any(Option::is_none);
        if answers.as_ref().map_or(true, |a| !open(a)) || asked.elapsed() > PATIENCE {
            break answers;
        }
        leases.insist(&request).await?;
        tokio::time::sleep(POLL).await;
    };
    leases.withdraw(&request).await?;
    let answers = answers?;
    if answers.is_empty() {
        return Err(Error::not_found("no archiver runs on this audit database")
            .hint("there is nothing to reload: the next start reads the configuration"));
    }
    let silent: Vec<&str> = answers.iter().filter(|(_, a)| a.is_none()).map(|(h, _)| h.as_str()).collect();
    match silent.is_empty() {
        true => Ok(answers.into_iter().filter_map(|(holder, answer)| Some((holder, answer?))).collect()),
        false => {
            Err(Error::unavailable(format!("an archiver does not answer instance={}", silent.join(",")))
                .hint("its log says what it does; all others have read their configurations again"))
        }
    }
}

fn silent(stream: &StreamId) -> Error {
    Error::unavailable(format!("whoever holds the lease does not answer source={stream}"))
        .hint("`archiver status` shows who it is; a `run --once` does not listen: wait for its end")
}

impl Service {
    /// Asks whoever holds the stream's lease, or holds it and does the work.
    async fn have_tried(
        &self,
        source: &SourceConfig,
        stream: &StreamId,
        seqs: Seqs,
        progress: &mut impl FnMut(&StreamId, &Tried),
    ) -> Result<Tried> {
        let request = self.leases.ask(Ask::Retry(stream.clone(), seqs.clone())).await?;
        let retry = Retry { request: request.id.clone(), seqs };
        let tried = self.wait(source, stream, &request, &retry, progress).await;
        if let Err(error) = self.leases.withdraw(&request).await {
            warn!(error = error.explain(), "the request was not taken back; it expires by itself");
        }
        tried
    }

    async fn wait(
        &self,
        source: &SourceConfig,
        stream: &StreamId,
        request: &Request,
        retry: &Retry,
        progress: &mut impl FnMut(&StreamId, &Tried),
    ) -> Result<Tried> {
        let mut own: Option<JoinHandle<Result<()>>> = None;
        let (mut last, mut heard, mut renewed) = (None, Instant::now(), None::<Instant>);
        let mut interrupted = None;
        loop {
            if own.as_ref().is_some_and(JoinHandle::is_finished)
                && let Some(ended) = own.take()
            {
                let ended = ended.await.map_err(|e| Error::internal("trying again panicked").because(e))?;
                match ended {
                    Ok(()) => {}
                    // A missing privilege, too: no wait grants it.
                    Err(e) if e.kind().needs_a_human() || e.fault() == Some(Fault::NeedsHuman) => {
                        return Err(e);
                    }
                    // What was released is; whoever has the lease next, perhaps this process, goes on with the rest.
                    Err(e) => {
                        warn!(source = %stream, error = e.explain(), "trying again was interrupted, and goes on");
                        interrupted = Some(e);
                    }
                }
            }
            let answer: Option<Answer<Tried>> = self.leases.answered(request).await?;
            if answer != last {
                (heard, interrupted) = (Instant::now(), None);
            }
            if let Some(Answer { so_far, done, failed }) = &answer {
                progress(stream, so_far);
                match failed {
                    Some(failed) => return Err(failed.clone().into_error()),
                    // Under a lease of its own, once that is given back.
                    None if *done && own.is_none() => return Ok(so_far.clone()),
                    None => {}
                }
            }
            last = answer;
            // Behind the look at the answer: what this process has just ended it would else begin again.
            if renewed.is_none_or(|at| at.elapsed() > RENEW) {
                self.leases.insist(request).await?;
                renewed = Some(Instant::now());
                if own.is_none()
                    && let Some(lease) = self.leases.acquire(stream).await?
                {
                    own = Some(self.work(source, stream, lease, retry.clone()).await?);
                }
            }
            if own.is_none() && heard.elapsed() > PATIENCE {
                return Err(interrupted.unwrap_or_else(|| silent(stream)));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Starts to try again under a lease of this process, which is given back at the end.
    async fn work(
        &self,
        source: &SourceConfig,
        stream: &StreamId,
        lease: Lease,
        retry: Retry,
    ) -> Result<JoinHandle<Result<()>>> {
        info!(source = %stream, "nobody writes this source: trying again under its lease");
        let plugins = load_plugins(&self.config, source);
        let (log, archive, stream) = (self.log.clone(), self.archive.clone(), stream.clone());
        let (source, client, limits) = (source.clone(), self.client.clone(), self.config.capture);
        Ok(tokio::spawn(async move {
            let work = async {
                check_partitions(&log, &source).await?;
                log.prepare(&source.name).await?;
                if let Some(last) = archive.last_manifest(&stream).await? {
                    check_continues(&stream, &log, &last).await?;
                }
                let (_, plugins) = watch::channel(plugins?);
                let (_, retries) = watch::channel(None);
                let (_, keeping) = watch::channel(Keeping::default());
                let capture = Capture {
                    stream: stream.clone(),
                    source,
                    limits,
                    client,
                    log,
                    archive,
                    plugins,
                    retries,
                    keeping,
                    lease: lease.clone(),
                    headroom: Arc::default(),
                    appended_bytes: Arc::new(AtomicU64::new(0)),
                    stop: CancellationToken::new(),
                };
                capture.retry(retry).await
            };
            let ended = tokio::select! {
                done = work => done,
                lost = lease.lost() => Err(lost),
            };
            lease.release(None, ended.is_ok()).await?;
            ended
        }))
    }
}
