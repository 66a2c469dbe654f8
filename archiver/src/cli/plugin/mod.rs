//! `archiver plugin`: the plugin author's loop, one file per command.

mod bench;
mod build;
mod inspect;
mod new;
mod subject;
mod test;

use anyhow::Result;

use super::{EXIT_CODES, Format, Global, Outcome, output};

/// Makes, builds, tests, inspects and measures plugins
///
/// Needs no configuration, except for `test --source`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    New(new::Args),
    Build(build::Args),
    Test(test::Args),
    Inspect(inspect::Args),
    Bench(bench::Args),
}

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    match args.command {
        Command::New(args) => new::run(args),
        Command::Build(args) => build::run(args),
        Command::Test(args) => test::run(args, global).await,
        Command::Inspect(args) => inspect::run(args),
        Command::Bench(args) => bench::run(args),
    }
}
