//! `archiver roll`: rolls what the hot tier holds now.

use anyhow::Result;
use archiver::service;
use archiver::stream_id::StreamId;

use super::{EXIT_CODES, Format, Global, Outcome, output};

/// Rolls what the audit log holds now into segments
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Only this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// How the segments written are listed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    let rolled = service::roll(&global.config()?, args.source.as_deref()).await?;
    match args.format {
        Format::Json => output::json(&rolled)?,
        Format::Table => output::table(
            &["source", "segment", "records", "first seq", "end seq"],
            rolled.iter().map(|r| {
                let numbers = [r.rows.to_string(), r.first_seq.to_string(), r.end_seq.to_string()];
                let stream = StreamId { source: r.source.clone(), partition: r.partition };
                [stream.to_string(), r.segment.clone()].into_iter().chain(numbers).collect()
            }),
        )?,
    }
    Ok(Outcome::Fine)
}
