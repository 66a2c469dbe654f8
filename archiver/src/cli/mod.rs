//! The command line: one file per command, with its arguments and output and no logic of its own.

mod check;
mod history;
mod hold;
mod output;
mod plugin;
mod quarantine;
mod recover;
mod reload;
mod replay;
mod roll;
mod run;
mod sql;
mod status;
mod verify;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use archiver::config::{Config, Secret};
use archiver::telemetry::{self, LogFormat};
use archiver::{Error, Kind};
use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;

/// Stands at the end of every command's help.
const EXIT_CODES: &str = "\
Exit codes:
   0  fine
   1  internal error
   2  wrong usage
   3  findings (check, verify)
  10  invalid configuration or argument; recover left conflicts
  11  unavailable: a server or store can't be reached or refuses
  12  history lost: events are missing, in MongoDB or for a replay
  13  fenced: another process has the source, or a replay's state
  14  a plugin can't be loaded or failed
  15  corrupt: stored data is not what was written
  16  not found, or some of it can't be told";

/// Keeps an exact, queryable, redacted history of MongoDB collections.
#[derive(Debug, Parser)]
#[command(name = "archiver", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The configuration file [default: $ARCHIVER_CONFIG, else archiver.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How log lines on stderr look
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t = Log::Text)]
    log_format: Log,
    /// error, warn, info, debug, trace, or a filter such as archiver::capture=debug [default: $ARCHIVER_LOG, else
    /// info for run, roll, verify and replay, warn for the others]
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Log {
    /// One readable line each.
    Text,
    /// One JSON object each.
    Json,
}

/// How a listing command prints its data on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns, for people.
    Table,
    /// JSON, for programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Status(status::Args),
    History(history::Args),
    Recover(recover::Args),
    Replay(replay::Args),
    Verify(verify::Args),
    Roll(roll::Args),
    Quarantine(quarantine::Args),
    Hold(hold::Args),
    Reload(reload::Args),
    Sql(sql::Args),
    Plugin(plugin::Args),
}

/// How a command that did its work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Exit code 0.
    Fine,
    /// Exit code 3: `check` or `verify` found something.
    Findings,
}

impl Global {
    /// Where the configuration is read from.
    pub(crate) fn config_path(&self) -> PathBuf {
        let from_env = || std::env::var_os("ARCHIVER_CONFIG").filter(|v| !v.is_empty()).map(PathBuf::from);
        self.config.clone().or_else(from_env).unwrap_or_else(|| PathBuf::from("archiver.toml"))
    }

    /// The checked configuration.
    pub(crate) fn config(&self) -> archiver::Result<Config> {
        Config::load(&self.config_path())
    }
}

impl Command {
    fn default_level(&self) -> &'static str {
        match self {
            Command::Run(_) | Command::Roll(_) | Command::Verify(_) | Command::Replay(_) => "info",
            _ => "warn",
        }
    }

    async fn execute(self, global: &Global) -> Result<Outcome> {
        match self {
            Command::Run(args) => run::run(args, global).await,
            Command::Check(args) => check::run(args, global).await,
            Command::Status(args) => status::run(args, global).await,
            Command::History(args) => history::run(args, global).await,
            Command::Recover(args) => recover::run(args, global).await,
            Command::Replay(args) => replay::run(args, global).await,
            Command::Verify(args) => verify::run(args, global).await,
            Command::Roll(args) => roll::run(args, global).await,
            Command::Quarantine(args) => quarantine::run(args, global).await,
            Command::Hold(args) => hold::run(args, global).await,
            Command::Reload(args) => reload::run(args, global).await,
            Command::Sql(args) => sql::run(args, global).await,
            Command::Plugin(args) => plugin::run(args, global).await,
        }
    }
}

