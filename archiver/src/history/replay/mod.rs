//! Plays history again: a range of it, of one source or several in one order, as documents in the shape of change events, or applied
//! into collections. Reads cold, hot and live without a seam, and goes on where it was cut short.

mod apply;
mod baselines;
mod change;
mod follow;
mod given;
mod merge;
mod ndjson;
mod pace;
mod range;
mod scope;
mod state;
mod tail;
mod target;
#[cfg(test)]
mod tests;
mod write;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use bson::doc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::access::Access;
use super::policies::Policies;
use super::{BEGINNING, History, Namespace};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::record::Record;
use apply::{Applier, Manner};
pub use follow::Follow;
use merge::{Ending, Item, Merge, Next};
use ndjson::Ndjson;
use pace::Pace;
pub use pace::Speed;
pub use range::{Bound, Range};
use scope::Scope;
use state::{State, StateFile};
use tail::Step;
use target::Target;

/// Items that are handed on together at most, in number, and in bytes.
const PORTION: usize = 2_000;
const PORTION_BYTES: usize = 8 << 20;
/// How often a followed log is asked for more, at first and once nothing has come for a while.
const POLLS: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(500)];
/// Polls without anything new after which less is asked.
const QUICK_POLLS: u32 = 40;

/// What is replayed.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The sources, each with all its partitions.
    pub sources: Vec<String>,
    /// From when until when.
    pub range: Range,
    /// Only this collection.
    pub namespace: Option<Namespace>,
    /// Goes on with what happens, until it is stopped.
    pub follow: bool,
    /// How fast.
    pub speed: Speed,
    /// Events that are dealt with together at most.
    pub batch: usize,
    /// Where is written how far it has got.
    pub state: Option<PathBuf>,
}

/// Where to.
#[derive(Debug, Clone)]
pub enum Output {
    /// Standard output, a change event a line.
    Ndjson,
    /// A collection, or the collections of a database.
    Collections(Into),
}

/// How history is applied into collections.
#[derive(Debug, Clone)]
pub struct Into {
    /// `mongodb://…/db.collection`, or `mongodb://…/db`.
    pub uri: String,
    /// What is there is the state at the beginning of the range.
    pub allow_nonempty: bool,
    /// Where history is missing, what is known is applied all the same.
    pub allow_gaps: bool,
    /// Transactions stay together.
    pub atomic: bool,
    /// Writers at the same time.
    pub parallel: usize,
}

/// What has been replayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Records.
    pub events: u64,
    /// Places where history is missing.
    pub gaps: u64,
    /// Changes of documents of which nothing was there to be changed.
    pub unknown: u64,
    /// Events that Extended JSON does not hold all of.
    pub inexact: u64,
    /// The time of the last one, in seconds.
    pub second: u32,
}

/// Items that go together.
struct Portion {
    items: Vec<Item>,
    /// Everything before this time has come, and there is no more for now.
    reached: Option<(u32, u32)>,
}

/// Where items go to.
enum Sink {
    Ndjson(Box<Ndjson>),
    Collections(Box<Applier>),
}

impl Sink {
    async fn take(&mut self, portion: Portion) -> Result<()> {
        match self {
            Sink::Ndjson(ndjson) => ndjson.take(portion.items).await,
            Sink::Collections(applier) => applier.take(portion.items, portion.reached).await,
        }
    }

    async fn finish(&mut self) -> Result<()> {
        match self {
            Sink::Ndjson(ndjson) => ndjson.finish().await,
            Sink::Collections(applier) => applier.finish().await,
        }
    }

    fn counted(&mut self) -> &mut Counted {
        match self {
            Sink::Ndjson(ndjson) => &mut ndjson.counted,
            Sink::Collections(applier) => &mut applier.counted,
        }
    }
}

