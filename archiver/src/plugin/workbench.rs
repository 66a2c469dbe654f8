//! A plugin on its author's workbench: loaded and run exactly as the service does it, but all that it says is shown, and
//! all that the host finds is explained. Only for events that its author may see.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::check::{self, Verdict};
use super::contract::spoken;
use super::explain::explain;
use super::limits::Limits;
use super::load;
use super::outcome::FailureCode;
use super::sandbox;
use super::stage::Stage;
use crate::config::{Grants, PluginConfig, Secret};
use crate::error::{Error, Result};
use crate::record::hex;

/// Events in one batch of a measurement, like those of a busy source.
pub const BATCH: usize = 256;

/// The file of [`Workbench::empty`], made by this module's tests.
const EMPTY: &[u8] = include_bytes!("empty.wasm");

/// What can be known of a plugin without its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Its name, in its own words.
    pub name: String,
    /// Its version, in its own words.
    pub version: String,
    /// The contract it was built for.
    pub contract: String,
    /// Whether it declares that it may drop events.
    pub may_drop: bool,
    /// Whether it declares that it may replace events.
    pub may_modify: bool,
    /// What it imports: all that it can reach outside the sandbox.
    pub imports: Vec<String>,
    /// What it exports.
    pub exports: Vec<String>,
    /// The JSON Schema of its configuration, in its own words; may be empty.
    pub config_schema: String,
    /// The file's SHA-256, in hex.
    pub sha256: String,
    /// The file's size.
    pub bytes: usize,
}

/// What became of one event, and what the plugin said meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The verdict.
    pub verdict: Judged,
    /// Its log lines and the message of its panic, each with its level.
    pub log: Vec<(&'static str, String)>,
}

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// It stays as it is.
    Kept,
    /// This document takes its place, and the host accepts it.
    Replaced(Vec<u8>),
    /// It is left out.
    Dropped,
    /// It would be withheld.
    Failed {
        /// How it failed.
        code: FailureCode,
        /// What the plugin returned as its error, or what the host found.
        detail: Option<String>,
    },
}

/// A plugin with its configuration.
pub struct Workbench {
    stage: Stage,
}

/// Loads a plugin without configuring it. Kind Plugin, as when the service would refuse it.
pub fn inspect(path: &Path) -> Result<Inspection> {
    let plugin = entry(path, Secret::new("{}"), Vec::new());
    let limits = Limits::default();
    let engine = sandbox::engine(&limits)?;
    let file = load::read(&plugin)?;
    let component = load::compile(&plugin, &file, &engine)?;
    let program = load::connect(&plugin, &engine, &component, limits)?;
    let manifest = load::describe(&plugin, &program)?;
    let shape = component.component_type();
    let imports = load::imports(&component, &engine);
    Ok(Inspection {
        name: manifest.name,
        version: manifest.version,
        contract: spoken(imports.iter().map(String::as_str)),
        may_drop: manifest.may_drop,
        may_modify: manifest.may_modify,
        imports,
        exports: shape.exports(&engine).map(|(name, _)| name.to_owned()).collect(),
        config_schema: manifest.config_schema,
        sha256: hex(&Sha256::digest(&file).into()),
        bytes: file.len(),
    })
}

/// The plugin as a configuration without a pin would name it.
fn entry(path: &Path, config_json: Secret, secrets: Vec<Secret>) -> PluginConfig {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (allow, tests) = (Grants::ALL, Vec::new());
    PluginConfig { name, path: path.to_owned(), sha256: None, config_json, secrets, allow, tests }
}

impl Workbench {
    /// Loads and configures a plugin; `secrets` are the values in the configuration that no message may show. Kind Plugin.
    pub fn load(path: &Path, config_json: Secret, secrets: Vec<Secret>) -> Result<Workbench> {
        let plugin = entry(path, config_json, secrets);
        Workbench::load_bytes(&plugin, &load::read(&plugin)?)
    }

    /// A plugin that keeps every event: what running any plugin costs at least.
    pub fn empty() -> Result<Workbench> {
        Workbench::load_bytes(&entry(Path::new("empty.wasm"), Secret::new("{}"), Vec::new()), EMPTY)
    }

    fn load_bytes(plugin: &PluginConfig, file: &[u8]) -> Result<Workbench> {
        let limits = Limits::default();
        let engine = sandbox::engine(&limits)?;
        Ok(Workbench { stage: load::load_bytes(plugin, file, &engine, limits)? })
    }

    /// Runs the plugin on one event, in an instance of its own.
    pub fn judge(&self, event: &[u8]) -> Trial {
        let mut log = Vec::new();
        let verdict = self.try_judge(event, &mut log).unwrap_or_else(|(code, detail)| Judged::Failed {
            code,
            detail: detail.filter(|words| !words.is_empty()),
        });
        Trial { verdict, log }
    }

    fn try_judge(
        &self,
        event: &[u8],
        log: &mut Vec<(&'static str, String)>,
    ) -> Result<Judged, (FailureCode, Option<String>)> {
        let Stage { program, config, grants, .. } = &self.stage;
        let mut running = program.start(event.len()).map_err(|fault| (fault.code, Some(fault.detail)))?;
        running.listen();
        let configured = running.configure(config.expose());
        let result = match configured {
            Ok(Ok(())) => running.process_batch(event),
            Ok(Err(words)) => return Err((FailureCode::Unstable, Some(words))),
            Err(fault) => Err(fault),
        };
        *log = running.take_said().into_iter().map(|line| (line.level.as_str(), line.said)).collect();
        let result = match result {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => return Err((FailureCode::Refused, Some(error.message))),
            Err(fault) => return Err((fault.code, Some(fault.detail))),
        };
        let mut verdicts = check::verdicts(&[event], &result, *grants)
            .map_err(|code| (code, explain(event, &result, code)))?;
        Ok(match verdicts.pop() {
            Some(Verdict::Keep) => Judged::Kept,
            Some(Verdict::Replace(body)) => Judged::Replaced(body),
            Some(Verdict::Drop) => Judged::Dropped,
            Some(Verdict::Fail(failed)) => return Err((failed.code, None)),
            None => return Err((FailureCode::InvalidOutput, None)),
        })
    }

    /// Nanoseconds per event, once for each round, in batches of [`BATCH`] with a fresh instance each, checks
    /// included. Kind Plugin where the plugin fails on one of the events.
    pub fn time(&self, events: &[&[u8]], rounds: usize) -> Result<Vec<f64>> {
        let round = || {
            let start = Instant::now();
            for batch in events.chunks(BATCH) {
                black_box(self.stage.run(black_box(batch)).map_err(|fault| {
                    Error::plugin(self.stage.failure(fault.code.into()).to_string())
                        .hint("`archiver plugin test` with the same events shows which one, and why")
                })?);
            }
            Ok(start.elapsed().as_nanos() as f64 / events.len().max(1) as f64)
        };
        (0..rounds).map(|_| round()).collect()
    }
}

impl std::fmt::Debug for Workbench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workbench").field("plugin", &self.stage.name).finish_non_exhaustive()
    }
}