/// Runs the command to its end.
pub(crate) fn start(cli: Cli) -> ExitCode {
    match try_start(cli) {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(3),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told when stderr itself is closed.
            let _ = write!(std::io::stderr().lock(), "{}", explain(&error));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn try_start(cli: Cli) -> Result<Outcome> {
    let Cli { global, command } = cli;
    let format = match global.log_format {
        Log::Text => LogFormat::Text,
        Log::Json => LogFormat::Json,
    };
    telemetry::install(format, global.log_level.as_deref(), command.default_level())?;
    archiver::archive::store::install_tls();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime can't be started")?;
    let ended = runtime.block_on(command.execute(&global));
    // Ends with the process, and with it what nobody wants any more, such as a segment that was being built: what counts is
    // stored already. Shut down in order, it cancels the driver's tasks in any order, and one that says goodbye to the server
    // panics where the task that gives it a connection is gone already (mongodb 3.9.1, connection_requester.rs).
    std::mem::forget(runtime);
    ended
}

/// The library's error in the chain, which knows the exit code and what to do next.
fn of_archiver(error: &anyhow::Error) -> Option<&Error> {
    error.chain().find_map(|cause| cause.downcast_ref::<Error>())
}

fn exit_code(error: &anyhow::Error) -> u8 {
    of_archiver(error).map_or(Kind::Internal, Error::kind).exit_code()
}

/// What stderr gets: the error, its causes, and what to do next.
fn explain(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}\n");
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let next = cause.to_string();
        // Some crates' errors repeat their source.
        if next != last {
            text.push_str(&format!("  caused by: {next}\n"));
        }
        last = next;
    }
    let hints = error.chain().filter_map(|cause| cause.downcast_ref::<Error>()).filter_map(Error::hint_text);
    for hint in hints {
        text.push_str(&format!("  hint: {hint}\n"));
    }
    text
}

/// Whether the reader of stdout went away (`archiver history … | head`), which is no error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Reads a time given for `argument`.
pub(crate) fn parse_time(argument: &str, text: &str) -> archiver::Result<Timestamp> {
    text.parse::<Timestamp>().map_err(|_| {
        Error::invalid(format!("{argument} is not a time: {text:?}"))
            .hint("times are RFC 3339 with a zone, for example 2026-11-21T09:30:00Z or 2026-11-21T09:30:00.250+01:00")
    })
}

/// Reads the values of `--option`.
pub(crate) fn parse_options(options: &[String]) -> archiver::Result<Vec<(String, Secret)>> {
    let parse = |option: &String| {
        let (key, value) = option.split_once('=').filter(|(key, _)| !key.is_empty())?;
        Some((key.to_owned(), Secret::new(value)))
    };
    // The value may be a secret, so it is not shown.
    let wrong = || Error::invalid("--option is not KEY=VALUE").hint("for example --option region=eu-west-1");
    options.iter().map(|option| parse(option).ok_or_else(wrong)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_commands_help_lists_the_exit_codes() {
        let mut program = Cli::command();
        program.build();
        assert!(program.render_long_help().to_string().contains(EXIT_CODES));
        let mut commands: Vec<_> = program.get_subcommands_mut().collect();
        while let Some(command) = commands.pop() {
            let help = command.render_long_help().to_string();
            assert!(help.contains(EXIT_CODES), "{} does not", command.get_name());
            commands.extend(command.get_subcommands_mut());
        }
    }

    #[test]
    fn a_time_without_a_zone_is_refused_with_an_example() {
        let error = parse_time("--from", "yesterday").unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert_eq!(error.to_string(), "--from is not a time: \"yesterday\"");
        assert!(error.hint_text().unwrap().contains("2026-11-21T09:30:00Z"));
        assert!(parse_time("--from", "2026-11-21T09:30:00").is_err());
        assert_eq!(parse_time("--at", "2026-11-21T09:30:00.250Z").unwrap().as_millisecond() % 1000, 250);
    }

    #[test]
    fn an_option_has_a_key_and_its_value_is_never_shown() {
        let options = parse_options(&["endpoint=http://x?a=b".to_owned(), "token=".to_owned()]).unwrap();
        assert_eq!((options[0].0.as_str(), options[0].1.expose()), ("endpoint", "http://x?a=b"));
        assert_eq!((options[1].0.as_str(), options[1].1.expose()), ("token", ""));
        let error = parse_options(&["s3cret".to_owned()]).unwrap_err();
        assert!(error.kind() == Kind::Invalid && !error.to_string().contains("s3cret"));
        assert!(parse_options(&["=x".to_owned()]).is_err());
    }

    #[test]
    fn an_error_is_explained_with_its_causes_and_hint() {
        let inner = Error::unavailable("mongodb did not answer").hint("start it");
        let error = anyhow::Error::from(Error::internal("status failed").because(inner));
        assert_eq!(
            explain(&error),
            "error: status failed\n  caused by: mongodb did not answer\n  hint: start it\n"
        );
        assert_eq!(exit_code(&error), 1);
        assert_eq!(exit_code(&anyhow::Error::from(Error::plugin("x")).context("y")), 14);
        assert_eq!(exit_code(&anyhow::anyhow!("x")), 1);
    }
}
