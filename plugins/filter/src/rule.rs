//! Which events a rule covers.

use plugin_sdk::prelude::Event;
use plugin_sdk::rules::Pattern;

/// The operations on documents: what a rule without `op` covers.
pub(crate) const DOCUMENT_OPS: [&str; 5] = ["insert", "update", "replace", "delete", "snapshot"];

/// All rules, in the file's order.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) rules: Vec<Rule>,
    /// What becomes of a document's event that no rule covers.
    pub(crate) default_keep: bool,
}

impl Rules {
    /// Whether the event stays. Events about collections and databases stay unless a rule names their operation.
    pub(crate) fn keep(&self, event: &Event<'_>) -> bool {
        let decided = self.rules.iter().find(|rule| rule.covers(event)).map(|rule| rule.keep);
        decided.unwrap_or(self.default_keep || !DOCUMENT_OPS.contains(&event.op()))
    }
}

/// One rule: all of its conditions must hold; an empty one always does.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) keep: bool,
    pub(crate) ns: Vec<Namespace>,
    /// Never empty.
    pub(crate) op: Vec<String>,
    pub(crate) actor: Vec<String>,
    pub(crate) only_changed: Vec<Pattern>,
}

impl Rule {
    fn covers(&self, event: &Event<'_>) -> bool {
        let any_or = |empty: bool, any: bool| empty || any;
        self.op.iter().any(|op| op == event.op())
            && any_or(self.ns.is_empty(), self.ns.iter().any(|ns| ns.covers(event)))
            && any_or(
                self.actor.is_empty(),
                event.str("actor.id").is_some_and(|id| self.actor.iter().any(|a| a == id)),
            )
            && any_or(self.only_changed.is_empty(), self.nothing_else_changed(event))
    }

    /// An update that changed nothing at all is not covered: it may be of a kind that is not understood.
    fn nothing_else_changed(&self, event: &Event<'_>) -> bool {
        let changes = event.changes();
        !changes.is_empty()
            && changes.iter().all(|change| self.only_changed.iter().any(|pattern| pattern.covers(change)))
    }
}

/// `db.collection`, `db.*`, `*.collection` or `*`; `None` is any.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) db: Option<String>,
    pub(crate) coll: Option<String>,
}

impl Namespace {
    pub(crate) fn parse(text: &str) -> Result<Namespace, String> {
        const FORM: &str = r#"it must be "db.collection", "db.*", "*.collection" or "*""#;
        let (db, coll) = if text == "*" { ("*", "*") } else { text.split_once('.').unwrap_or((text, "")) };
        let name = |name: &str| match name {
            "*" => Ok(None),
            "" => Err(format!("`{text}` is no namespace; {FORM}")),
            _ if name.contains('*') => {
                Err(format!("`{text}` is no namespace: `*` stands for a whole name; {FORM}"))
            }
            _ => Ok(Some(name.to_owned())),
        };
        Ok(Namespace { db: name(db)?, coll: name(coll)? })
    }

    fn covers(&self, event: &Event<'_>) -> bool {
        let is = |wanted: &Option<String>, name: Option<&str>| wanted.is_none() || wanted.as_deref() == name;
        is(&self.db, event.db()) && is(&self.coll, event.coll())
    }
}
