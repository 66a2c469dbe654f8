//! Every bound that the host sets on a plugin, each with its reason.

use std::time::Duration;

const MIB: usize = 1 << 20;

/// How often the engine's clock ticks; deadlines are counted in ticks. A tick costs one atomic addition, and a
/// deadline that is 10 ms late does no harm.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// The size of a plugin's file at most. The largest one measured, with a full regex engine, has 1 MB.
pub(super) const MAX_FILE_BYTES: u64 = 64 << 20;

/// Levels of nesting in an event at most. MongoDB stores documents of up to 180 levels, an event adds two, and BSON
/// above 200 levels could not be written to the audit log.
pub(super) const MAX_DEPTH: usize = 190;

/// Bytes of a document that MongoDB stores at most. A plugin may make documents longer, but not longer than that.
pub(super) const MAX_DOCUMENT: usize = 16 * MIB;

/// How much of a plugin's own words is shown, in bytes.
pub(super) const MAX_WORDS: usize = 256;

/// How much of one thing that a plugin says is looked at, in bytes.
pub(super) const MAX_SAID: usize = 1024;

/// How much of the text in a plugin's file its words are compared with, in bytes; the largest one measured has 200 KB.
pub(super) const MAX_LITERALS: usize = 1 << 20;

/// The bounds of one run of a plugin; tests use shorter ones.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of events handed to a plugin at once, a single larger event excepted. The input, the output and the
    /// heap of a guest have room in [`Limits::memory`] several times over.
    pub(super) batch_bytes: usize,
    /// Events handed to a plugin at once. Beyond a few hundred a larger batch is not faster, and the smaller it is
    /// the cheaper is the search for the guilty event.
    pub(super) batch_events: usize,
    /// Bytes of events handed over in one call, a single larger event excepted: a batch goes through its instance in parts whose
    /// copies, here and there, stay in a core's cache.
    pub(super) call_bytes: usize,
    /// Linear memory of a guest for ordinary batches.
    pub(super) memory: usize,
    /// Linear memory of a guest for the largest event there is: three parts of 16 MiB.
    pub(super) memory_max: usize,
    /// Time that every run has: a thousand times what a batch of small events takes, so that only a plugin that
    /// hangs meets it, also on a busy machine.
    pub(super) time: Duration,
    /// Time added per MiB of events; a plugin takes about 1 ms for it.
    pub(super) time_per_mib: Duration,
    /// Runs that may hit their deadline within one call of the chain. A plugin that hangs on everything would hold
    /// up its source for hours otherwise.
    pub(super) timeouts: usize,
    /// Log lines that are kept per run.
    pub(super) log_lines: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            batch_bytes: 4 * MIB,
            batch_events: 1024,
            call_bytes: 64 << 10,
            memory: 64 * MIB,
            memory_max: 256 * MIB,
            time: Duration::from_secs(1),
            time_per_mib: Duration::from_secs(1),
            timeouts: 16,
            log_lines: 16,
        }
    }
}

impl Limits {
    /// The linear memory of a run over so many bytes: room for them, for an output that grew by doubling its
    /// buffer, and for the heap.
    pub(super) fn memory_for(&self, input_bytes: usize) -> usize {
        let wanted = input_bytes.saturating_mul(4).saturating_add(self.memory / 2);
        wanted.clamp(self.memory, self.memory_max)
    }

    /// The deadline of a run over so many bytes, in ticks from now.
    pub(super) fn ticks_for(&self, input_bytes: usize) -> u64 {
        let mib = u32::try_from(input_bytes / MIB).unwrap_or(u32::MAX);
        let time = self.time.saturating_add(self.time_per_mib.saturating_mul(mib));
        // One more, since the first tick may come at once.
        u64::try_from(time.as_millis().div_ceil(TICK.as_millis())).map_or(u64::MAX / 2, |ticks| ticks + 1)
    }
}