/// Replays a selection until its end, or until it is stopped: then everything that was taken in is given, and where a state is kept, it
/// says so. Fails as fenced where another process goes on from that state. `report` is called after every portion. Held in memory at once: a segment for each stream, and a few portions.
pub async fn replay(
    history: &History,
    config: &Config,
    selection: Selection,
    output: Output,
    stop: CancellationToken,
    mut report: impl FnMut(&Counted),
) -> Result<Counted> {
    let file = selection.state.as_deref().map(StateFile::lock).transpose()?;
    for source in &selection.sources {
        history.require(source).await?;
    }
    require_one_stream(history, &selection).await?;
    let target = match &output {
        Output::Ndjson => None,
        Output::Collections(into) => Some(Target::open(&into.uri, config).await?),
    };
    note_access(history, config, &selection, target.as_ref()).await?;
    let name = selection.name(target.as_ref().map_or("ndjson", |target| &target.name));
    let saved = file.as_ref().map(|file| file.read(&name)).transpose()?.flatten();
    let goes_on = saved.is_some();
    let mut state = saved.unwrap_or_else(|| State::new(&name));
    if let Some(file) = &file {
        for source in &selection.sources {
            if let Some(log) = history.audit_log_of(source).await? {
                file.require_log(&mut state, source, log)?;
            }
        }
    }
    let place = |stream: &_| state.place(stream);
    let ending = ending(&selection, &output);
    let merge = Merge::open(history, &selection.sources, selection.range, ending, place).await?;
    let places: Vec<_> = merge.places().collect();
    for (stream, place) in &places {
        state.set(stream, place);
    }
    let mut sink = match (output, target) {
        (Output::Collections(into), Some(target)) => {
            require_state_at_beginning(&selection, &into, &target, goes_on).await?;
            let applier = applier(history, config, &selection, into, target, (file, state)).await?;
            Sink::Collections(Box::new(applier))
        }
        _ => Sink::Ndjson(Box::new(Ndjson::open(selection.namespace.clone(), file, state, goes_on)?)),
    };
    sink.begin().await?;
    let (sender, mut portions) = mpsc::channel(1);
    let (portion, pace) = (selection.batch.min(PORTION), Pace::new(selection.speed));
    let reader = Reader { merge, sender, items: Vec::new(), bytes: 0, portion, pace, stop };
    let reading = AbortOnDropHandle::new(tokio::spawn(reader.read()));
    while let Some(portion) = portions.recv().await {
        let second = portion.items.iter().map(|item| item.time.0).max();
        sink.take(portion).await?;
        let counted = sink.counted();
        counted.second = counted.second.max(second.unwrap_or_default());
        report(counted);
    }
    reading.await.map_err(|e| Error::internal("reading history was cut short").because(e))??;
    sink.finish().await?;
    Ok(*sink.counted())
}

impl Sink {
    /// Says that it begins, before anything is written: what is found there later is known to be its own.
    async fn begin(&mut self) -> Result<()> {
        match self {
            Sink::Ndjson(ndjson) => ndjson.save().await,
            Sink::Collections(applier) => applier.save().await,
        }
    }
}

impl Selection {
    /// What a state is of.
    fn name(&self, output: &str) -> String {
        let mut name = format!("{} to {output}", self.sources.join(","));
        if let Some(from) = self.range.from {
            name += &format!(" from {from}");
        }
        if let Some(namespace) = &self.namespace {
            name += &format!(" namespace {namespace}");
        }
        name
    }
}

/// Collections become what the sources were at one time; events are given as far as they are recorded.
fn ending(selection: &Selection, output: &Output) -> Ending {
    match output {
        _ if selection.follow => Ending::Never,
        Output::Ndjson => Ending::OfStreams,
        Output::Collections(into) if into.atomic => Ending::OfAll,
        Output::Collections(_) => Ending::OfSources,
    }
}

/// Notes that somebody reads the sources, where that is wanted; of several, all before anything is given.
async fn note_access(
    history: &History,
    config: &Config,
    selection: &Selection,
    target: Option<&Target>,
) -> Result<()> {
    let mut what =
        doc! {"output": target.map_or("ndjson", |target| &target.name), "follow": selection.follow};
    let bounds = [("from", selection.range.from), ("to", selection.range.to)];
    what.extend(
        bounds.into_iter().filter_map(|(name, bound)| Some((name.to_owned(), bound?.to_string().into()))),
    );
    what.extend(selection.namespace.as_ref().map(|only| ("namespace".to_owned(), only.to_string().into())));
    for source in &selection.sources {
        let access = Access { command: "replay", what: what.clone(), ..Access::default() };
        history.note_access(config, source, access).await?;
    }
    Ok(())
}

