//! `archiver plugin new`: a plugin crate that compiles at once.

use std::path::PathBuf;

use anyhow::Result;
use archiver::authoring::template::NewPlugin;

use super::{EXIT_CODES, Outcome, output};

/// Creates a plugin crate that compiles at once and passes its own tests
///
/// With a plugin of twenty lines, its tests, sample events, and the sources of this version's plugin-sdk: nothing is
/// downloaded but what cargo gets from crates.io.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The plugin's name: a lower-case letter, then lower-case letters, digits, _ or -
    name: String,
    /// The folder to create [default: one named like the plugin, here]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Depend on the plugin-sdk in this folder instead of writing its sources beside the plugin
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> Result<Outcome> {
    let folder = args.path.unwrap_or_else(|| PathBuf::from(&args.name));
    NewPlugin { name: args.name, folder: folder.clone(), sdk: args.sdk }.create()?;
    let folder = folder.display();
    output::text(&format!(
        "created {folder}: the plugin is src/lib.rs. Next:\n\n  \
         cd {folder}\n  \
         cargo test                  # natively\n  \
         archiver plugin test .      # on events.jsonl in the sandbox: shows what changes\n  \
         archiver plugin build .     # the .wasm file and the lines for archiver.toml\n"
    ))?;
    Ok(Outcome::Fine)
}
