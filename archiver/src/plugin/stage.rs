//! One plugin in the chain: hands it events in bounded batches and, where it fails, finds out on which of them.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::check::{self, Failed, Grants, Verdict};
use super::host::Program;
use super::outcome::{Failure, FailureCode};
use super::sandbox::Fault;
use super::words::{Line, Literals, pass_on};
use crate::config::Secret;

/// A loaded plugin with its configuration.
pub(super) struct Stage {
    pub(super) name: Arc<str>,
    pub(super) version: String,
    pub(super) sha256: Arc<str>,
    pub(super) config_sha256: String,
    /// Which contract it was built for.
    pub(super) contract: String,
    pub(super) config: Secret,
    pub(super) grants: Grants,
    pub(super) program: Program,
    pub(super) literals: Literals,
}

/// What a run gave.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) verdicts: Vec<Verdict>,
    /// As the plugin said it: it may quote events.
    pub(super) said: Vec<Line>,
}

impl Stage {
    /// One verdict per event, in order.
    pub(super) fn judge(&self, events: &[&[u8]]) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(events.len());
        let limits = self.program.limits();
        let mut patience = limits.timeouts;
        for batch in batches(events, limits.batch_bytes, limits.batch_events) {
            verdicts.append(&mut self.settle(batch, &mut patience));
        }
        verdicts
    }

    pub(super) fn failure(&self, failed: Failed) -> Failure {
        let Failed { code, words } = failed;
        Failure { plugin: self.name.clone(), sha256: self.sha256.clone(), code, words }
    }

    /// Runs a batch, and its parts where it fails. With its patience spent, the plugin hangs on everything: what is
    /// left fails with it, closed and untried.
    fn settle(&self, events: &[&[u8]], patience: &mut usize) -> Vec<Verdict> {
        if *patience == 0 {
            return vec![Verdict::Fail(FailureCode::Timeout.into()); events.len()];
        }
        match self.run(events) {
            Ok(ran) => self.heard(ran),
            Err(fault) => self.narrow(events, fault, patience),
        }
    }

    /// Finds the guilty events of a batch that failed, in fresh instances. What the plugin itself says about the
    /// place (`event-error.index`) is not needed for it.
    fn narrow(&self, events: &[&[u8]], fault: Fault, patience: &mut usize) -> Vec<Verdict> {
        let code = fault.code;
        if code == FailureCode::Timeout {
            *patience -= 1;
        }
        if events.len() == 1 {
            // A deadline can be missed because the machine was busy: such an event gets a second chance.
            let again = if by_circumstance(code) { self.run(events) } else { Err(fault) };
            return match again {
                Ok(ran) => self.heard(ran),
                Err(fault) => vec![Verdict::Fail(self.failed(fault))],
            };
        }
        // Every half with a hanging event costs a whole deadline, every innocent event alone some microseconds.
        let part = if code == FailureCode::Timeout { 1 } else { events.len().div_ceil(2) };
        let verdicts: Vec<_> = events.chunks(part).flat_map(|part| self.settle(part, patience)).collect();
        let explained = by_size(code) || verdicts.iter().any(|v| matches!(v, Verdict::Fail(_)));
        // A plugin whose result depends on which events come together may have leaked one into another: none of
        // its results for this batch is used.
        if explained { verdicts } else { vec![Verdict::Fail(FailureCode::Unstable.into()); events.len()] }
    }

    /// The verdicts of a run whose words are passed on. Those of a run that is repeated in parts would be said again.
    fn heard(&self, ran: Ran) -> Vec<Verdict> {
        for Line { level, said } in ran.said {
            pass_on(&self.name, level, &self.literals.shown(&said));
        }
        ran.verdicts
    }

    /// What a fault may be told as, once there are events.
    fn failed(&self, fault: Fault) -> Failed {
        let words = fault
            .said
            .map(|said| self.literals.shown(&said))
            .filter(|words| !words.is_empty() && words != "…");
        Failed { code: fault.code, words: words.map(Arc::from) }
    }

    /// Runs one batch in one fresh instance, handed over in parts.
    pub(super) fn run(&self, events: &[&[u8]]) -> Result<Ran, Fault> {
        let limits = self.program.limits();
        let bytes = events.iter().map(|event| event.len()).sum();
        let mut running = self.program.start(bytes)?;
        // It accepted this configuration when it was loaded.
        let unstable = |said| Fault { said: Some(said), ..Fault::new(FailureCode::Unstable, "") };
        running.configure(self.config.expose())?.map_err(unstable)?;
        let refused = |said| Fault { said: Some(said), ..Fault::new(FailureCode::Refused, "") };
        let mut verdicts = Vec::with_capacity(events.len());
        let mut input = Vec::with_capacity(limits.call_bytes.min(bytes));
        // The self-test runs nothing at all, too.
        let nothing = events.is_empty().then_some(events);
        for part in batches(events, limits.call_bytes, usize::MAX).chain(nothing) {
            input.clear();
            part.iter().for_each(|event| input.extend_from_slice(event));
            let result = running.process_batch(&input)?.map_err(|error| refused(error.message))?;
            let judged = check::verdicts(part, &result, self.grants).map_err(|code| Fault::new(code, ""))?;
            verdicts.extend(judged);
        }
        Ok(Ran { verdicts, said: running.take_said() })
    }
}

/// Whether the same run may well succeed another time.
fn by_circumstance(code: FailureCode) -> bool {
    matches!(code, FailureCode::Timeout | FailureCode::Sandbox)
}

/// Whether a batch may fail like this only because it is larger than its parts.
fn by_size(code: FailureCode) -> bool {
    by_circumstance(code) || code == FailureCode::Memory
}

/// Cuts events into batches within these limits; a single event larger than that is a batch of its own.
pub(super) fn batches<'a, 'e>(
    events: &'a [&'e [u8]],
    max_bytes: usize,
    max_events: usize,
) -> impl Iterator<Item = &'a [&'e [u8]]> {
    let mut rest = events;
    std::iter::from_fn(move || {
        let fitting = rest.iter().take(max_events).try_fold((0, 0), |(count, bytes), event| {
            let bytes = bytes + event.len();
            if count > 0 && bytes > max_bytes {
                ControlFlow::Break(count)
            } else {
                ControlFlow::Continue((count + 1, bytes))
            }
        });
        let count = match fitting {
            ControlFlow::Break(count) | ControlFlow::Continue((count, _)) => count,
        };
        let (batch, after) = rest.split_at(count);
        rest = after;
        (count > 0).then_some(batch)
    })
}
