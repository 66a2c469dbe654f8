//! The view of one event that a plugin gets: `{op, ns, key, clusterTime, wallTime, before, after, delta, images, txn,
//! actor, detail}`, in this order, absent fields left out.

use bson_walker::{Doc, Element};

use crate::guide::{Closure, Guide, Path};
use crate::plugin::{Output, Verdict};
use crate::rewrite::rewrite;
use crate::rules::{Inspect, Inspecting, Rules};
use crate::value::Action;

/// One event: a change event, or a document read by a snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    doc: Doc<'a>,
}

impl<'a> Event<'a> {
    /// The view of an event's BSON document.
    pub fn new(doc: Doc<'a>) -> Self {
        Event { doc }
    }

    /// The whole event.
    pub fn doc(&self) -> Doc<'a> {
        self.doc
    }

    /// MongoDB's name of the operation (`insert`, `update`, …), or `snapshot`. Empty where the event has none.
    pub fn op(&self) -> &'a str {
        self.str("op").unwrap_or("")
    }

    /// The database.
    pub fn db(&self) -> Option<&'a str> {
        self.str("ns.db")
    }

    /// The collection; events about whole databases have none.
    pub fn coll(&self) -> Option<&'a str> {
        self.str("ns.coll")
    }

    /// The document key: `_id`, and the shard key's fields.
    pub fn key(&self) -> Option<Doc<'a>> {
        self.doc_at("key")
    }

    /// The document before the event, where MongoDB delivered it.
    pub fn before(&self) -> Option<Doc<'a>> {
        self.doc_at("before")
    }

    /// The document after the event, where it is known exactly.
    pub fn after(&self) -> Option<Doc<'a>> {
        self.doc_at("after")
    }

    /// An update's `{updatedFields, removedFields, truncatedArrays, disambiguatedPaths}`.
    pub fn delta(&self) -> Option<Doc<'a>> {
        self.doc_at("delta")
    }

    /// The element at a dotted path from the event's top, through documents only: `ns.coll`, `after.status`.
    pub fn get(&self, path: &str) -> Option<Element<'a>> {
        let mut doc = self.doc;
        let mut rest = path;
        while let Some((name, below)) = rest.split_once('.') {
            doc = doc.get(name)?.as_doc()?;
            rest = below;
        }
        doc.get(rest)
    }

    /// The text at a dotted path; `None` where there is none or it is no string.
    pub fn str(&self, path: &str) -> Option<&'a str> {
        self.get(path)?.as_str()
    }

    /// Asks `decide` about every value in the event, wherever it stands, and writes what is left.
    ///
    /// `decide` gets the path as seen from the document: the same `items.sku` for `before`, `after`, `key`, for a
    /// delta's `items.3.sku`, and for the fields inside a delta's whole new `items`; array indexes are left out. It is asked about
    /// a parent before what is below it, and about nothing below once it acted. The value is `None` where a parent is
    /// only named (by a delta's dotted path).
    pub fn rewrite<'v, F>(&self, out: &mut Output<'_>, decide: F) -> Result<Verdict, String>
    where
        F: FnMut(&Path<'_>, Option<&Element<'_>>) -> Action<'v>,
    {
        self.guided(out, Closure::new(decide))
    }

    /// Applies compiled rules to every value in the event and writes what is left.
    pub fn redact(&self, out: &mut Output<'_>, rules: &Rules) -> Result<Verdict, String> {
        match rules {
            Rules::Small(rules) => self.guided(out, &**rules),
            Rules::Large(rules) => self.guided(out, &**rules),
        }
    }

    /// Applies compiled rules, and an inspection of the values that they leave.
    pub fn redact_and_inspect(
        &self,
        out: &mut Output<'_>,
        rules: &Rules,
        inspect: impl Inspect,
    ) -> Result<Verdict, String> {
        match rules {
            Rules::Small(rules) => self.guided(out, Inspecting::new(rules, inspect)),
            Rules::Large(rules) => self.guided(out, Inspecting::new(rules, inspect)),
        }
    }

    /// The same for any other [`Guide`].
    pub fn guided<'v, G: Guide<'v>>(&self, out: &mut Output<'_>, guide: G) -> Result<Verdict, String> {
        rewrite(self.doc, out, guide)
    }

    fn doc_at(&self, name: &str) -> Option<Doc<'a>> {
        self.doc.get(name)?.as_doc()
    }
}