/// Seqs are numbers of one stream.
async fn require_one_stream(history: &History, selection: &Selection) -> Result<()> {
    if !selection.range.is_by_seq() {
        return Ok(());
    }
    let mut streams = 0;
    for source in &selection.sources {
        streams += history.streams_to_come(source).await?.len();
    }
    if streams > 1 {
        return Err(Error::invalid("a seq names a record of one stream, and there are several")
            .hint("give a time; to go on where a replay has ended, use --state"));
    }
    Ok(())
}

/// Fails as invalid where what is in the target can't be what the source was at the beginning.
async fn require_state_at_beginning(
    selection: &Selection,
    into: &Into,
    target: &Target,
    goes_on: bool,
) -> Result<()> {
    if goes_on || into.allow_nonempty {
        return Ok(());
    }
    if let Some(from) = selection.range.from {
        return Err(Error::invalid(format!("changes from {from} on need the documents as they were then")).hint(
            "leave --from out to build them from the beginning; or put them there first, as from a backup, and give --allow-nonempty",
        ));
    }
    target.require_empty().await
}

async fn applier(
    history: &History,
    config: &Config,
    selection: &Selection,
    into: Into,
    target: Target,
    state: (Option<StateFile>, State),
) -> Result<Applier> {
    let scope =
        Scope::new(config, &selection.sources, selection.namespace.clone(), target.collection.clone())?;
    let mut policies = HashMap::new();
    for source in &selection.sources {
        let mut known = Policies::default();
        for bytes in history.operations(source, &["policy"], BEGINNING).await? {
            known.note(&Record::new(&bytes)?)?;
        }
        policies.insert(source.clone(), known);
    }
    let Into { atomic, allow_gaps, parallel, .. } = into;
    let manner = Manner { atomic, allow_gaps, parallel, batch: selection.batch };
    Applier::new(target, scope, manner, policies, state)
}

/// Reads ahead of what is being written.
struct Reader {
    merge: Merge,
    sender: mpsc::Sender<Portion>,
    items: Vec<Item>,
    bytes: usize,
    portion: usize,
    pace: Pace,
    stop: CancellationToken,
}

impl Reader {
    async fn read(mut self) -> Result<()> {
        let (mut idle, mut told) = (0, None);
        // Only between records: one that is being read is read to its end.
        while !self.stop.is_cancelled() {
            match self.merge.next().await? {
                Next::Item(item) => {
                    idle = 0;
                    if !self.push(*item).await? {
                        break;
                    }
                }
                Next::End(reached) => {
                    self.send(Some(reached)).await;
                    return Ok(());
                }
                Next::Wait(reached) => {
                    if told.replace(reached) != Some(reached) || !self.items.is_empty() {
                        self.send(Some(reached)).await;
                    }
                    idle += 1;
                    let pause = POLLS[usize::from(idle > QUICK_POLLS)];
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.stop.cancelled() => break,
                    }
                    self.merge.look_ahead().await?;
                }
            }
        }
        self.send(None).await;
        Ok(())
    }

    /// Takes an item in when it is due; false where it was stopped before.
    async fn push(&mut self, item: Item) -> Result<bool> {
        if let Some(due) = self.pace.due(item.time.0) {
            // What has come is to be there before that.
            self.send(Some(item.time)).await;
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                () = self.stop.cancelled() => return Ok(false),
            }
        }
        if let Step::Record(bytes, _) = &item.step {
            self.bytes += bytes.len();
        }
        self.items.push(item);
        if self.items.len() >= self.portion || self.bytes >= PORTION_BYTES {
            self.send(None).await;
        }
        Ok(true)
    }

    async fn send(&mut self, reached: Option<(u32, u32)>) {
        self.bytes = 0;
        let items = std::mem::take(&mut self.items);
        if items.is_empty() && reached.is_none() {
            return;
        }
        // Where nobody takes it any more, the reader is ended with the replay.
        if self.sender.send(Portion { items, reached }).await.is_err() {
            self.stop.cancel();
        }
    }
}
