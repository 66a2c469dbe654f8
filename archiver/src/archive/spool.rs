//! The records of a segment that is being built: in memory while they are few, the rest in a temporary file that has no name, so
//! that a segment's size is bounded by the disk and not by memory. They have been through the plugins.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use super::arena::Arena;
use crate::error::{Error, Result};

/// Bytes of records that stay in memory while a segment is built. Small in tests, so that they go both ways.
pub(super) const BUILDING: usize = if cfg!(test) { 16 << 10 } else { 32 << 20 };
/// The same while one is read: several may be at once, one for each partition.
pub(super) const READING: usize = BUILDING / 4;
/// Bytes that are written to the file at once.
const BUFFER: usize = if cfg!(test) { 4 << 10 } else { 1 << 20 };

/// Byte strings, numbered from 0 in the order in which they were added.
#[derive(Debug)]
pub(super) struct Spool {
    /// The first ones, up to `in_memory` bytes.
    memory: Arena,
    in_memory: usize,
    /// The others; `None` while there is none.
    file: Option<File>,
    /// Those at the file's end that are not written yet.
    unwritten: Vec<u8>,
    /// Where in the file each of the others begins, and how long it is.
    places: Vec<(u64, u32)>,
    bytes: usize,
}

impl Spool {
    /// An empty one that keeps so many bytes in memory.
    pub(super) fn new(in_memory: usize) -> Spool {
        Spool {
            memory: Arena::default(),
            in_memory,
            file: None,
            unwritten: Vec::new(),
            places: Vec::new(),
            bytes: 0,
        }
    }

    /// Adds one, which must be shorter than 4 GiB. Fails as unavailable where the temporary folder takes no more.
    pub(super) fn push(&mut self, entry: &[u8]) -> Result<()> {
        if self.places.is_empty() && self.memory.bytes() + entry.len() <= self.in_memory {
            self.memory.push(entry);
        } else {
            self.places.push(((self.bytes - self.memory.bytes()) as u64, entry.len() as u32));
            self.unwritten.extend_from_slice(entry);
            if self.unwritten.len() >= BUFFER {
                self.write()?;
            }
        }
        self.bytes += entry.len();
        Ok(())
    }

    /// The entry of this number, which must exist; one that is not in memory is read into the buffer.
    pub(super) fn get<'a>(&'a self, n: usize, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let Some(at) = n.checked_sub(self.memory.len()) else { return Ok(self.memory.get(n)) };
        let (start, len) = self.places[at];
        let written = (self.bytes - self.memory.bytes() - self.unwritten.len()) as u64;
        if let Some(from) = start.checked_sub(written) {
            return Ok(&self.unwritten[from as usize..][..len as usize]);
        }
        let file = self.file.as_ref().ok_or_else(|| Error::internal("a spool file is gone"))?;
        buffer.resize(len as usize, 0);
        file.read_exact_at(buffer, start).map_err(failed)?;
        Ok(buffer)
    }

    /// A copy of the entry of this number, which must exist.
    pub(super) fn copy(&self, n: usize) -> Result<Vec<u8>> {
        let mut buffer = Vec::new();
        let entry = self.get(n, &mut buffer)?;
        Ok(entry.to_vec())
    }

    /// How many entries.
    pub(super) fn len(&self) -> usize {
        self.memory.len() + self.places.len()
    }

    /// The bytes of all entries.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn write(&mut self) -> Result<()> {
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile().map_err(failed)?);
        }
        if let Some(file) = &mut self.file {
            // An entry is in the file as a whole or still here: one that failed is not gone on with.
            file.write_all(&self.unwritten).map_err(failed)?;
            self.unwritten.clear();
        }
        Ok(())
    }
}

fn failed(error: std::io::Error) -> Error {
    let folder = std::env::temp_dir();
    let what = format!("a large segment can't be built in the temporary folder: {}", folder.display());
    Error::unavailable(what)
        .because(error)
        .hint("give the folder as much room as segment_max_bytes, or name another one in TMPDIR")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::extjson::random::Random;
    use super::*;

    #[test]
    fn entries_come_back_in_any_order_from_memory_and_from_the_file() {
        let mut random = Random::new(7, false);
        let sizes: Vec<usize> = (0..400).map(|_| random.below(300)).chain([9_000, 0, 20_000, 1]).collect();
        let entry = |n: usize| vec![n as u8; sizes[n]];
        let (mut spool, mut buffer) = (Spool::new(BUILDING), Vec::new());
        for n in 0..sizes.len() {
            spool.push(&entry(n)).unwrap();
            for seen in [0, random.below(n + 1), n] {
                assert_eq!(spool.get(seen, &mut buffer).unwrap(), entry(seen), "entry {seen} of {n}");
            }
        }
        assert!(spool.file.is_some() && spool.memory.bytes() <= BUILDING);
        assert_eq!((spool.len(), spool.bytes()), (sizes.len(), sizes.iter().sum()));
    }
}
