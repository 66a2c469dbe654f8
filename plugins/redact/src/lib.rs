//! Removes, masks or replaces values by path before they reach the audit log.

mod config;

use plugin_sdk::prelude::*;
use plugin_sdk::rules::Rules;

/// The plugin: compiled rules, applied to every place of an event in which a value can stand.
#[derive(Debug)]
pub struct Redact {
    rules: Rules,
}

impl Plugin for Redact {
    const NAME: &'static str = "redact";
    const CONFIG_SCHEMA: &'static str = include_str!("config.schema.json");

    fn configure(config: &str) -> Result<Self, String> {
        config::rules(config).map(|rules| Redact { rules })
    }

    fn process(&self, event: Event<'_>, out: &mut Output<'_>) -> Result<Verdict, String> {
        event.redact(out, &self.rules)
    }
}

plugin_sdk::export!(Redact);
