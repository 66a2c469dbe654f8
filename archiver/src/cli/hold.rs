//! `archiver hold`: legal holds, under which nothing expires.

use anyhow::Result;
use archiver::Error;
use archiver::audit_log::NewHold;
use archiver::hold::Held;
use archiver::service::{add_hold, list_holds, release_hold};
use clap::Subcommand;

use super::{EXIT_CODES, Format, Global, Outcome, output, parse_time};

/// Adds, lists and releases legal holds: under a hold nothing that it covers expires
///
/// A hold concerns [archive] retention only. What a store deletes by rules of its own (a lifecycle rule) it does not know of:
/// there, set the store's own legal hold too.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Puts a hold in force
    ///
    /// When it ends with 0, nothing that the hold covers is deleted any more; it waits for a deletion that has begun, half a minute
    /// at most. Whole segments are held, and with one all later ones of its source.
    #[command(after_help = EXIT_CODES)]
    Add(AddArgs),
    /// Shows the holds in force
    #[command(after_help = EXIT_CODES)]
    List(ListArgs),
    /// Ends a hold: what it covered may expire again
    #[command(after_help = EXIT_CODES)]
    Release(ReleaseArgs),
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// Only this source
    #[arg(long, value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    source: Option<String>,
    /// All sources, also later ones
    #[arg(long)]
    all: bool,
    /// Why, in one line
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Only what happened from this time on (RFC 3339)
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only what happened before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Who orders it [default: the user of the operating system]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Those that were released, too
    #[arg(long)]
    released: bool,
    /// How they are printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct ReleaseArgs {
    /// The hold, as `archiver hold list` shows it
    #[arg(value_name = "ID")]
    id: i64,
    /// Why, in one line
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who orders it [default: the user of the operating system]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    let config = global.config()?;
    match args.command {
        Command::Add(AddArgs { source, reason, from, to, by, .. }) => {
            let from = from.as_deref().map(|t| parse_time("--from", t)).transpose()?;
            let to = to.as_deref().map(|t| parse_time("--to", t)).transpose()?;
            let hold = add_hold(&config, NewHold { source, from, to, reason, by: who(by)? }).await?;
            output::text(&format!("legal hold {} is in force since {}\n", hold.id, hold.at))?;
        }
        Command::List(args) => list(args, list_holds(&config).await?)?,
        Command::Release(ReleaseArgs { id, reason, by }) => {
            let release = release_hold(&config, id, &reason, &who(by)?).await?;
            output::text(&format!("legal hold {id} is released since {}\n", release.at))?;
        }
    }
    Ok(Outcome::Fine)
}

/// Whoever was named, else the user of the operating system.
fn who(by: Option<String>) -> Result<String> {
    let user =
        || ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|u| !u.is_empty()));
    let who = by.or_else(user);
    Ok(who.ok_or_else(|| Error::invalid("it is not known who orders it").hint("say it with --by NAME"))?)
}

fn list(args: ListArgs, mut holds: Vec<Held>) -> Result<()> {
    holds.retain(|held| args.released || held.is_in_force());
    if args.format == Format::Json {
        return output::json(&holds);
    }
    output::table(
        &["id", "source", "from", "to", "since", "by", "reason", "released"],
        holds.iter().map(|Held { hold, released }| {
            let time = |time: Option<jiff::Timestamp>| time.map_or("-".to_owned(), |time| time.to_string());
            let released = released.as_ref().map(|r| format!("{} by {}: {}", r.at, r.by, r.reason));
            vec![
                hold.id.to_string(),
                hold.source.clone().unwrap_or_else(|| "all".to_owned()),
                time(hold.from),
                time(hold.to),
                hold.at.to_string(),
                hold.by.clone(),
                hold.reason.clone(),
                released.unwrap_or_else(|| "-".to_owned()),
            ]
        }),
    )
}
