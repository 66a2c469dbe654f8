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
    /// Whether each record under it says whether plugins have changed its event, and none can be missing.
    tells: bool,
}

/// What a part of a document's history was recorded under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The policy record.
    pub policy: RecordId,
    /// Whether the record itself is marked as changed by plugins.
    pub is_redacted: bool,
}

impl Origin {
    pub(super) fn of(record: &Record<'_>) -> Origin {
        Origin { policy: policy_of(record), is_redacted: record.is_redacted() }
    }
}

impl Policies {
    /// Takes a policy record's plugins down; other records, and those that tell of holds and removals, are none of its business.
    pub fn note(&mut self, record: &Record<'_>) -> Result<()> {
        if record.op() != "policy" {
            return Ok(());
        }
        let Some(detail) = record.part("detail") else { return Ok(()) };
        let Some(list) = detail.get("plugins").and_then(|e| e.as_doc()) else { return Ok(()) };
        let list: Vec<Doc<'_>> = list.elements().map_while(|e| e.ok()?.as_doc()).collect();
        let plugins = list.iter().map(|entry| plugin(*entry)).collect();
        let part = |entry: &Doc<'_>, name| text(*entry, name).unwrap_or_default().to_owned();
        let chain =
            list.iter().map(|entry| ["name", "sha256", "config_sha256"].map(|name| part(entry, name)));
        let is = |of: &Doc<'_>, name| of.get(name).and_then(|e| e.as_bool());
        let is_whole = list.iter().all(|entry| is(entry, "may_drop") == Some(false));
        let tells = is(&detail, "marks_redacted") == Some(true) && is_whole;
        self.0.insert(record.record_id()?, Policy { plugins, chain: chain.collect(), tells });
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

    /// Whether a document that was put together from these is not, or need not be, MongoDB's own: a plugin has changed a part of it;
    /// or a policy is not known, or has plugins and was recorded before records said so; or one of its plugins may drop events.
    pub fn may_be_redacted(&self, origins: &BTreeSet<Origin>) -> bool {
        origins.iter().any(|origin| match self.0.get(&origin.policy) {
            None => true,
            Some(policy) if policy.plugins.is_empty() => false,
            Some(policy) => origin.is_redacted || !policy.tells,
        })
    }

    /// Whether plugins of this policy may drop events, as far as is known: then no record tells that one is missing.
    pub(super) fn may_drop(&self, policy: RecordId) -> bool {
        self.0.get(&policy).is_some_and(|policy| !policy.plugins.is_empty() && !policy.tells)
    }

    /// What a record's contents are, where a document was put together from these before it.
    pub(super) fn contents_behind(&self, record: &Record<'_>, base: &BTreeSet<Origin>) -> Contents {
        let is_own =
            !self.may_be_redacted(&BTreeSet::from([Origin::of(record)])) && !self.may_be_redacted(base);
        if is_own { Contents::Full } else { Contents::Redacted }
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

    #[test]
    fn a_document_is_redacted_where_a_record_says_so_or_nobody_can_know() {
        let mut policies = Policies::default();
        let mut seq = 0;
        let mut note = |detail: Document| {
            seq += 1;
            let time = Timestamp { time: 1, increment: 1 };
            let body = bson::serialize_to_vec(&doc! {"op": "policy", "clusterTime": time, "detail": detail})
                .unwrap();
            let id = RecordId { partition: None, seq };
            let record = Record::encode(id, Doc::new(&body).unwrap(), seq);
            policies.note(&Record::new(&record).unwrap()).unwrap();
            id
        };
        let plugin = |may_drop: bool| doc! {"name": "p", "may_drop": may_drop};
        let none = note(doc! {"plugins": []});
        let tells = note(doc! {"plugins": [plugin(false)], "marks_redacted": true});
        let drops = note(doc! {"plugins": [plugin(false), plugin(true)], "marks_redacted": true});
        let earlier = note(doc! {"plugins": [{"name": "p"}]});
        let unmarked = note(doc! {"plugins": [plugin(false)]});
        let unknown = RecordId { partition: Some(3), seq: 1 };
        let may_be = |of: &[(RecordId, bool)]| {
            let origins =
                of.iter().map(|(policy, is_redacted)| Origin { policy: *policy, is_redacted: *is_redacted });
            policies.may_be_redacted(&origins.collect())
        };
        assert!(!may_be(&[]) && !may_be(&[(none, false), (tells, false)]));
        assert!(may_be(&[(tells, false), (tells, true)]), "one record is enough");
        for policy in [drops, earlier, unmarked, unknown] {
            assert!(may_be(&[(tells, false), (policy, false)]), "{policy}");
        }
    }
}
