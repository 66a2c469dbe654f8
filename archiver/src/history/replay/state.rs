//! How far a replay has got, in a file: written anew as a whole, and only behind what it says.
//!
//! Beside it lies, while changes are being applied, a file with the documents that these changes are applied to, as they were before:
//! a change says what became of a document, not what the document is, and whoever goes on can't know which changes arrived.
//! And a file that is locked, so that no two replays go on from one state.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bson_walker::{Doc, Writer};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::tail::Place;
use crate::error::{Error, Result};
use crate::fail_point::fail_point;
use crate::history::Namespace;
use crate::history::id::Id;
use crate::history::states::Identity;
use crate::notice::person;
use crate::stream_id::StreamId;

const FORMAT: u32 = 1;

/// The documents as they were before the changes that are being applied; `None`: not there.
pub(super) type Bases = HashMap<Identity, Option<Bytes>>;

/// The seqs at which streams go on behind these changes, by the streams' names.
pub(super) type Ends = BTreeMap<String, i64>;

/// What a state file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    format: u32,
    /// What is replayed, and where to: a file is that of one replay.
    replay: String,
    /// The audit logs whose records the sources' places count.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    logs: BTreeMap<String, String>,
    /// Where each stream goes on.
    streams: BTreeMap<String, StoredPlace>,
    /// The output, where it is a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) output: Option<Written>,
    /// It came to its end: nothing has been written that it does not say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) ended: bool,
    /// A collection is about to be renamed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) renaming: bool,
}

/// A file that is written into, and how long it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct StoredPlace {
    start: i64,
    next: i64,
    since: i64,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    late: BTreeSet<i64>,
}

/// What stands before the documents.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// The state behind which they are what is there.
    behind: BTreeMap<String, StoredPlace>,
    ends: Ends,
    documents: usize,
}

impl State {
    /// That of a replay which has not begun.
    pub(super) fn new(replay: &str) -> State {
        State {
            format: FORMAT,
            replay: replay.to_owned(),
            logs: BTreeMap::new(),
            streams: BTreeMap::new(),
            output: None,
            ended: false,
            renaming: false,
        }
    }

    pub(super) fn place(&self, stream: &StreamId) -> Option<Place> {
        let stored = self.streams.get(&stream.to_string())?;
        let late = stored.late.range(stored.next..).copied().collect();
        Some(Place { start: stored.start, next: stored.next, since: stored.since, late })
    }

    /// The seq at which the stream of this name goes on.
    pub(super) fn next(&self, stream: &str) -> Option<i64> {
        self.streams.get(stream).map(|place| place.next)
    }

    pub(super) fn set(&mut self, stream: &StreamId, place: &Place) {
        let Place { start, next, since, ref late } = *place;
        let late = late.from(next).collect();
        self.streams.insert(stream.to_string(), StoredPlace { start, next, since, late });
    }
}

/// Where the state is kept, for this process alone.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    /// Locked until it is closed, which the kernel does for whoever dies.
    _lock: File,
}

