//! What the commands work on: a plugin's file, or a crate that is built first; its configuration; its sample events.

use std::path::{Path, PathBuf};

use archiver::authoring::cargo::PluginCrate;
use archiver::authoring::samples::{self, Sample};
use archiver::config::{Secret, plugin_config};
use archiver::plugin::workbench::{Workbench, inspect};
use archiver::{Error, Result};

/// A plugin's file, and the crate it was built from, where that is known.
pub(super) struct Subject {
    pub(super) file: PathBuf,
    pub(super) plugin: Option<PluginCrate>,
}

/// A plugin's configuration.
pub(super) struct PluginConfig {
    pub(super) json: Secret,
    secrets: Vec<Secret>,
    given: bool,
}

impl Subject {
    /// The file itself, or what the crate in the folder builds to.
    pub(super) fn find(path: &Path) -> Result<Subject> {
        if !path.is_dir() {
            return Ok(Subject { file: path.to_owned(), plugin: None });
        }
        let plugin = PluginCrate::find(path)?;
        Ok(Subject { file: plugin.build()?, plugin: Some(plugin) })
    }

    /// The configuration given, else the crate's `config.toml`, else an empty one.
    pub(super) fn config(&self, given: Option<&Path>) -> Result<PluginConfig> {
        let path = given.map(Path::to_owned).or_else(|| self.beside("config.toml"));
        let (json, secrets) = match &path {
            Some(path) => plugin_config(path)?,
            None => (Secret::new("{}"), Vec::new()),
        };
        Ok(PluginConfig { json, secrets, given: path.is_some() })
    }

    /// The events given, else the crate's `events.jsonl`, else a few of a small shop; and where they are from.
    pub(super) fn events(&self, given: Option<&Path>) -> Result<(Vec<Sample>, String)> {
        match given.map(Path::to_owned).or_else(|| self.beside("events.jsonl")) {
            Some(path) => Ok((samples::read(&path)?, path.display().to_string())),
            None => {
                let name = "the built-in samples";
                Ok((samples::parse(samples::DEFAULT, name)?, name.to_owned()))
            }
        }
    }

    /// The plugin, loaded and configured.
    pub(super) fn load(&self, config: &PluginConfig) -> Result<Workbench> {
        let loaded = Workbench::load(&self.file, config.json.clone(), config.secrets.clone());
        // The configuration is not what a file lacks that is no plugin.
        loaded.map_err(|error| match config.given || inspect(&self.file).is_err() {
            true => error,
            false => Error::new(error.kind(), "the plugin was tried without a configuration")
                .hint("give it with --plugin-config FILE, or put a config.toml into the crate's folder")
                .because(error),
        })
    }

    /// A file of that name in the crate's folder, if there is one.
    fn beside(&self, name: &str) -> Option<PathBuf> {
        let path = self.plugin.as_ref()?.folder.join(name);
        path.is_file().then_some(path)
    }
}
