//! Puts the records of each of many documents together, in one pass over the history and bounded memory: what does not fit lies in
//! temporary files that have no name, by a hash of the documents' `_id`s, and is read back file by file.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufReader, Read as _, Seek as _, Write as _};
use std::ops::Range;

use super::super::History;
use crate::error::{Error, Result};
use crate::record::Record;

/// Bytes of records that are held in memory. A document whose own take more is held all the same.
const IN_MEMORY: u64 = if cfg!(test) { 4 << 10 } else { 128 << 20 };
/// Into how many files they are spread, and each of these again where it does not fit.
const PARTS: usize = if cfg!(test) { 3 } else { 64 };
/// How often a file is spread again: what is still too large then is one document's.
const SPREADS: u64 = 4;
/// Bytes that are written to a file at once.
const BUFFER: usize = 64 << 10;

/// Records, by document.
pub(super) struct Gathered {
    parts: Vec<(u64, Part)>,
}

/// Some documents' records, one after the other.
#[derive(Default)]
struct Part {
    /// Those that are not in the file, and come behind it.
    buffer: Vec<u8>,
    file: Option<File>,
    written: u64,
}

/// Which document a record is of, for whoever gathers; `None`: of none that is wanted.
pub(super) type Key<'a> = dyn Fn(&Record<'_>) -> Option<Vec<u8>> + Send + Sync + 'a;

/// Reads the whole history for the records of wanted documents.
pub(super) async fn gather(history: &History, source: &str, key: &Key<'_>) -> Result<Gathered> {
    gather_to(Spread::new(), history, source, key).await
}

/// The same, to what is there already.
pub(super) async fn gather_to(
    mut spread: Spread,
    history: &History,
    source: &str,
    key: &Key<'_>,
) -> Result<Gathered> {
    let mut records = history.all_records(source).await?;
    while let Some(bytes) = records.next().await? {
        if let Some(key) = key(&Record::new(&bytes)?) {
            spread.push(&key, &bytes)?;
        }
    }
    Ok(spread.gathered())
}

impl Gathered {
    /// The records of the next documents, by key: as many as are held at once. `None` at the end.
    pub(super) fn next(&mut self, key: &Key<'_>) -> Result<Option<Group>> {
        while let Some((spreads, part)) = self.parts.pop() {
            match part.len() {
                0 => {}
                len if len > IN_MEMORY && spreads < SPREADS => {
                    let mut spread = Spread::again(spreads);
                    part.each(|bytes| match key_of(bytes, key)? {
                        Some(key) => spread.push(&key, bytes),
                        None => Ok(()),
                    })?;
                    // Not a whole part's worth of buffers for each time that one is spread.
                    spread.write()?;
                    self.parts.extend(spread.parts());
                }
                _ => return Group::read(part, key).map(Some),
            }
        }
        Ok(None)
    }
}

fn key_of(bytes: &[u8], key: &Key<'_>) -> Result<Option<Vec<u8>>> {
    Ok(key(&Record::new(bytes)?))
}

/// Spreads records over parts.
pub(super) struct Spread {
    /// How often they have been spread before: each time by another hash.
    times: u64,
    parts: Vec<Part>,
    buffered: u64,
}

impl Spread {
    pub(super) fn new() -> Spread {
        Spread::again(0)
    }

    fn again(times: u64) -> Spread {
        Spread { times, parts: (0..PARTS).map(|_| Part::default()).collect(), buffered: 0 }
    }

