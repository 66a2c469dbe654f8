//! `archiver recover`: gives documents back as they were.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::Result;
use archiver::archive::extjson;
use archiver::config::Config;
use archiver::history::id::DocumentId;
use archiver::history::policies::Policies;
use archiver::history::recover::{Recovered, Summary, by_id, deleted_since};
use archiver::history::restore::{Action, Target};
use archiver::history::{History, Namespace, removed_words};
use archiver::record::RecordId;
use archiver::{Error, Kind};
use bson_walker::Doc;
use clap::ValueEnum;

use super::{EXIT_CODES, Global, Outcome, output, parse_time};

/// Gives documents back as they were at a time, by default just before they were deleted
///
/// A document that was inserted again comes back as it was before its last deletion. Prints the documents; with
/// --to-namespace shows what would be written there instead, and with --apply writes it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The source
    #[arg(long, value_name = "NAME")]
    pub(super) source: String,
    /// The document's _id: plain text for a string or ObjectId, else Extended JSON; may be given several times
    #[arg(long, required_unless_present = "deleted_since", conflicts_with = "deleted_since")]
    pub(super) id: Vec<String>,
    /// Every document deleted since this time (RFC 3339) that is not there again: by itself, with its collection or
    /// database, or because another collection took the collection's name
    #[arg(long, value_name = "TIME", conflicts_with = "at")]
    pub(super) deleted_since: Option<String>,
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

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    let since = args.deleted_since.as_deref().map(|t| parse_time("--deleted-since", t)).transpose()?;
    let at = args.at.as_deref().map(|t| parse_time("--at", t)).transpose()?;
    let namespace = args.namespace.as_deref().map(Namespace::parse).transpose()?;
    let ids = args.id.iter().map(|id| DocumentId::parse(id)).collect::<archiver::Result<Vec<_>>>()?;
    let config = global.config()?;
    let mut give = Give::open(&args, &config).await?;
    let history = super::history::open(global).await?;
    match since {
        Some(since) => {
            let give_one = async |recovered: Recovered| give.one(&recovered).await;
            let summary =
                deleted_since(&history, &args.source, since.as_second(), namespace.as_ref(), give_one)
                    .await?;
            give.finish(&summary.policies)?;
            lost(&summary)
        }
        None => {
            // A change's time is the beginning of its second; what began before T counts.
            let at = at.map(|at| at.as_second() + i64::from(at.subsec_nanosecond() > 0));
            by_ids(&history, &args.source, &ids, at, namespace.as_ref(), &mut give).await
        }
    }
}

/// Gives every document back that can be; then fails with the first that can't.
async fn by_ids(
    history: &History,
    source: &str,
    ids: &[DocumentId],
    at: Option<i64>,
    namespace: Option<&Namespace>,
    give: &mut Give,
) -> Result<Outcome> {
    let mut known = Policies::default();
    let mut failures = Vec::new();
    for id in ids {
        match by_id(history, source, id, at, namespace).await {
            Ok((recovered, policies)) => {
                give.one(&recovered).await?;
                known = policies;
            }
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid) => failures.push(error),
            Err(error) => return Err(error.into()),
        }
    }
    give.finish(&known)?;
    let mut failures = failures.into_iter();
    let Some(first) = failures.next() else { return Ok(Outcome::Fine) };
    for other in failures {
        say(&format!("error: {other}"))?;
    }
    Err(first.into())
}

/// Says what of a period could not be given back.
fn lost(summary: &Summary) -> Result<Outcome> {
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
    for lost in &summary.lost {
        say(&format!("not recovered: {:?} of {}: {}", lost.id, lost.namespace, lost.why))?;
    }
    say(&format!("{} recovered, {} not", summary.recovered, summary.lost.len()))?;
    match summary.lost.len() {
        0 => Ok(Outcome::Fine),
        n => Err(Error::not_found(format!("history can't give {n} deleted documents back")).into()),
    }
}

/// Where recovered documents go.
struct Give {
    format: DocumentFormat,
    target: Option<Target>,
    policies: BTreeSet<RecordId>,
    conflicts: u64,
}

impl Give {
    async fn open(args: &Args, config: &Config) -> Result<Give> {
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
        Ok(Give { format: args.format, target, policies: BTreeSet::new(), conflicts: 0 })
    }

    async fn one(&mut self, recovered: &Recovered) -> archiver::Result<()> {
        self.policies.extend(&recovered.policies);
        let Some(target) = &self.target else {
            return match self.format {
                DocumentFormat::Bson => bytes(&recovered.document),
                DocumentFormat::Ndjson => ndjson(&recovered.document),
            }
            .map_err(unwritten);
        };
        let action = target.put(&recovered.document).await?;
        if action == Action::Conflict {
            self.conflicts += 1;
        }
        output::text(&format!("{action}\t{}\n", recovered.id.replace(['\n', '\t'], " "))).map_err(unwritten)
    }

    /// Says what the documents are not: unredacted; and what was not written.
    fn finish(&self, known: &Policies) -> Result<()> {
        for policy in &self.policies {
            match known.plugins(*policy) {
                Some([]) => {}
                Some(plugins) => say(&format!(
                    "note: recorded through plugins, so what they removed or replaced is not in the documents: {}",
                    plugins.join(", ")
                ))?,
                None => say(&format!("note: recorded under a policy that is not known seq={policy}"))?,
            }
        }
        match (self.conflicts, &self.target) {
            (n, Some(target)) if n > 0 && target.writes() => {
                Err(Error::invalid(format!("{n} live documents differ, and were left as they are"))
                    .hint("--overwrite replaces them")
                    .into())
            }
            _ => Ok(()),
        }
    }
}

/// The library's own error, or that stdout takes nothing more: with the cause as it is, by which a reader that went away is known.
fn unwritten(error: anyhow::Error) -> Error {
    let failed = || Error::unavailable("writing to stdout failed");
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(other) => match other.downcast::<std::io::Error>() {
            Ok(error) => failed().because(error),
            Err(other) => failed().because(other),
        },
    }
}

fn ndjson(document: &[u8]) -> Result<()> {
    let mut line = String::new();
    let doc =
        Doc::new(document).map_err(|e| Error::corrupt("a recovered document is not valid").because(e))?;
    // The blob only holds what canonical text can't: names like "$oid" as plain fields, NaN payloads.
    if extjson::to_canonical(doc, &mut line).is_some() {
        say("note: Extended JSON does not hold all of the next document; --format bson does")?;
    }
    line.push('\n');
    output::text(&line)
}

fn bytes(document: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(document)?;
    Ok(out.flush()?)
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stderr().lock(), "{line}")?)
}
