//! Namespaces that rules may be limited to, written as in a source's `watch`.

use plugin_sdk::prelude::Event;

/// A collection, or all of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Namespace {
    db: String,
    /// `None`: all.
    coll: Option<String>,
}

impl Namespace {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('.') {
            Some((db, coll)) if !db.is_empty() && !coll.is_empty() && !db.contains('*') => {
                let coll = match coll {
                    "*" => None,
                    _ if coll.contains('*') => {
                        return Err(format!(
                            "in the namespace `{text}`, `*` stands for all collections of a database: `{db}.*`"
                        ));
                    }
                    _ => Some(coll.to_owned()),
                };
                Ok(Namespace { db: db.into(), coll })
            }
            _ => Err(format!("`{text}` is no namespace; allowed: \"db.collection\" or \"db.*\"")),
        }
    }

    /// Whether an event may be about it: one without a collection is about all of its database.
    pub(crate) fn covers(&self, event: &Event<'_>) -> bool {
        let db = event.db().is_none_or(|db| db == self.db);
        db && self.coll.as_deref().zip(event.coll()).is_none_or(|(ours, theirs)| ours == theirs)
    }
}
