//! Where recovered documents go: to stdout, or in batches into a collection, with a plan first. Counts what became of them.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Result;
use archiver::Error;
use archiver::archive::extjson;
use archiver::config::Config;
use archiver::history::Namespace;
use archiver::history::policies::Policies;
use archiver::history::recover::{Lost, Recovered};
use archiver::history::restore::{Action, Target};
use archiver::record::RecordId;
use bson::{Document, doc};
use bson_walker::Doc;

use super::{Args, DocumentFormat, say};
use crate::cli::output;

/// Documents that are written at once, and their bytes: no more than one message of MongoDB's takes.
const BATCH: (usize, usize) = (1_000, 16 << 20);
/// Bytes that are printed at once.
const PRINTED: usize = 64 << 10;
/// How often stderr says how far it is, on a terminal and elsewhere.
const SAY_EVERY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Documents that are named in a note; the rest is a number.
const NAMED: usize = 20;

/// What became of how many documents.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    printed: u64,
    will_insert: u64,
    inserted: u64,
    identical: u64,
    replaced: u64,
    conflicts: u64,
    redacted: u64,
    lost: u64,
}

/// Where recovered documents go.
pub(super) struct Give {
    format: DocumentFormat,
    target: Option<Target>,
    allow_redacted: bool,
    /// Those that are to be put there next.
    batch: Vec<Recovered>,
    bytes: usize,
    /// What is to be printed next.
    printed: Vec<u8>,
    /// Where they were.
    namespaces: BTreeSet<Namespace>,
    /// How many plugins have changed, or may have, the first of them, and under which policies.
    redacted: u64,
    policies: BTreeSet<RecordId>,
    named: Vec<String>,
    counts: Counts,
    /// What was wrong with the last of the documents that were asked for by id and can't be given.
    failure: Option<Error>,
    said: Instant,
}

impl Give {
    pub(super) async fn open(args: &Args, config: &Config) -> Result<Give> {
        let target = match &args.to_namespace {
            Some(text) => {
                let namespace = Namespace::parse(text)?;
                if namespace.db == config.audit_database {
                    return Err(Error::invalid("--to-namespace is in the audit database")
                        .hint("choose a namespace of the application")
                        .into());
                }
                Some(Target::open(config, &namespace, args.apply, args.overwrite).await?)
            }
            None => None,
        };
        Ok(Give {
            format: args.format,
            target,
            allow_redacted: args.allow_redacted,
            batch: Vec::new(),
            bytes: 0,
            printed: Vec::new(),
            policies: BTreeSet::new(),
            namespaces: BTreeSet::new(),
            redacted: 0,
            named: Vec::new(),
            counts: Counts::default(),
            failure: None,
            said: Instant::now(),
        })
    }

    /// What the documents are written into, for the record of it; nothing where they are printed.
    pub(super) async fn target(&self) -> Result<Document> {
        let Some(target) = &self.target else {
            return Ok(doc! {"format": match self.format {
                DocumentFormat::Ndjson => "ndjson",
                DocumentFormat::Bson => "bson",
            }});
        };
        let mut what = doc! {"to": target.namespace(), "apply": target.writes()};
        what.extend(target.account().await?.map(|user| ("toUser".to_owned(), user.into())));
        Ok(what)
    }

    /// Takes the next document.
    pub(super) async fn one(&mut self, recovered: Recovered) -> archiver::Result<()> {
        if !self.namespaces.contains(&recovered.namespace) {
            self.namespaces.insert(recovered.namespace.clone());
        }
        if recovered.is_redacted {
            self.redacted += 1;
            self.policies.extend(recovered.origins.iter().map(|origin| origin.policy));
            if self.named.len() < NAMED {
                self.named.push(printable(&recovered.id));
            }
        }
        if self.target.is_none() {
            self.print(&recovered)?;
        } else {
            if self.batch.len() >= BATCH.0 || self.bytes + recovered.document.len() > BATCH.1 {
                self.put().await?;
            }
            self.bytes += recovered.document.len();
            self.batch.push(recovered);
        }
        self.progress()
    }

    /// Names a document that can't be given, at once: there may be any number of them.
    pub(super) fn lost(&mut self, lost: &Lost) -> archiver::Result<()> {
        self.counts.lost += 1;
        clear_progress().map_err(unwritten)?;
        let named = format!("not recovered: {:?} of {}: {}", lost.id, lost.namespace, lost.why);
        say(&named).map_err(unwritten)
    }