impl StateFile {
    /// Takes the file, which need not be there yet. Fails as fenced, and says who, where another process has it.
    ///
    /// What is locked is a file beside it: the state is replaced by each that is saved. It is never removed: somebody else may have
    /// opened it, and would lock what nobody finds any more.
    pub(super) fn lock(path: &Path) -> Result<StateFile> {
        let failed =
            |e| failed(path, "locked", e).hint("--state needs a place where it can be written and locked");
        let lock = beside(path, ".lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&lock).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = std::fs::read_to_string(&lock).unwrap_or_default();
                let holder = if holder.is_empty() { "another process" } else { holder.trim_end() };
                return Err(Error::fenced(format!(
                    "another replay goes on with this state: {}",
                    path.display()
                ))
                .hint(format!("it is {holder}: stop it first, or name another file")));
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        let holder =
            format!("process {} of {} since {:.0}\n", std::process::id(), person(), jiff::Timestamp::now());
        file.set_len(0).and_then(|()| file.write_all(holder.as_bytes())).map_err(failed)?;
        Ok(StateFile { path: path.to_path_buf(), _lock: file })
    }

    /// What it says; `None` where it is not there yet. Fails as invalid where it is that of another replay.
    pub(super) fn read(&self, replay: &str) -> Result<Option<State>> {
        let path = &self.path;
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.failed("read", e)),
        };
        let state: State = serde_json::from_slice(&text).map_err(|e| {
            Error::invalid(format!("this is no state of a replay: {}", path.display()))
                .because(e)
                .hint("name another file, which is made; or, to begin anew, delete this one")
        })?;
        if state.format != FORMAT {
            return Err(Error::invalid(format!(
                "this state of a replay has format {}, and this version knows {FORMAT}: {}",
                state.format,
                path.display()
            ))
            .hint("go on with the version that wrote it; or, to begin anew, name another file and an empty target"));
        }
        if state.replay != replay {
            return Err(Error::invalid(format!("this is the state of another replay: {}", path.display()))
                .hint(format!("it is of: {}; now it is: {replay}; name another file for it", state.replay)));
        }
        Ok(Some(state))
    }

    /// Notes which audit log a source's places are of. Fails as invalid where they are of another one.
    pub(super) fn require_log(&self, state: &mut State, source: &str, log: String) -> Result<()> {
        if state.logs.get(source).is_some_and(|known| *known != log) {
            return Err(Error::invalid(format!(
                "this is the state of a replay of another history: {} source={source}",
                self.path.display()
            ))
            .hint(
                "the audit database is not the one that was replayed, and numbers its records anew: begin anew, with another \
                 state file and an empty target",
            ));
        }
        state.logs.insert(source.to_owned(), log);
        Ok(())
    }

    /// Makes a state durable.
    pub(super) async fn save(&self, state: &State) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(state)
            .map_err(|e| Error::internal("the state of a replay can't be encoded").because(e))?;
        text.push(b'\n');
        self.write(&self.path, &text)?;
        fail_point!("replay:saved");
        Ok(())
    }

    /// Makes durable which documents the changes behind a state, as far as `ends`, are applied to. Without any there is nothing to write.
    pub(super) async fn save_bases(&self, state: &State, ends: &Ends, bases: &Bases) -> Result<()> {
        if bases.is_empty() {
            return Ok(());
        }
        let header = Header { behind: state.streams.clone(), ends: ends.clone(), documents: bases.len() };
        let header = serde_json::to_string(&header)
            .map_err(|e| Error::internal("the state of a replay can't be encoded").because(e))?;
        let mut bytes = Writer::build(|w| w.str("header", &header));
        for (identity, document) in bases {
            let mut writer = Writer::begin(&mut bytes);
            writer.str("db", &identity.namespace.db);
            writer.str("coll", &identity.namespace.coll);
            writer.raw(identity.id.0, b"id", &identity.id.1);
            if let Some(document) = document {
                writer.doc("document", document);
            }
            writer.end();
        }
        self.write(&self.bases_path(), &bytes)?;
        fail_point!("replay:bases_saved");
        Ok(())
    }

    /// The documents that were saved behind this state, and how far: none where the changes behind it were not begun with. Streams that
    /// have begun since may be in the state.
    pub(super) fn bases(&self, state: &State) -> Result<(Bases, Ends)> {
        let bytes = match std::fs::read(self.bases_path()) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Default::default()),
            Err(e) => return Err(self.failed("read", e)),
        };
        let damaged = || {
            let path = self.bases_path();
            Error::corrupt(format!("a file of the replay's state is damaged: {}", path.display())).hint(
                "what the target's documents were before the last changes is known to nobody else: begin anew, with \
                 another state file and an empty target",
            )
        };
        let (header, mut rest) = Doc::split(&bytes).map_err(|e| damaged().because(e))?;
        let header = header.get("header").and_then(|e| serde_json::from_str(e.as_str()?).ok());
        let Header { behind, ends, documents } = header.ok_or_else(damaged)?;
        if !behind.iter().all(|(stream, place)| state.streams.get(stream) == Some(place)) {
            return Ok(Default::default());
        }
        let mut bases = Bases::new();
        while !rest.is_empty() {
            let (entry, behind) = Doc::split(rest).map_err(|e| damaged().because(e))?;
            rest = behind;
            let text = |name| entry.get(name).and_then(|e| e.as_str()).map(str::to_owned);
            let (Some(db), Some(coll), Some(id)) = (text("db"), text("coll"), entry.get("id")) else {
                return Err(damaged());
            };
            let identity = Identity { namespace: Namespace { db, coll }, id: Id::of(&id) };
            let document = entry.get("document").and_then(|e| e.as_doc());
            bases.insert(identity, document.map(|doc| Bytes::copy_from_slice(doc.as_bytes())));
        }
        if bases.len() != documents {
            return Err(damaged());
        }
        Ok((bases, ends))
    }

    /// Removes what is of no use once a replay has come to its end.
    pub(super) fn forget_bases(&self) {
        // Left behind it does no harm: it is of another state.
        std::fs::remove_file(self.bases_path()).ok();
    }

    fn bases_path(&self) -> PathBuf {
        beside(&self.path, ".documents")
    }

    /// Puts a file in the place of another at once: a crash leaves the one or the other.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let replace = || -> std::io::Result<()> {
            let mut file = NamedTempFile::new_in(folder)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|e| e.error)?;
            std::fs::File::open(folder)?.sync_all()
        };
        replace().map_err(|e| self.failed("written", e))
    }

    fn failed(&self, what: &str, error: std::io::Error) -> Error {
        failed(&self.path, what, error)
    }
}

