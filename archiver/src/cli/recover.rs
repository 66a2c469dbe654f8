//! `archiver recover`: gives documents back as they were.

mod give;

use std::io::{BufRead, BufReader, Read, Write};

use anyhow::Result;
use archiver::Error;
use archiver::config::Config;
use archiver::history::access::Access;
use archiver::history::id::DocumentId;
use archiver::history::recover::{
    Answer, Conditions, Recovered, Summary, as_of, by_ids, by_many_ids, deleted_since,
};
use archiver::history::{History, Namespace, removed_words};
use bson::{DateTime, Document, doc};
use bson_walker::Doc;
use clap::{ArgGroup, ValueEnum};
use jiff::Timestamp;

use super::{EXIT_CODES, Global, Outcome, parse_time};
use give::Give;

/// Gives documents back as they were at a time, by default just before they were deleted
///
/// A document that was inserted again comes back as it was before its last deletion. Prints the documents; with
/// --to-namespace shows what would be written there instead, and with --apply writes it. Interrupted, it is finished by running it
/// again: what is there already is left as it is.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
#[command(group = ArgGroup::new("selection").args(["id", "ids_from", "deleted_since", "conditions", "all"]).multiple(true).required(true))]
pub(crate) struct Args {
    /// The source
    #[arg(long, value_name = "NAME")]
    pub(super) source: String,
    /// The document's _id: plain text for a string or ObjectId, else Extended JSON; may be given several times
    #[arg(long, conflicts_with_all = ["deleted_since", "conditions", "all"])]
    pub(super) id: Vec<String>,
    /// Ids from a file, one a line, written as for --id; - is stdin. The documents of more than a few come in no order
    #[arg(long, value_name = "FILE", conflicts_with_all = ["deleted_since", "conditions", "all"])]
    pub(super) ids_from: Option<String>,
    /// Every document deleted since this time (RFC 3339) that is not there again: by itself, with its collection or
    /// database, or because another collection took the collection's name
    #[arg(long, value_name = "TIME", conflicts_with_all = ["at", "all"])]
    pub(super) deleted_since: Option<String>,
    /// Every document that met this condition, and all others that are given: with --at then, else just before it was deleted and did
    /// not come back
    ///
    /// FIELD=VALUE, with !=, <, <=, > or >= instead of =; the field is dotted, the value plain text or Extended JSON, as for --id. It
    /// means what it means in a query of MongoDB: an array meets it with any of its elements, what is not there is null, numbers are
    /// compared by value whatever their type, and < and > compare within one type (numbers, strings, dates, timestamps, ObjectIds,
    /// booleans).
    #[arg(id = "conditions", long = "where", value_name = "CONDITION")]
    pub(super) conditions: Vec<String>,
    /// Every document there was; needs --at
    #[arg(long, requires = "at")]
    pub(super) all: bool,
    /// As the documents were at this time (RFC 3339), after the changes that history --to TIME lists: those whose second,
    /// the unit of MongoDB's clock, began before it [default: just before their deletion; needed for documents that were
    /// never deleted]
    #[arg(long, value_name = "TIME")]
    pub(super) at: Option<String>,
    /// Only documents of this namespace [default: all of the source]
    #[arg(long, value_name = "DB.COLLECTION")]
    pub(super) namespace: Option<String>,
    /// The collection into which --apply writes; without --apply: what would be written
    #[arg(long, value_name = "DB.COLLECTION")]
    pub(super) to_namespace: Option<String>,
    /// Write the documents to --to-namespace; never over a live document
    #[arg(long, requires = "to_namespace")]
    pub(super) apply: bool,
    /// Let --apply replace live documents
    #[arg(long, requires = "apply")]
    pub(super) overwrite: bool,
    /// Write documents that plugins have changed, or may have, too: what redaction took away is not in them
    #[arg(long, requires = "to_namespace")]
    pub(super) allow_redacted: bool,
    /// Why, in one line: stands in the record that --apply leaves in the source's history. Without --apply a recovery leaves a record
    /// where a reason is given
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
    /// How the documents are printed
    #[arg(long, value_enum, default_value_t = DocumentFormat::Ndjson)]
    pub(super) format: DocumentFormat,
}