    /// Takes a record of the document with this key.
    pub(super) fn push(&mut self, key: &[u8], record: &[u8]) -> Result<()> {
        let mut hasher = DefaultHasher::new();
        (self.times, key).hash(&mut hasher);
        let part = &mut self.parts[hasher.finish() as usize % PARTS];
        part.buffer.extend_from_slice(record);
        self.buffered += record.len() as u64;
        // A history that fits never touches the disk; of one that does not, what is in the files stays out of the buffers.
        if part.file.is_some() && part.buffer.len() >= BUFFER {
            self.buffered -= part.buffer.len() as u64;
            return part.write();
        }
        if self.buffered > IN_MEMORY { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        self.buffered = 0;
        self.parts.iter_mut().try_for_each(Part::write)
    }

    /// All that were taken.
    pub(super) fn gathered(self) -> Gathered {
        Gathered { parts: self.parts() }
    }

    fn parts(self) -> Vec<(u64, Part)> {
        let times = self.times + 1;
        self.parts.into_iter().map(|part| (times, part)).collect()
    }
}

impl Part {
    fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn write(&mut self) -> Result<()> {
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile().map_err(failed)?);
        }
        if let Some(file) = &mut self.file {
            file.write_all(&self.buffer).map_err(failed)?;
            self.written += self.buffer.len() as u64;
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Calls `take` with each record.
    fn each(mut self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if let Some(file) = &mut self.file {
            file.rewind().map_err(failed)?;
            let mut reader = BufReader::with_capacity(BUFFER, file);
            let (mut left, mut record) = (self.written, Vec::new());
            while left > 0 {
                record.resize(4, 0);
                reader.read_exact(&mut record).map_err(failed)?;
                let len = length(&record).ok_or_else(damaged)?;
                record.resize(len, 0);
                reader.read_exact(&mut record[4..]).map_err(failed)?;
                left = left.checked_sub(len as u64).ok_or_else(damaged)?;
                take(&record)?;
            }
        }
        let mut rest = &self.buffer[..];
        while !rest.is_empty() {
            let (record, behind) = split(rest)?;
            take(record)?;
            rest = behind;
        }
        Ok(())
    }

    /// All records, one after the other.
    fn bytes(mut self) -> Result<Vec<u8>> {
        let Some(file) = &mut self.file else { return Ok(self.buffer) };
        let mut bytes = Vec::with_capacity((self.written as usize).saturating_add(self.buffer.len()));
        file.rewind().map_err(failed)?;
        file.read_to_end(&mut bytes).map_err(failed)?;
        bytes.extend_from_slice(&self.buffer);
        Ok(bytes)
    }
}

/// The records of some documents.
pub(super) struct Group {
    bytes: Vec<u8>,
    /// Where each document's are, by key, in its order.
    documents: Vec<(Vec<u8>, Vec<Range<usize>>)>,
}

impl Group {
    fn read(part: Part, key: &Key<'_>) -> Result<Group> {
        let bytes = part.bytes()?;
        let mut documents: HashMap<Vec<u8>, Vec<Range<usize>>> = HashMap::new();
        let mut at = 0;
        while at < bytes.len() {
            let (record, _) = split(&bytes[at..])?;
            let end = at + record.len();
            if let Some(key) = key_of(record, key)? {
                documents.entry(key).or_default().push(at..end);
            }
            at = end;
        }
        let mut documents: Vec<_> = documents.into_iter().collect();
        // The same order each time: what is interrupted and begun again meets the same documents.
        documents.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(Group { bytes, documents })
    }

    /// Each document's key and records.
    pub(super) fn documents(&self) -> impl Iterator<Item = (&[u8], Vec<Vec<u8>>)> {
        self.documents.iter().map(|(key, places)| {
            let records = places.iter().map(|place| self.bytes[place.clone()].to_vec()).collect();
            (key.as_slice(), records)
        })
    }
}

/// A record, which begins with its length as every BSON document does, and what is behind it.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let len = length(bytes).ok_or_else(damaged)?;
    bytes.split_at_checked(len).ok_or_else(damaged)
}

fn length(bytes: &[u8]) -> Option<usize> {
    let len = i32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    usize::try_from(len).ok().filter(|len| *len > 4)
}

fn damaged() -> Error {
    Error::internal("a temporary file does not hold what was written into it")
}

fn failed(error: std::io::Error) -> Error {
    let folder = std::env::temp_dir();
    Error::unavailable(format!("history can't be sorted in the temporary folder: {}", folder.display()))
        .because(error)
        .hint(
            "it takes as much room as the records of the documents that are looked for; name another one in TMPDIR",
        )
}
