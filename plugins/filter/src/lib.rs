//! Keeps or drops events by namespace, operation, actor or changed fields.

mod config;
mod rule;

use plugin_sdk::prelude::*;
use rule::Rules;

/// The plugin: rules in order, of which the first that covers an event decides.
#[derive(Debug)]
pub struct Filter {
    rules: Rules,
}

impl Plugin for Filter {
    const NAME: &'static str = "filter";
    const MAY_DROP: bool = true;
    const MAY_MODIFY: bool = false;
    const CONFIG_SCHEMA: &'static str = include_str!("config.schema.json");

    fn configure(config: &str) -> Result<Self, String> {
        config::rules(config).map(|rules| Filter { rules })
    }

    fn process(&self, event: Event<'_>, _: &mut Output<'_>) -> Result<Verdict, String> {
        Ok(if self.rules.keep(&event) { Verdict::Keep } else { Verdict::Drop })
    }
}

plugin_sdk::export!(Filter);
