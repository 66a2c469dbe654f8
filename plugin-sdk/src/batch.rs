//! One batch of events through one plugin: what the exported `process-batch` does, also natively.

use bson_walker::Doc;

use crate::event::Event;
use crate::plugin::{Output, Plugin, Verdict};

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// One byte per event: 0 keep, 1 replace, 2 drop.
    pub verdicts: Vec<u8>,
    /// The replacements, concatenated.
    pub docs: Vec<u8>,
}

/// An event on which the plugin failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventError {
    /// Its place in the batch.
    pub index: u32,
    /// What is wrong, without values.
    pub message: String,
}

/// Processes concatenated BSON documents in order; the first failure fails the batch and names its event.
pub fn process<P: Plugin>(plugin: &P, events: &[u8]) -> Result<Batch, EventError> {
    let mut batch = Batch::default();
    let mut changes = Vec::new();
    let mut rest = events;
    while !rest.is_empty() {
        let index = batch.verdicts.len() as u32;
        let failed = |message: String| EventError { index, message };
        let (doc, after) = Doc::split(rest).map_err(|e| failed(e.to_string()))?;
        let mut out = Output::new(&mut batch.docs, &mut changes);
        let verdict = plugin.process(Event::new(doc), &mut out).map_err(failed)?;
        permit::<P>(verdict).map_err(failed)?;
        out.settle(verdict).map_err(failed)?;
        if verdict == Verdict::Replace && batch.docs.capacity() < after.len() / 2 {
            // One growth instead of many: most replacements are about as long as their events.
            batch.docs.reserve(after.len());
        }
        batch.verdicts.push(verdict as u8);
        rest = after;
    }
    Ok(batch)
}

fn permit<P: Plugin>(verdict: Verdict) -> Result<(), String> {
    match verdict {
        Verdict::Drop if !P::MAY_DROP => Err("the plugin dropped an event without declaring MAY_DROP".into()),
        Verdict::Replace if !P::MAY_MODIFY => {
            Err("the plugin replaced an event without declaring MAY_MODIFY".into())
        }
        _ => Ok(()),
    }
}