/// How documents are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DocumentFormat {
    /// One canonical Extended JSON document a line.
    Ndjson,
    /// Concatenated BSON, as mongorestore reads it.
    Bson,
}

/// Which documents, and as of when.
struct Selection {
    ids: Vec<DocumentId>,
    /// Whether they are from a file, so that there may be any number.
    from_file: bool,
    since: Option<Timestamp>,
    conditions: Conditions,
    at: Option<Timestamp>,
    namespace: Option<Namespace>,
}

impl Selection {
    fn of(args: &Args) -> Result<Selection> {
        let time =
            |name: &str, text: &Option<String>| text.as_deref().map(|t| parse_time(name, t)).transpose();
        let mut ids = args.id.iter().map(|id| DocumentId::parse(id)).collect::<archiver::Result<Vec<_>>>()?;
        if let Some(file) = &args.ids_from {
            ids.extend(ids_from(file)?);
        }
        Ok(Selection {
            ids,
            from_file: args.ids_from.is_some(),
            since: time("--deleted-since", &args.deleted_since)?,
            conditions: Conditions::parse(&args.conditions)?,
            at: time("--at", &args.at)?,
            namespace: args.namespace.as_deref().map(Namespace::parse).transpose()?,
        })
    }

    /// For the record of it: nothing that documents may hold.
    fn what(&self, args: &Args) -> Document {
        let date = |time: Timestamp| DateTime::from_millis(time.as_millisecond());
        let mut what = doc! {};
        what.extend(self.since.map(|since| ("deletedSince".to_owned(), date(since).into())));
        if !self.conditions.is_empty() {
            what.insert("where", self.conditions.without_values().collect::<Vec<_>>());
        }
        if args.all {
            what.insert("all", true);
        }
        what.extend(self.at.map(|at| ("asOf".to_owned(), date(at).into())));
        what.extend(self.namespace.as_ref().map(|name| ("namespace".to_owned(), name.to_string().into())));
        for (name, is) in [("overwrite", args.overwrite), ("allowRedacted", args.allow_redacted)] {
            what.extend(is.then(|| (name.to_owned(), true.into())));
        }
        what
    }

    /// Gives the documents to `give`.
    async fn recover(&self, history: &History, source: &str, give: &mut Give) -> archiver::Result<Summary> {
        // A change's time is the beginning of its second; what began before T counts.
        let at = self.at.map(|at| at.as_second() + i64::from(at.subsec_nanosecond() > 0));
        let namespace = self.namespace.as_ref();
        if !self.ids.is_empty() {
            let take = async |found: archiver::Result<Recovered>| match found {
                Ok(recovered) => give.one(recovered).await,
                Err(error) => give.failed(error),
            };
            let ids = &self.ids;
            let policies = match self.from_file {
                true => by_many_ids(history, source, ids, at, namespace, take).await?,
                false => by_ids(history, source, ids, at, namespace, take).await?,
            };
            return Ok(Summary { policies, ..Summary::default() });
        }
        match at {
            Some(at) => {
                let take = async |answer: Answer| match answer {
                    Ok(recovered) => give.one(recovered).await,
                    Err(lost) => give.lost(&lost),
                };
                as_of(history, source, at, namespace, &self.conditions, take).await
            }
            None => {
                let since = self.since.map_or(0, |since| since.as_second());
                let met =
                    |document: &[u8]| Doc::new(document).is_ok_and(|doc| self.conditions.match_doc(doc));
                let take = async |answer: Answer| match answer {
                    Ok(recovered) if met(&recovered.document) => give.one(recovered).await,
                    Ok(_) => Ok(()),
                    Err(lost) => give.lost(&lost),
                };
                deleted_since(history, source, since, namespace, take).await
            }
        }
    }
}

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    let selection = Selection::of(&args)?;
    let config = global.config()?;
    let mut give = Give::open(&args, &config).await?;
    let history = super::history::open(global).await?;
    let source = &args.source;
    // Both before anything is read, not to speak of given.
    note(&history, &config, &args, &selection, &give).await?;
    let recovery = match args.apply || args.reason.is_some() {
        true => {
            let access = access(&args, &selection, &give).await?;
            Some(history.begin_recovery(source, access, args.reason.as_deref()).await?)
        }
        false => None,
    };
    let ended = selection.recover(&history, source, &mut give).await;
    let flushed = give.flush_all().await;
    let ended = ended.and_then(|ended| flushed.map(|()| ended));
    if let Some(recovery) = recovery {
        let failed = ended.as_ref().err().map(|error| error.kind().name());
        let noted = recovery.end(give.counts(), failed).await;
        if ended.is_ok() {
            noted?;
        }
    }
    finish(give, &ended?, &selection)
}

