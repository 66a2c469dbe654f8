//! `archiver plugin build`: from a plugin's crate to the file that a configuration pins.

use std::path::{Path, PathBuf};

use anyhow::Result;
use archiver::plugin::workbench::{Inspection, inspect};
use serde::Serialize;

use super::subject::Subject;
use super::{EXIT_CODES, Format, Outcome, output};

/// Builds a plugin's crate for the sandbox, checks it, and prints the lines for archiver.toml
///
/// Runs cargo in release mode for wasm32-unknown-unknown, with this machine's folders taken out: the same sources give
/// the same bytes in every folder. Then loads the file as the service does. Exits with 14 where either fails.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The crate's folder
    #[arg(default_value = ".", value_name = "DIR")]
    folder: PathBuf,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Serialize)]
struct Built<'a> {
    path: &'a Path,
    #[serde(flatten)]
    found: &'a Inspection,
}

pub(super) fn run(args: Args) -> Result<Outcome> {
    let plugin = archiver::authoring::cargo::PluginCrate::find(&args.folder)?;
    let subject = Subject { file: plugin.build()?, plugin: Some(plugin) };
    let found = inspect(&subject.file)?;
    // Where the crate brings a configuration, it must be one that the plugin accepts.
    let config = subject.config(None)?;
    subject.load(&config)?;
    match args.format {
        Format::Json => output::json(&Built { path: &subject.file, found: &found })?,
        Format::Table => {
            super::inspect::table(&found)?;
            output::text(&format!("\n{}", snippet(&subject, &found, config.json.expose())))?;
        }
    }
    Ok(Outcome::Fine)
}

/// The lines for archiver.toml.
fn snippet(subject: &Subject, found: &Inspection, config: &str) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let path = subject.file.display().to_string();
    let mut lines = format!(
        "[[plugin]]\nname = {}\npath = {}\nsha256 = {}\n",
        quoted(&found.name),
        quoted(&path),
        quoted(&found.sha256)
    );
    if let Ok(serde_json::Value::Object(config)) = serde_json::from_str(config)
        && !config.is_empty()
    {
        lines.push_str(&format!("config = {}\n", inline(&serde_json::Value::Object(config))));
    }
    lines
}

/// A JSON value as TOML in one line. Null has no place there; a configuration from TOML has none.
fn inline(value: &serde_json::Value) -> String {
    use serde_json::Value as Json;
    let is_bare = |key: &str| {
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    match value {
        Json::Object(fields) if fields.is_empty() => "{}".to_owned(),
        Json::Object(fields) => {
            let field = |(key, value): (&String, &Json)| {
                let key = if is_bare(key) { key.clone() } else { Json::from(key.as_str()).to_string() };
                format!("{key} = {}", inline(value))
            };
            format!("{{ {} }}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        Json::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_in_one_line_is_the_same_configuration() {
        let config = serde_json::json!({
            "rules": [{"path": "a.b", "action": "mask", "keep_last": 4}, {"odd key": -1.5}], "text": "quote \" tab \t", "on": true, "none": {},
        });
        let line = format!("config = {}", inline(&config));
        let read: serde_json::Value = toml::from_str(&line).unwrap();
        assert_eq!(read["config"], config);
        assert!(!line.contains('\n'));
    }
}
