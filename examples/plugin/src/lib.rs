//! Leaves out a noisy collection, and hides e-mail addresses wherever they stand.

use plugin_sdk::prelude::*;

/// The configuration. A misspelt key must be an error, never a rule that silently does nothing.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct DropSessions {
    collection: String,
}

impl Plugin for DropSessions {
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const MAY_DROP: bool = true;

    fn configure(text: &str) -> Result<Self, String> {
        config::parse(text)
    }

    fn process(&self, event: Event<'_>, out: &mut Output<'_>) -> Result<Verdict, String> {
        if event.coll() == Some(&self.collection) {
            return Ok(Verdict::Drop);
        }
        event.rewrite(out, |path, _value| match path.leaf() {
            "email" => Action::Mask { keep_last: 0 },
            _ => Action::Keep,
        })
    }
}

plugin_sdk::export!(DropSessions);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use plugin_sdk::testing::{assert_dropped, assert_kept, insert, left, update};

    fn plugin() -> DropSessions {
        DropSessions::configure(r#"{"collection": "sessions"}"#).unwrap()
    }

    #[test]
    fn sessions_are_dropped_and_what_holds_no_address_is_kept() {
        assert_dropped(&plugin(), insert("shop.sessions", r#"{"_id": 1}"#));
        assert_kept(&plugin(), insert("shop.orders", r#"{"_id": 1, "total": 12.5}"#));
    }

    #[test]
    fn addresses_are_hidden_in_documents_and_deltas() {
        let document = r#"{"_id": 1, "contacts": [{"email": "ann@example.org"}]}"#;
        let event = left(&plugin(), insert("shop.customers", document));
        assert_eq!(event["after"]["contacts"][0]["email"], "***");

        let delta = r#"{"updatedFields": {"contacts.0.email": "ann@example.org"}, "removedFields": []}"#;
        let event = left(&plugin(), update("shop.customers", r#"{"_id": 1}"#, delta));
        assert_eq!(event["delta"]["updatedFields"]["contacts.0.email"], "***");
    }

    #[test]
    fn a_misspelt_key_is_an_error() {
        let refused = DropSessions::configure(r#"{"colection": "sessions"}"#);
        assert!(refused.is_err_and(|e| e.contains("colection")));
    }
}
