//! The plugin chain: every event passes through the source's plugins in order, and none gets past a failing one.
//!
//! Invariants: a plugin sees bytes and returns bytes, in an instance that lives for one batch; whatever it does, the
//! host goes on, and an event it failed on has no body any more. Of what a plugin says about an event, errors and the
//! log show only words that stand in its own file; only the author's [`workbench`] shows all of it. Does not know MongoDB.

mod check;
mod contract;
mod explain;
mod host;
mod limits;
mod load;
mod outcome;
mod sandbox;
mod self_test;
mod stage;
#[cfg(test)]
mod tests;
mod words;
pub mod workbench;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bson_walker::Writer;
use sha2::{Digest, Sha256};

pub use outcome::{Failure, FailureCode, Outcome};

use crate::checkpoint::PluginCounters;
use crate::config::PluginConfig;
use crate::error::Result;
use crate::event::mark_redacted;
use crate::record::hex;
use check::Verdict;
use contract::CONTRACT;
use limits::Limits;
use stage::Stage;

/// The plugins of one source, loaded and ready. All its functions block: call it on a worker thread with at least
/// 1 MiB of stack. Calls from several threads take turns.
pub struct PluginChain {
    stages: Vec<Stage>,
    digest: String,
    /// The engine's pool is made for one running instance.
    turn: Mutex<()>,
}

impl PluginChain {
    /// Loads the plugins in this order; none is an empty chain, which keeps every event as it is. Each file is read once, here, and never again.
    ///
    /// Without `development`, every plugin must be pinned. Fails with kind `Plugin` where a file is missing, not the pinned one, not
    /// a plugin, imports anything but the host's interface, declares more than it is allowed, does not accept its configuration,
    /// or fails its self-test. Touches nothing but the files, so a chain can be loaded while another one works.
    pub fn load(plugins: &[&PluginConfig], development: bool) -> Result<PluginChain> {
        let chain = PluginChain::load_within(plugins, development, Limits::default())?;
        for (stage, plugin) in chain.stages.iter().zip(plugins) {
            self_test::check(stage, plugin)?;
        }
        Ok(chain)
    }

    /// Loads without self-tests.
    fn load_within(plugins: &[&PluginConfig], development: bool, limits: Limits) -> Result<PluginChain> {
        let mut stages = Vec::with_capacity(plugins.len());
        if !plugins.is_empty() {
            let engine = sandbox::engine(&limits)?;
            for plugin in plugins {
                stages.push(load::load(plugin, development, &engine, limits)?);
            }
        }
        let digest = digest(&stages);
        Ok(PluginChain { stages, digest, turn: Mutex::new(()) })
    }

    /// The hex SHA-256 over the plugins' names, files and configurations, in order: the same chain, the same digest.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What a policy record says about this chain, as BSON:
    /// `{plugins: [{name, version, sha256, config_sha256, contract, may_drop}], contract, marks_redacted}`.
    pub fn policy(&self) -> Vec<u8> {
        Writer::build(|policy| {
            let mut plugins = policy.begin_array(b"plugins");
            for (i, stage) in self.stages.iter().enumerate() {
                let mut plugin = plugins.begin_doc(i.to_string().as_bytes());
                plugin.str("name", &stage.name);
                plugin.str("version", &stage.version);
                plugin.str("sha256", &stage.sha256);
                plugin.str("config_sha256", &stage.config_sha256);
                plugin.str("contract", &stage.contract);
                plugin.bool("may_drop", stage.grants.drop);
                plugin.end();
            }
            plugins.end();
            policy.str("contract", CONTRACT);
            policy.bool("marks_redacted", true);
        })
    }

    /// Passes events through the plugins: one outcome per body, in order.
    ///
    /// What the plugins have changed is marked: it has `detail.redacted`, which is `true`.
    ///
    /// Every body must be one valid BSON document with the fields of [`FIELDS`](crate::event::FIELDS). An event on
    /// which a plugin fails has failed; those around it go on. Where a plugin fails on a batch but on none of its
    /// parts, its results depend on which events come together: then the whole batch has failed, as `unstable`. A
    /// plugin that keeps missing deadlines is given up on for this call, and what it has not seen has failed as `timeout`.
    pub fn process(&self, bodies: Vec<Vec<u8>>) -> Vec<Outcome> {
        self.process_counting(bodies).0
    }

    /// The same, with what each plugin did, by its name. A plugin counts the events that it saw or was to see.
    pub fn process_counting(&self, bodies: Vec<Vec<u8>>) -> (Vec<Outcome>, BTreeMap<String, PluginCounters>) {
        let mut events: Vec<_> = bodies.into_iter().map(Passing::new).collect();
        // The lock guards no data, so a panic while it was held leaves nothing half done.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counters = BTreeMap::new();
        for stage in &self.stages {
            counters.insert(stage.name.to_string(), pass(stage, &mut events));
        }
        (events.into_iter().map(Passing::outcome).collect(), counters)
    }
}

/// An event on its way through the plugins.
struct Passing {
    outcome: Outcome,
    /// Whether a plugin has changed it.
    is_changed: bool,
}

impl Passing {
    fn new(body: Vec<u8>) -> Passing {
        Passing { outcome: Outcome::Keep(body), is_changed: false }
    }

    fn body(&self) -> Option<&[u8]> {
        match &self.outcome {
            Outcome::Keep(body) => Some(body),
            _ => None,
        }
    }

    fn outcome(self) -> Outcome {
        match self.outcome {
            Outcome::Keep(body) if self.is_changed => Outcome::Keep(mark_redacted(body)),
            outcome => outcome,
        }
    }
}

/// Passes the events that are still kept through one plugin, and counts.
fn pass(stage: &Stage, passing: &mut [Passing]) -> PluginCounters {
    let events: Vec<&[u8]> = passing.iter().filter_map(Passing::body).collect();
    let began = Instant::now();
    let mut verdicts = stage.judge(&events).into_iter();
    let micros = i64::try_from(began.elapsed().as_micros()).unwrap_or(i64::MAX);
    let mut counters = PluginCounters { micros, ..PluginCounters::default() };
    for event in passing.iter_mut().filter(|event| event.body().is_some()) {
        // There is one for each. Were there not, nothing would get past it.
        match verdicts.next().unwrap_or(Verdict::Fail(FailureCode::InvalidOutput.into())) {
            Verdict::Keep => counters.kept += 1,
            Verdict::Replace(body) => {
                counters.replaced += 1;
                event.is_changed |= event.body() != Some(&body);
                event.outcome = Outcome::Keep(body);
            }
            Verdict::Drop => {
                counters.dropped += 1;
                event.outcome = Outcome::Dropped { plugin: stage.name.clone() };
            }
            Verdict::Fail(failed) => {
                counters.failed += 1;
                event.outcome = Outcome::Failed(stage.failure(failed));
            }
        }
    }
    counters
}

fn digest(stages: &[Stage]) -> String {
    let mut hash = Sha256::new();
    for stage in stages {
        for part in [&*stage.name, &*stage.sha256, &stage.config_sha256] {
            // The zero byte ends each part, so no two chains read the same.
            hash.update(part);
            hash.update([0]);
        }
    }
    hex(&hash.finalize().into())
}

impl fmt::Debug for PluginChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.stages.iter().map(|stage| &*stage.name).collect();
        f.debug_struct("PluginChain").field("plugins", &names).field("digest", &self.digest).finish()
    }
}