async fn access<'a>(args: &Args, selection: &'a Selection, give: &Give) -> Result<Access<'a>> {
    let mut what = selection.what(args);
    what.extend(give.target().await?);
    Ok(Access { command: "recover", ids: &selection.ids, what })
}

/// Notes that somebody reads, where that is wanted.
async fn note(
    history: &History,
    config: &Config,
    args: &Args,
    selection: &Selection,
    give: &Give,
) -> Result<()> {
    if config.record_access {
        let access = access(args, selection, give).await?;
        history.note_access(config, &args.source, access).await?;
    }
    Ok(())
}

fn ids_from(file: &str) -> Result<Vec<DocumentId>> {
    let failed = |e: std::io::Error| Error::invalid(format!("--ids-from can't be read: {file}")).because(e);
    let reader: Box<dyn Read> = match file {
        "-" => Box::new(std::io::stdin()),
        path => Box::new(std::fs::File::open(path).map_err(failed)?),
    };
    let mut ids = Vec::new();
    for (n, line) in BufReader::new(reader).lines().enumerate() {
        let line = line.map_err(failed)?;
        if line.is_empty() {
            continue;
        }
        let id = DocumentId::parse(&line);
        ids.push(id.map_err(|e| Error::invalid(format!("--ids-from: line {} is no id", n + 1)).because(e))?);
    }
    match ids.is_empty() {
        true => Err(Error::invalid(format!("--ids-from holds no id: {file}")).into()),
        false => Ok(ids),
    }
}

/// Says what could not be given back, and fails where that is something.
fn finish(give: Give, summary: &Summary, selection: &Selection) -> Result<Outcome> {
    if !selection.ids.is_empty() {
        return give.finish(&summary.policies).map(|()| Outcome::Fine);
    }
    let given = give.given();
    let finished = give.finish(&summary.policies);
    of_period(summary, given, selection)?;
    finished?;
    match summary.lost {
        0 => Ok(Outcome::Fine),
        n => Err(Error::not_found(format!("history can't give {n} documents back"))
            .hint("each is named above, with why; archiver history shows what is kept of it")
            .into()),
    }
}

/// Says what is to be known of a period, and how many of its documents could not be given back.
fn of_period(summary: &Summary, given: u64, selection: &Selection) -> Result<()> {
    for (from, to) in &summary.renamed {
        say(&format!(
            "note: {from} was renamed to {to}: its documents are not deleted, they went on under that name"
        ))?;
    }
    if let Some(until) = summary.removed_until {
        say(&format!(
            "note: {}; documents that have not changed since then are not known",
            removed_words(until)
        ))?;
    }
    if summary.unseen.unnamed > 0 {
        say(&format!(
            "note: {} changes were withheld, and nobody can say of which documents: some of these may be there again; archiver quarantine list shows them",
            summary.unseen.unnamed
        ))?;
    }
    for namespace in &summary.unseen.namespaces {
        say(&format!(
            "note: behind deletions in {namespace} history is missing, or it is not watched any more: some of these documents may be there again"
        ))?;
    }
    if summary.withheld > 0 {
        let (what, which) = match selection.at {
            Some(_) => ("inserts were withheld before that time", "whose they are"),
            None => ("deletions were withheld", "what they ended"),
        };
        say(&format!(
            "note: {} {what}: {which} need not be among these; archiver quarantine list shows them",
            summary.withheld
        ))?;
    }
    if summary.lost > 0 && !selection.conditions.is_empty() {
        say("note: whether these met the conditions can't be told either")?;
    }
    say(&format!("{given} recovered, {} not", summary.lost))
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stderr().lock(), "{line}")?)
}
