//! `archiver plugin inspect`: what a plugin's file is, declares and reaches.

use std::path::PathBuf;

use anyhow::Result;
use archiver::plugin::workbench::{Inspection, inspect};

use super::{EXIT_CODES, Format, Outcome, output};

/// Shows a plugin's contract version, imports, exports, declared grants, size and hash
///
/// Exits with 14, and says why, where the host would refuse the file.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The plugin's .wasm file
    file: PathBuf,
    /// How it is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(super) fn run(args: Args) -> Result<Outcome> {
    let found = inspect(&args.file)?;
    match args.format {
        Format::Json => output::json(&found)?,
        Format::Table => table(&found)?,
    }
    Ok(Outcome::Fine)
}

/// One line for each thing known.
pub(super) fn table(found: &Inspection) -> Result<()> {
    let grants = match (found.may_modify, found.may_drop) {
        (true, true) => "modify, drop",
        (true, false) => "modify",
        (false, true) => "drop",
        (false, false) => "none: it can only keep events, or fail on them",
    };
    let schema = match found.config_schema.len() {
        0 => "none".to_owned(),
        bytes => format!("{bytes} bytes; --format json shows it"),
    };
    let rows = [
        ("name", found.name.clone()),
        ("version", found.version.clone()),
        ("contract", found.contract.clone()),
        ("grants", grants.to_owned()),
        ("imports", found.imports.join(", ")),
        ("exports", found.exports.join(", ")),
        ("config schema", schema),
        ("size", format!("{} bytes", found.bytes)),
        ("sha256", found.sha256.clone()),
    ];
    output::table(&["PLUGIN", ""], rows.map(|(name, value)| vec![name.to_owned(), value]))
}
