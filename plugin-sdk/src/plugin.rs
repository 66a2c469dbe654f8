//! The trait a plugin implements, and the place where it puts what an event becomes.

use bson_walker::{Doc, Writer};

use crate::event::Event;

/// A plugin: made from its configuration once per batch, then asked about each event in order.
///
/// The host makes a fresh instance for every batch, so nothing that `process` remembers outlives the batch, and the
/// result may depend on nothing but the configuration and the event: there is no clock, network, file or randomness.
pub trait Plugin: Sized {
    /// The plugin's name, as the host shows it.
    const NAME: &'static str;
    /// Whether it may answer [`Verdict::Drop`].
    const MAY_DROP: bool = false;
    /// Whether it may answer [`Verdict::Replace`].
    const MAY_MODIFY: bool = true;
    /// A JSON Schema of the configuration, for people and tools; may stay empty.
    const CONFIG_SCHEMA: &'static str = "";

    /// Makes the plugin from its configuration: JSON text, `{}` where there is none. An error refuses the plugin at load.
    fn configure(config: &str) -> Result<Self, String>;

    /// Decides about one event. An error withholds the event (quarantine or halt, as configured); it is never
    /// let through. The message must not contain values.
    fn process(&self, event: Event<'_>, out: &mut Output<'_>) -> Result<Verdict, String>;
}

/// What becomes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stays as it is.
    Keep,
    /// The one document in [`Output`] takes its place.
    Replace,
    /// It is left out of the history, and counted.
    Drop,
}

/// Where a plugin writes the document that replaces an event.
#[derive(Debug)]
pub struct Output<'o> {
    pub(crate) docs: &'o mut Vec<u8>,
    /// Byte ranges of the event that were redacted; kept to spare an allocation per event.
    pub(crate) changes: &'o mut Vec<(usize, usize)>,
    pub(crate) start: usize,
}

impl<'o> Output<'o> {
    pub(crate) fn new(docs: &'o mut Vec<u8>, changes: &'o mut Vec<(usize, usize)>) -> Self {
        let start = docs.len();
        Output { docs, changes, start }
    }

    /// Writes the replacement field by field, in place of what was written before.
    pub fn write(&mut self, fill: impl FnOnce(&mut Writer<'_>)) -> Verdict {
        self.docs.truncate(self.start);
        let mut writer = Writer::begin(self.docs);
        fill(&mut writer);
        writer.end();
        Verdict::Replace
    }

    /// Takes a whole BSON document as the replacement, in place of what was written before.
    pub fn put(&mut self, document: &[u8]) -> Verdict {
        self.docs.truncate(self.start);
        self.docs.extend_from_slice(document);
        Verdict::Replace
    }

    /// Checks that the output fits the verdict, and undoes what a kept or dropped event left behind.
    pub(crate) fn settle(self, verdict: Verdict) -> Result<(), String> {
        match verdict {
            Verdict::Replace if Doc::new(&self.docs[self.start..]).is_err() => {
                Err("the plugin said replace, but did not write exactly one document".into())
            }
            Verdict::Replace => Ok(()),
            Verdict::Keep | Verdict::Drop => {
                self.docs.truncate(self.start);
                Ok(())
            }
        }
    }
}
