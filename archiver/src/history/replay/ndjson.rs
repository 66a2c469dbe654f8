//! Change events on standard output, one a line. Where it is a file, a replay that was cut short leaves none out and none twice.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use super::Counted;
use super::change::{change_event, expired_event, line};
use super::merge::Item;
use super::range::concerns;
use super::state::{State, StateFile, Written};
use super::tail::Step;
use crate::error::{Error, Result};
use crate::fail_point::fail_point;
use crate::history::Namespace;
use crate::history::gaps::GapRecord;
use crate::history::released::notes;
use crate::record::Record;

/// Writes events to standard output.
pub(super) struct Ndjson {
    namespace: Option<Namespace>,
    file: Option<StateFile>,
    state: State,
    /// Standard output, where it is a file.
    output: Option<File>,
    pub(super) counted: Counted,
}

impl Ndjson {
    /// Where a replay that was cut short goes on and its output is the same file, what the state does not know of is cut off. Behind
    /// the end of a replay it is somebody else's, and stays.
    pub(super) fn open(
        namespace: Option<Namespace>,
        file: Option<StateFile>,
        mut state: State,
        goes_on: bool,
    ) -> Result<Ndjson> {
        let stdout = std::io::stdout().as_fd().try_clone_to_owned().map(File::from).ok();
        let output = stdout.filter(|_| file.is_some()).filter(|f| f.metadata().is_ok_and(|m| m.is_file()));
        if let Some(mut output) = output.as_ref() {
            let metadata = output.metadata().map_err(failed)?;
            let found = Written { device: metadata.dev(), inode: metadata.ino(), bytes: metadata.len() };
            let is_same =
                |w: &Written| (w.device, w.inode) == (found.device, found.inode) && w.bytes <= found.bytes;
            match state.output.filter(|_| goes_on) {
                Some(known) if is_same(&known) => {
                    if state.ended {
                        state.output = Some(found);
                    } else {
                        output.set_len(known.bytes).map_err(failed)?;
                    }
                    output.seek(SeekFrom::End(0)).map_err(failed)?;
                }
                // It was cut short, and nobody knows what lies behind the end that it has noted.
                Some(_) if !state.ended => {
                    return Err(Error::invalid("standard output is not the file that was written into")
                        .hint("go on with >> and the same file; or begin anew, with another --state file"));
                }
                _ => state.output = Some(found),
            }
        }
        state.ended = false;
        Ok(Ndjson { namespace, file, state, output, counted: Counted::default() })
    }

    /// Notes that everything has been written.
    pub(super) async fn finish(&mut self) -> Result<()> {
        self.state.ended = true;
        self.save().await
    }

    /// Makes the state durable, where one is kept.
    pub(super) async fn save(&self) -> Result<()> {
        match &self.file {
            Some(file) => file.save(&self.state).await,
            None => Ok(()),
        }
    }

    /// Writes items, and says so in the state.
    pub(super) async fn take(&mut self, items: Vec<Item>) -> Result<()> {
        let mut lines = String::new();
        let mut places = BTreeMap::new();
        for item in items {
            self.write(&item, &mut lines)?;
            places.insert(item.stream, item.place);
        }
        for (stream, place) in &places {
            self.state.set(stream, place);
        }
        write(&lines)?;
        fail_point!("replay:written");
        if let Some(output) = &self.output {
            output.sync_data().map_err(failed)?;
            if let Some(written) = &mut self.state.output {
                written.bytes += lines.len() as u64;
            }
        }
        self.save().await
    }

    fn write(&mut self, item: &Item, lines: &mut String) -> Result<()> {
        let event = match &item.step {
            Step::Expired(expired) => {
                self.counted.gaps += 1;
                expired_event(&item.stream, expired)
            }
            Step::Record(bytes, is_in_baseline) => {
                let record = Record::new(bytes)?;
                if !concerns(&record, self.namespace.as_ref()) {
                    return Ok(());
                }
                self.counted.gaps += u64::from(is_gap(&record)?);
                change_event(&item.stream, bytes, *is_in_baseline)?
            }
        };
        self.counted.events += 1;
        if !line(&event, lines)? {
            self.counted.inexact += 1;
        }
        Ok(())
    }
}

/// Whether history is missing there.
fn is_gap(record: &Record<'_>) -> Result<bool> {
    Ok(match record.op() {
        "gap" => matches!(GapRecord::of(record)?, GapRecord::Opens(_)),
        "quarantine" => notes(record).is_none(),
        _ => false,
    })
}

fn write(lines: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(lines.as_bytes()).and_then(|()| out.flush()).map_err(failed)
}

fn failed(error: std::io::Error) -> Error {
    Error::unavailable("writing to stdout failed").because(error)
}
