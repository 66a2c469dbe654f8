//! Reads a plugin's configuration into a type of its own. An error names the key it is about (`rules[3].action`), what
//! is allowed there, and the word that was perhaps meant; it never quotes a value, which may be a secret.

use serde::de::DeserializeOwned;

mod json;
mod suggest;

pub use serde_json::Value as Json;

use json::{At, Part};

/// Parses the configuration. Put `#[serde(deny_unknown_fields)]` on the type: a misspelt key must be an error, never a
/// rule that silently does nothing.
pub fn parse<T: DeserializeOwned>(config: &str) -> Result<T, String> {
    let config = if config.trim().is_empty() { "{}" } else { config };
    // By way of a value, so that messages carry no line and column of a text the operator never saw.
    let value = serde_json::from_str(config).map_err(|e| format!("the config is not JSON: {e}"))?;
    parse_part("config", value)
}

/// The same for one part of it, which `place` names in the message: `rules[3]`.
pub fn parse_part<T: DeserializeOwned>(place: &str, part: Json) -> Result<T, String> {
    T::deserialize(Part { value: part, at: At::Top(place) }).map_err(|e| e.to_string())
}