    /// Says that an id that was asked for gives no document, but for the last such error, with which the command ends.
    pub(super) fn failed(&mut self, error: Error) -> archiver::Result<()> {
        self.counts.lost += 1;
        match self.failure.replace(error) {
            Some(earlier) => say_failed(&earlier),
            None => Ok(()),
        }
    }

    fn print(&mut self, recovered: &Recovered) -> archiver::Result<()> {
        self.counts.printed += 1;
        match self.format {
            DocumentFormat::Bson => self.printed.extend_from_slice(&recovered.document),
            DocumentFormat::Ndjson => self.printed.extend_from_slice(ndjson(&recovered.document)?.as_bytes()),
        }
        if self.printed.len() >= PRINTED { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> archiver::Result<()> {
        let printed = std::mem::take(&mut self.printed);
        output::bytes(&printed).map_err(unwritten)
    }

    /// Puts the batch into the target, and prints what became, or would become, of each document.
    async fn put(&mut self) -> archiver::Result<()> {
        let Some(target) = &mut self.target else { return Ok(()) };
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        let refused = |recovered: &Recovered| recovered.is_redacted && !self.allow_redacted;
        let documents: Vec<_> = batch.iter().filter(|r| !refused(r)).map(|r| r.document.clone()).collect();
        let mut actions = Vec::with_capacity(documents.len());
        let put = target.put_all(&documents, &mut actions).await;
        let mut actions = actions.into_iter();
        for recovered in &batch {
            let action = match refused(recovered) {
                true => Some(Action::Redacted),
                false => actions.next().flatten(),
            };
            // Where it failed, nothing is known of those behind.
            let Some(action) = action else { continue };
            self.counts.note(action);
            let marked = if recovered.is_redacted && action != Action::Redacted { "\tredacted" } else { "" };
            self.printed
                .extend_from_slice(format!("{action}\t{}{marked}\n", printable(&recovered.id)).as_bytes());
        }
        put.and(self.flush())
    }

    /// Says now and then how far it is.
    fn progress(&mut self) -> archiver::Result<()> {
        let terminal = io::stderr().is_terminal();
        let every = if terminal { SAY_EVERY.0 } else { SAY_EVERY.1 };
        if self.said.elapsed() < every {
            return Ok(());
        }
        self.said = Instant::now();
        let text = self.words();
        let said = match terminal {
            true => write!(io::stderr().lock(), "\r\x1b[2Kso far: {text}"),
            false => writeln!(io::stderr().lock(), "so far: {text}"),
        };
        said.map_err(|e| unwritten(e.into()))
    }

    /// Gives what is left, also after an error: what was found before it is given.
    pub(super) async fn flush_all(&mut self) -> archiver::Result<()> {
        if !self.batch.is_empty() {
            self.put().await?;
        }
        self.flush()
    }

    /// The counts for the record of a recovery.
    pub(super) fn counts(&self) -> Document {
        let Counts { printed, will_insert, inserted, identical, replaced, conflicts, redacted, lost } =
            self.counts;
        let mut counts = doc! {};
        let named = match &self.target {
            None => vec![("printed", printed)],
            Some(target) if !target.writes() => vec![
                ("willInsert", will_insert),
                ("identical", identical),
                ("conflicts", conflicts),
                ("redacted", redacted),
            ],
            Some(_) => vec![
                ("inserted", inserted),
                ("identical", identical),
                ("replaced", replaced),
                ("conflicts", conflicts),
                ("redacted", redacted),
            ],
        };
        for (name, n) in named.into_iter().chain([("lost", lost)]) {
            counts.insert(name, i64::try_from(n).unwrap_or(i64::MAX));
        }
        counts
    }

    /// How many documents were given.
    pub(super) fn given(&self) -> u64 {
        let Counts { printed, will_insert, inserted, identical, replaced, conflicts, redacted, .. } =
            self.counts;
        printed + will_insert + inserted + identical + replaced + conflicts + redacted
    }

    fn words(&self) -> String {
        let Counts { printed, will_insert, inserted, identical, replaced, conflicts, redacted, .. } =
            self.counts;
        let waiting = self.batch.len();
        match &self.target {
            None => format!("{printed} documents"),
            Some(target) if target.writes() => format!(
                "{inserted} inserted, {identical} identical, {replaced} replaced, {conflicts} in conflict with live ones, \
                 {redacted} refused as redacted{}",
                if waiting > 0 { format!(", {waiting} to be written") } else { String::new() }
            ),
            Some(_) => format!(
                "{will_insert} will be inserted, {identical} identical, {conflicts} in conflict with live ones, {redacted} refused \
                 as redacted"
            ),
        }
    }

    /// Says what is to be known of what was given, and fails where something was not written, else where an id gave nothing.
    pub(super) fn finish(mut self, known: &Policies) -> Result<()> {
        let failure = self.failure.take();
        match (self.told(known), failure) {
            (Err(error), Some(failure)) => {
                say_failed(&failure)?;
                Err(error)
            }
            (told, failure) => told.and(failure.map_or(Ok(()), |failure| Err(failure.into()))),
        }
    }

    /// Says what the documents are not: unredacted; what would happen, or did; and fails where something was not written.
    fn told(&self, known: &Policies) -> Result<()> {
        clear_progress()?;
        for policy in &self.policies {
            match known.plugins(*policy) {
                Some([]) => {}
                Some(plugins) => say(&format!(
                    "note: these plugins changed documents, or may have, so what they removed or replaced is not in them: {}",
                    plugins.join(", ")
                ))?,
                None => say(&format!("note: recorded under a policy that is not known seq={policy}"))?,
            }
        }
        if self.redacted > 0 {
            let more = self.redacted - self.named.len() as u64;
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            say(&format!(
                "note: {} of {} documents are redacted, or may be: {}{more}",
                self.redacted,
                self.given(),
                self.named.join(", ")
            ))?;
        }
        let Some(target) = &self.target else { return Ok(()) };
        if self.namespaces.len() > 1 {
            let names: Vec<String> = self.namespaces.iter().map(ToString::to_string).collect();
            say(&format!(
                "note: the documents are of several collections, and {} is one: {}; --namespace keeps it to one of them",
                target.namespace(),
                names.join(", ")
            ))?;
        }
        let Counts { conflicts, redacted, .. } = self.counts;
        let about = if target.writes() { "done" } else { "plan" };
        say(&format!("{about}: {}", self.words()))?;
        if !target.writes() {
            return Ok(());
        }
        if redacted > 0 {
            return Err(Error::invalid(format!("{redacted} documents are redacted, or may be, and were not written"))
                .hint("what redaction took away would be missing in the live collection; --allow-redacted writes them as they are")
                .into());
        }
        if conflicts > 0 && target.overwrites() {
            return Err(Error::invalid(format!("{conflicts} documents have the _id of one that was written before, and were not written"))
                .hint("they are of several collections, or their ids are masked; --namespace keeps it to one collection")
                .into());
        }
        if conflicts > 0 {
            return Err(Error::invalid(format!(
                "{conflicts} live documents differ, and were left as they are"
            ))
            .hint("--overwrite replaces them")
            .into());
        }
        Ok(())
    }
}

impl Counts {
    fn note(&mut self, action: Action) {
        *match action {
            Action::WillInsert => &mut self.will_insert,
            Action::Inserted => &mut self.inserted,
            Action::Identical => &mut self.identical,
            Action::Conflict => &mut self.conflicts,
            Action::Replaced => &mut self.replaced,
            Action::Redacted => &mut self.redacted,
        } += 1;
    }
}

/// Takes the line off a terminal that says how far it is.
fn clear_progress() -> Result<()> {
    if io::stderr().is_terminal() {
        write!(io::stderr().lock(), "\r\x1b[2K")?;
    }
    Ok(())
}

fn say_failed(error: &Error) -> archiver::Result<()> {
    clear_progress().and_then(|()| say(&format!("error: {error}"))).map_err(unwritten)
}

fn printable(id: &str) -> String {
    id.replace(|c: char| c.is_control(), " ")
}

/// The library's own error, or that stdout takes nothing more: with the cause as it is, by which a reader that went away is known.
fn unwritten(error: anyhow::Error) -> Error {
    let failed = || Error::unavailable("writing to stdout failed");
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(other) => match other.downcast::<io::Error>() {
            Ok(error) => failed().because(error),
            Err(other) => failed().because(other),
        },
    }
}

fn ndjson(document: &[u8]) -> archiver::Result<String> {
    let mut line = String::new();
    let doc =
        Doc::new(document).map_err(|e| Error::corrupt("a recovered document is not valid").because(e))?;
    // The blob only holds what canonical text can't: names like "$oid" as plain fields, NaN payloads.
    if extjson::to_canonical(doc, &mut line).is_some() {
        say("note: Extended JSON does not hold all of the next document; --format bson does")
            .map_err(unwritten)?;
    }
    line.push('\n');
    Ok(line)
}
