//! One plugin in the chain: hands it events in bounded batches and, where it fails, finds out on which of them.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::check::{self, Grants, Verdict};
use super::host::Program;
use super::limits::Limits;
use super::outcome::{Failure, FailureCode};
use crate::config::Secret;

/// A loaded plugin with its configuration.
pub(super) struct Stage {
    pub(super) name: Arc<str>,
    pub(super) version: String,
    pub(super) sha256: Arc<str>,
    pub(super) config_sha256: String,
    pub(super) config: Secret,
    pub(super) grants: Grants,
    pub(super) program: Program,
}

impl Stage {
    /// One verdict per event, in order.
    pub(super) fn judge(&self, events: &[&[u8]]) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(events.len());
        let mut patience = self.program.limits().timeouts;
        for batch in batches(events, self.program.limits()) {
            verdicts.append(&mut self.settle(batch, &mut patience));
        }
        verdicts
    }

    pub(super) fn failure(&self, code: FailureCode) -> Failure {
        Failure { plugin: self.name.clone(), sha256: self.sha256.clone(), code }
    }

    /// Runs a batch, and its parts where it fails. With its patience spent, the plugin hangs on everything: what is
    /// left fails with it, closed and untried.
    fn settle(&self, events: &[&[u8]], patience: &mut usize) -> Vec<Verdict> {
        if *patience == 0 {
            return vec![Verdict::Fail(FailureCode::Timeout); events.len()];
        }
        match self.run(events) {
            Ok(verdicts) => verdicts,
            Err(code) => self.narrow(events, code, patience),
        }
    }

    /// Finds the guilty events of a batch that failed, in fresh instances. What the plugin itself says about the
    /// place (`event-error.index`) is not needed for it.
    fn narrow(&self, events: &[&[u8]], code: FailureCode, patience: &mut usize) -> Vec<Verdict> {
        if code == FailureCode::Timeout {
            *patience -= 1;
        }
        if events.len() == 1 {
            // A deadline can be missed because the machine was busy: such an event gets a second chance.
            let again = if by_circumstance(code) { self.run(events) } else { Err(code) };
            return again.unwrap_or_else(|code| vec![Verdict::Fail(code)]);
        }
        // Every half with a hanging event costs a whole deadline, every innocent event alone some microseconds.
        let part = if code == FailureCode::Timeout { 1 } else { events.len().div_ceil(2) };
        let verdicts: Vec<_> = events.chunks(part).flat_map(|part| self.settle(part, patience)).collect();
        let explained = by_size(code) || verdicts.iter().any(|v| matches!(v, Verdict::Fail(_)));
        // A plugin whose result depends on which events come together may have leaked one into another: none of
        // its results for this batch is used.
        if explained { verdicts } else { vec![Verdict::Fail(FailureCode::Unstable); events.len()] }
    }

    /// Runs one batch in one fresh instance.
    pub(super) fn run(&self, events: &[&[u8]]) -> Result<Vec<Verdict>, FailureCode> {
        let input = events.concat();
        let mut running = self.program.start(input.len()).map_err(|fault| fault.code)?;
        let configured = running.configure(self.config.expose()).map_err(|fault| fault.code)?;
        // It accepted this configuration when it was loaded.
        configured.map_err(|_| FailureCode::Unstable)?;
        let result = running.process_batch(&input).map_err(|fault| fault.code)?;
        let result = result.map_err(|_| FailureCode::Refused)?;
        check::verdicts(events, &result, self.grants)
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

/// Cuts events into batches within the limits; a single event larger than that is a batch of its own.
pub(super) fn batches<'a, 'e>(
    events: &'a [&'e [u8]],
    limits: &Limits,
) -> impl Iterator<Item = &'a [&'e [u8]]> {
    let (max_bytes, max_events) = (limits.batch_bytes, limits.batch_events);
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
