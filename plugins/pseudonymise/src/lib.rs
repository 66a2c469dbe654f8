//! Puts keyed tokens in the place of values before they reach the audit log, so that equal values still join and nobody
//! without the key can tell what they were.

mod config;

use plugin_sdk::prelude::*;
use plugin_sdk::rules::Rules;

/// The plugin: compiled rules, applied to every place of an event in which a value can stand.
#[derive(Debug)]
pub struct Pseudonymise {
    rules: Rules,
}

impl Plugin for Pseudonymise {
    const NAME: &'static str = "pseudonymise";
    const CONFIG_SCHEMA: &'static str = include_str!("config.schema.json");

    fn configure(config: &str) -> Result<Self, String> {
        config::rules(config).map(|rules| Pseudonymise { rules })
    }

    fn process(&self, event: Event<'_>, out: &mut Output<'_>) -> Result<Verdict, String> {
        event.redact(out, &self.rules)
    }
}

plugin_sdk::export!(Pseudonymise);
