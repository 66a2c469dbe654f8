//! Says whether a configuration can work where it stands, and what it does not cover. Leaves nothing behind but the
//! archive's folder, where that is a local one.

mod access;
mod audit;
mod begun;
mod coverage;
mod lock;
mod roles;
mod server;

use std::sync::Arc;

use serde::Serialize;

use crate::archive::store::Archive;
use crate::config::Config;
use crate::deployment::connect;
use crate::error::{Error, Result};
use crate::plugin::PluginChain;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It works.
    Ok,
    /// Good to know, such as what is not covered.
    Info,
    /// It works, but not as well as it could.
    Warn,
    /// It can't work.
    Fail,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What it is about: a plugin, a namespace, the archive, …
    pub about: String,
    /// What was found.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// What was found so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// The findings, in the order in which they were made.
    pub fn list(&self) -> &[Finding] {
        &self.0
    }

    /// Whether anything can't work.
    pub fn failed(&self) -> bool {
        self.0.iter().any(|f| f.level == Level::Fail)
    }

    fn add(&mut self, level: Level, about: impl Into<String>, what: impl Into<String>, hint: Option<&str>) {
        let hint = hint.map(str::to_owned);
        self.0.push(Finding { level, about: about.into(), what: what.into(), hint });
    }

    fn ok(&mut self, about: impl Into<String>, what: impl Into<String>) {
        self.add(Level::Ok, about, what, None);
    }

    fn info(&mut self, about: impl Into<String>, what: impl Into<String>) {
        self.add(Level::Info, about, what, None);
    }

    fn warn(&mut self, about: impl Into<String>, what: impl Into<String>, hint: &str) {
        self.add(Level::Warn, about, what, Some(hint));
    }

    fn fail(&mut self, about: impl Into<String>, error: &Error) {
        self.add(Level::Fail, about, error.explain(), error.hint_text());
    }
}

/// Checks everything, and adds what it finds to `findings`. Fails as unavailable where a server can't be reached or
/// refuses the credentials; what was found before that stays in `findings`.
pub async fn check(config: &Config, findings: &mut Findings) -> Result<()> {
    let (sources, plugins) = (config.sources.len(), config.plugins.len());
    findings.ok("configuration", format!("valid, sources={sources} plugins={plugins}"));
    plugin_files(config, findings).await?;
    archive(config, findings).await;
    let client = connect(&config.mongodb_uri).await?;
    let watched = server::check(&client, config, findings).await?;
    if watched.is_some() {
        coverage::check(&client, config, findings).await;
    }
    audit::check(config, &watched.unwrap_or_default(), findings).await
}

async fn plugin_files(config: &Config, findings: &mut Findings) -> Result<()> {
    if config.development {
        let hint = "pin every plugin with sha256 and remove it before real data is captured";
        findings.warn("configuration", "development = true: plugins may go without a pin", hint);
    }
    let config = Arc::new(config.clone());
    for n in 0..config.plugins.len() {
        let shared = Arc::clone(&config);
        let load = move || PluginChain::load(&[&shared.plugins[n]], shared.development).map(|_| ());
        // Compiling takes a while, and must not hold up the runtime.
        let loaded = tokio::task::spawn_blocking(load).await;
        let about = format!("plugin {}", config.plugins[n].name);
        match loaded.map_err(|e| Error::internal("loading a plugin ended badly").because(e))? {
            Ok(()) => findings.ok(about, "loads, and accepts its configuration"),
            Err(error) => findings.fail(about, &error),
        }
    }
    Ok(())
}

async fn archive(config: &Config, findings: &mut Findings) {
    let archive = match Archive::open(&config.archive) {
        Ok(archive) => archive,
        Err(error) => return findings.fail("archive", &error),
    };
    if let Some((store, credentials)) = archive.access() {
        findings.info("archive", format!("at {store}; credentials: {credentials}"));
    }
    let url = &config.archive.url;
    match archive.check_writable().await {
        Ok(()) => {
            findings
                .ok("archive", format!("can be listed, read and written, nothing can be overwritten: {url}"));
            lock::check(&archive, &config.archive, findings).await;
        }
        Err(error) => findings.fail("archive", &error),
    }
}