/// The file of this name with more behind it.
fn beside(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(more);
    PathBuf::from(name)
}

fn failed(path: &Path, what: &str, error: std::io::Error) -> Error {
    Error::unavailable(format!("the state of the replay can't be {what}: {}", path.display())).because(error)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn place(next: i64) -> Place {
        Place { start: 1, next, since: next - 1, late: [3, 90].into_iter().collect() }
    }

    #[tokio::test]
    async fn what_is_saved_is_read_again_and_only_by_the_same_replay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let file = StateFile::lock(&path).unwrap();
        assert!(file.read("a").unwrap().is_none());
        let mut state = State::new("a");
        let stream = StreamId::whole("payments");
        state.set(&stream, &place(50));
        file.save(&state).await.unwrap();
        let read = file.read("a").unwrap();
        assert_eq!(read.as_ref(), Some(&state));
        let late = [90].into_iter().collect();
        assert_eq!(read.unwrap().place(&stream), Some(Place { late, ..place(50) }));
        assert_eq!(file.read("b").unwrap_err().kind(), crate::Kind::Invalid);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(file.read("a").unwrap_err().kind(), crate::Kind::Invalid);
    }

    #[tokio::test]
    async fn documents_count_only_behind_the_state_that_they_were_saved_behind() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::lock(&folder.path().join("state")).unwrap();
        let mut state = State::new("a");
        state.set(&StreamId::whole("payments"), &place(50));
        let identity = |n: u8| Identity {
            namespace: Namespace { db: "shop".to_owned(), coll: "orders".to_owned() },
            id: Id(bson_walker::kind::STRING, vec![2, 0, 0, 0, n, 0]),
        };
        let document = Bytes::from(Writer::build(|w| w.str("_id", "x")));
        let bases = Bases::from([(identity(b'x'), Some(document)), (identity(b'y'), None)]);
        let ends = Ends::from([("payments".to_owned(), 57)]);
        file.save_bases(&state, &ends, &bases).await.unwrap();
        assert_eq!(file.bases(&state).unwrap(), (bases.clone(), ends.clone()));
        // Another stream has begun since.
        state.set(&StreamId::whole("refunds"), &place(1));
        assert_eq!(file.bases(&state).unwrap(), (bases, ends));
        let mut damaged = std::fs::read(file.bases_path()).unwrap();
        let last = Doc::split(&damaged).unwrap().1;
        let (first, others) = Doc::split(last).unwrap();
        for damage in [last.len(), others.len(), first.as_bytes().len() - 1] {
            damaged.truncate(damaged.len() - damage);
            std::fs::write(file.bases_path(), &damaged).unwrap();
            assert_eq!(file.bases(&state).unwrap_err().kind(), crate::Kind::Corrupt);
        }
        state.set(&StreamId::whole("payments"), &place(51));
        file.forget_bases();
        assert!(!file.bases_path().exists());
    }
}
