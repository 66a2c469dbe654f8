//! Removes, masks or replaces values, by where they stand and by what they contain, before they reach the audit log.

mod config;
mod find;
mod namespace;
mod policy;

use plugin_sdk::prelude::*;
use policy::Policy;

/// The plugin: compiled rules, applied to every place of an event in which a value can stand.
#[derive(Debug)]
pub struct Redact {
    policy: Policy,
}

impl Plugin for Redact {
    const NAME: &'static str = "redact";
    const CONFIG_SCHEMA: &'static str = include_str!("config.schema.json");

    fn configure(config: &str) -> Result<Self, String> {
        Policy::new(config).map(|policy| Redact { policy })
    }

    fn process(&self, event: Event<'_>, out: &mut Output<'_>) -> Result<Verdict, String> {
        self.policy.apply(event, out)
    }
}

plugin_sdk::export!(Redact);
