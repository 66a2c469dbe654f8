//! The plugin chains that records were made under: what of MongoDB's contents they may lack.

use std::collections::{BTreeMap, BTreeSet};

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
    /// Which plugins with which configurations: name, file, configuration. A file speaks one contract, whether the record says so or,
    /// as in those of earlier versions, not.
    chain: Vec<[String; 3]>,
}

impl Policies {
    /// Takes a policy record's plugins down; other records, and those that tell of holds and removals, are none of its business.
    pub fn note(&mut self, record: &Record<'_>) -> Result<()> {
        if record.op() != "policy" {
            return Ok(());
        }
        let list = record.part("detail").and_then(|d| d.get("plugins")).and_then(|e| e.as_doc());
        let Some(list) = list else { return Ok(()) };
        let list: Vec<Doc<'_>> = list.elements().map_while(|e| e.ok()?.as_doc()).collect();
        let plugins = list.iter().map(|entry| plugin(*entry)).collect();
        let part = |entry: &Doc<'_>, name| text(*entry, name).unwrap_or_default().to_owned();
        let chain =
            list.iter().map(|entry| ["name", "sha256", "config_sha256"].map(|name| part(entry, name)));
        self.0.insert(record.record_id()?, Policy { plugins, chain: chain.collect() });
        Ok(())
    }

    /// The plugins of a policy, each as "name version (sha256 …, contract …)", the contract where it is recorded; `None` where the policy record is not known.
    pub fn plugins(&self, policy: RecordId) -> Option<&[String]> {
        self.0.get(&policy).map(|policy| policy.plugins.as_slice())
    }

    /// Whether two policies are known to have the same plugins with the same configurations.
    pub fn are_alike(&self, one: RecordId, other: RecordId) -> bool {
        let chain = |policy| self.0.get(&policy).map(|policy| &policy.chain);
        one == other || chain(one).is_some() && chain(one) == chain(other)
    }

    /// Whether plugins may have changed what was recorded under these: one of them has plugins, or is not known. Records do not tell
    /// whether a plugin did.
    pub fn may_be_changed(&self, policies: &BTreeSet<RecordId>) -> bool {
        policies.iter().any(|policy| self.plugins(*policy).is_none_or(|plugins| !plugins.is_empty()))
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
    let known = |name| text(plugin, name).unwrap_or("?");
    let sha256 = known("sha256");
    let contract = text(plugin, "contract").map(|contract| format!(", contract {contract}"));
    let (name, version, sha256) = (known("name"), known("version"), sha256.get(..12).unwrap_or(sha256));
    format!("{name} {version} (sha256 {sha256}{})", contract.unwrap_or_default())
}

fn text<'a>(plugin: Doc<'a>, name: &str) -> Option<&'a str> {
    plugin.get(name).and_then(|e| e.as_str())
}

/// The policy record that was in force for this one: of the same stream.
pub(super) fn policy_of(record: &Record<'_>) -> RecordId {
    let seq = record.doc().get("policy").and_then(|e| e.as_i64()).unwrap_or(0);
    RecordId { partition: record.record_id().ok().and_then(|id| id.partition), seq }
}

#[cfg(test)]
mod tests {
    use bson::{Document, Timestamp, doc};

    use super::*;

    fn noted(policies: &mut Policies, seq: i64, plugin: Document) -> RecordId {
        let id = RecordId { partition: None, seq };
        let time = Timestamp { time: 1, increment: 1 };
        let body = doc! {"op": "policy", "clusterTime": time, "detail": {"plugins": [plugin]}};
        let body = bson::serialize_to_vec(&body).unwrap();
        let record = Record::encode(id, Doc::new(&body).unwrap(), seq);
        policies.note(&Record::new(&record).unwrap()).unwrap();
        id
    }

    #[test]
    fn a_policy_tells_its_contracts_and_is_like_one_that_was_recorded_without_them() {
        let mut policies = Policies::default();
        let plugin = doc! {"name": "p", "version": "2", "sha256": "0123456789abcdef", "config_sha256": "c"};
        let mut told = plugin.clone();
        told.insert("contract", "archiver:plugin@1.0.0");
        let mut configured = told.clone();
        configured.insert("config_sha256", "d");
        let [earlier, now, other] =
            [(1, plugin), (2, told), (3, configured)].map(|(seq, plugin)| noted(&mut policies, seq, plugin));
        assert_eq!(policies.plugins(earlier).unwrap(), ["p 2 (sha256 0123456789ab)"]);
        let with_contract = ["p 2 (sha256 0123456789ab, contract archiver:plugin@1.0.0)"];
        assert_eq!(policies.plugins(now).unwrap(), with_contract);
        assert!(policies.are_alike(earlier, now));
        assert!(!policies.are_alike(now, other));
    }
}
