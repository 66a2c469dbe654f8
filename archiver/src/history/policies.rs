//! The plugin chains that records were made under: what of MongoDB's contents they may lack.

use std::collections::BTreeMap;

use bson_walker::Doc;

use super::document::Contents;
use crate::error::Result;
use crate::record::{Record, RecordId};

/// The plugin chains that records were made under, by their policy record.
#[derive(Debug, Clone, Default)]
pub struct Policies(BTreeMap<RecordId, Policy>);

#[derive(Debug, Clone, Default)]
struct Policy {
    /// For people.
    plugins: Vec<String>,
    /// The record's list of them, configurations included.
    bson: Vec<u8>,
}

impl Policies {
    /// Takes a policy record's plugins down; other records, and those that tell of holds and removals, are none of its business.
    pub fn note(&mut self, record: &Record<'_>) -> Result<()> {
        if record.op() != "policy" {
            return Ok(());
        }
        let list = record.part("detail").and_then(|d| d.get("plugins")).and_then(|e| e.as_doc());
        let Some(list) = list else { return Ok(()) };
        let plugins = list.elements().map_while(|e| e.ok()?.as_doc()).map(plugin).collect();
        self.0.insert(record.record_id()?, Policy { plugins, bson: list.as_bytes().to_vec() });
        Ok(())
    }

    /// The plugins of a policy, each as "name version (sha256 …)"; `None` where the policy record is not known.
    pub fn plugins(&self, policy: RecordId) -> Option<&[String]> {
        self.0.get(&policy).map(|policy| policy.plugins.as_slice())
    }

    /// Whether two policies are known to have the same plugins with the same configurations.
    pub fn are_alike(&self, one: RecordId, other: RecordId) -> bool {
        let bson = |policy| self.0.get(&policy).map(|policy| &policy.bson);
        one == other || bson(one).is_some() && bson(one) == bson(other)
    }

    /// Whether a record's contents are MongoDB's own. Where the policy is not known, they need not be.
    pub(super) fn contents(&self, record: &Record<'_>) -> Contents {
        match self.plugins(policy_of(record)) {
            Some([]) => Contents::Full,
            _ => Contents::Redacted,
        }
    }
}

fn plugin(plugin: Doc<'_>) -> String {
    let text = |name| plugin.get(name).and_then(|e| e.as_str()).unwrap_or("?");
    let sha256 = text("sha256");
    format!("{} {} (sha256 {})", text("name"), text("version"), sha256.get(..12).unwrap_or(sha256))
}

/// The policy record that was in force for this one: of the same stream.
pub(super) fn policy_of(record: &Record<'_>) -> RecordId {
    let seq = record.doc().get("policy").and_then(|e| e.as_i64()).unwrap_or(0);
    RecordId { partition: record.record_id().ok().and_then(|id| id.partition), seq }
}
