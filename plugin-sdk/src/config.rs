//! Reads a plugin's configuration into a type of its own.

use serde::de::DeserializeOwned;

/// Parses the configuration. Put `#[serde(deny_unknown_fields)]` on the type: a misspelt key must be an error, never a
/// rule that silently does nothing.
pub fn parse<T: DeserializeOwned>(config: &str) -> Result<T, String> {
    let config = if config.trim().is_empty() { "{}" } else { config };
    // By way of a value, so that messages carry no line and column of a text the operator never saw.
    let value: serde_json::Value =
        serde_json::from_str(config).map_err(|e| format!("the config is not JSON: {e}"))?;
    serde_json::from_value(value).map_err(|e| format!("config: {e}"))
}

/// The same for one part of it, which `place` names in the message: `rules[3]`.
pub fn parse_part<T: DeserializeOwned>(place: &str, part: serde_json::Value) -> Result<T, String> {
    serde_json::from_value(part).map_err(|e| format!("{place}: {e}"))
}

pub use serde_json::Value as Json;
