//! An example plugin: leaves out a noisy collection and hides e-mail addresses wherever they stand.

use plugin_sdk::prelude::*;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct DropSessions {
    collection: String,
}

impl Plugin for DropSessions {
    const NAME: &'static str = "drop-sessions";
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
    use bson::{Document, doc};
    use plugin_sdk::testing::{Outcome, run};

    fn plugin() -> DropSessions {
        DropSessions::configure(r#"{"collection": "sessions"}"#).unwrap()
    }

    #[test]
    fn sessions_are_dropped() {
        let event = doc! {"op": "insert", "ns": {"db": "shop", "coll": "sessions"}, "after": {"_id": 1}};
        assert_eq!(run(&plugin(), event.to_vec().unwrap()), Ok(Outcome::Dropped));
    }

    #[test]
    fn addresses_are_hidden_in_documents_and_deltas() {
        let event = doc! {
            "op": "update", "ns": {"db": "shop", "coll": "customers"}, "key": {"_id": 1},
            "after": {"_id": 1, "contacts": [{"email": "ann@example.org"}]},
            "delta": {"updatedFields": {"contacts.0.email": "ann@example.org"}, "removedFields": []},
        };
        let Ok(Outcome::Replaced(bytes)) = run(&plugin(), event.to_vec().unwrap()) else {
            panic!("not replaced")
        };
        let event = Document::from_reader(&bytes[..]).unwrap();
        assert_eq!(event.get_document("after").unwrap(), &doc! {"_id": 1, "contacts": [{"email": "***"}]});
        assert_eq!(
            event.get_document("delta").unwrap().get("updatedFields").unwrap().as_document().unwrap(),
            &doc! {"contacts.0.email": "***"}
        );
    }

    #[test]
    fn a_misspelt_key_is_an_error() {
        assert!(
            DropSessions::configure(r#"{"colection": "sessions"}"#).is_err_and(|e| e.contains("colection"))
        );
    }
}
