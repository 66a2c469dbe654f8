//! Log output: lines on stderr, as text or JSON. Other crates' debug lines are never shown: they may hold documents.

use std::io::{self, IsTerminal};

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry;
use tracing_subscriber::util::SubscriberInitExt;

use crate::error::{Error, Result};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line each.
    Text,
    /// One JSON object each.
    Json,
}

/// The environment variable with the filter that holds where no level is given.
pub const FILTER_ENV: &str = "ARCHIVER_LOG";

/// Sends log lines to stderr. The filter is `level`, else `$ARCHIVER_LOG`, else `default`; a bare level is that of
/// Archiver's own lines.
pub fn install(format: LogFormat, level: Option<&str>, default: &str) -> Result<()> {
    let from_env = std::env::var(FILTER_ENV).ok().filter(|v| !v.is_empty());
    let (origin, text) = match (level, &from_env) {
        (Some(text), _) => ("--log-level", text),
        (None, Some(text)) => (FILTER_ENV, text.as_str()),
        (None, None) => ("the default log level", default),
    };
    let filter = parse_filter(origin, text)?;
    let lines = match format {
        LogFormat::Text => fmt::layer()
            .with_writer(io::stderr)
            .with_target(false)
            .with_ansi(io::stderr().is_terminal())
            .boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(io::stderr).boxed(),
    };
    registry()
        .with(lines.with_filter(filter).with_filter(filter_fn(is_harmless)))
        .try_init()
        .map_err(|e| Error::internal("log output is already installed").because(e))
}

/// Reads a filter; a bare level such as `debug` means Archiver's own lines, with warnings of everything else.
fn parse_filter(origin: &str, text: &str) -> Result<EnvFilter> {
    let not_one = || {
        Error::invalid(format!("{origin} is not a log level: {text:?}"))
            .hint("use error, warn, info, debug, trace, or a filter such as warn,archiver::capture=debug")
    };
    let directives = match text.parse::<Level>() {
        Ok(level) => format!("warn,archiver={level}"),
        // A misspelt level would be taken for the name of a module, and silence everything else.
        Err(_) if !text.contains(['=', ',']) => return Err(not_one()),
        Err(_) => text.to_owned(),
    };
    EnvFilter::builder().parse(&directives).map_err(|e| not_one().because(e))
}

/// Whether a line may be shown at all, whatever the filter says: the driver's and other crates' debug lines print
/// commands, requests and documents.
fn is_harmless(line: &Metadata<'_>) -> bool {
    let own = line.target() == "archiver" || line.target().starts_with("archiver::");
    own || *line.level() <= cap(line.target())
}

fn cap(target: &str) -> Level {
    if target.starts_with("mongodb") { Level::WARN } else { Level::INFO }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_crates_debug_lines_are_never_shown() {
        assert_eq!(cap("mongodb"), Level::WARN);
        assert_eq!(cap("hyper::client"), Level::INFO);
        assert_eq!(cap("archiver_like_other"), Level::INFO);
    }

    #[test]
    fn a_bare_level_is_that_of_archivers_own_lines() {
        let shown = |text| parse_filter("--log-level", text).map(|f| f.to_string());
        assert!(shown("debug").is_ok_and(|f| f.contains("warn") && f.contains("archiver=debug")));
        assert!(shown("warn,archiver::capture=trace").is_ok_and(|f| f.contains("archiver::capture=trace")));
        assert!(parse_filter("--log-level", "inof").is_err());
        let error = parse_filter("--log-level", "a=b=c").err();
        assert!(
            error.is_some_and(|e| e.kind() == crate::Kind::Invalid && e.to_string().contains("--log-level"))
        );
    }
}
