//! The roles of `deploy/mongodb-roles.json`: what an account needs for a configuration, and what it may do beyond
//! that. `deploy/mongodb-roles.js` and the tests read the same file. Asks no server.

use std::collections::{BTreeMap, BTreeSet};

use bson::Bson;
use serde::Deserialize;

use crate::capture::stream::StreamOptions;
use crate::config::{Config, Watch};
use crate::error::{Error, Result};

/// Actions that change, remove or cut off what is stored.
const ALTERING: [&str; 8] = [
    "insert",
    "update",
    "remove",
    "dropCollection",
    "dropDatabase",
    "renameCollectionSameDB",
    "collMod",
    "convertToCapped",
];
/// Whoever may do this in the database of the accounts can give himself everything else.
const GRANTING: (&str, &str) = ("admin", "grantRole");

/// What a privilege is on, in MongoDB's form: empty names stand for all.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Resource {
    db: String,
    collection: String,
    cluster: bool,
    any_resource: bool,
}

/// Actions on a resource, as an account has them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Privilege {
    resource: Resource,
    actions: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Role {
    privileges: Vec<Privilege>,
}

/// One action on one resource that Archiver can't do without.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Need {
    role: &'static str,
    resource: Resource,
    action: String,
}

/// What the account of the watched deployment needs, for all sources together.
pub(super) fn watching(config: &Config) -> Result<Vec<Need>> {
    let mut needs = BTreeSet::new();
    for source in &config.sources {
        let options = StreamOptions::new(&source.watch, &config.audit_database).with_context(source);
        let (role, databases) = match options.database {
            Some(database) => ("archiverWatch", vec![database]),
            None => ("archiverWatchAll", Vec::new()),
        };
        needs.extend(expand(role, &databases, config)?);
    }
    Ok(needs.into_iter().collect())
}

/// What the account of the watched deployment needs where images are to be switched on.
pub(super) fn imaging(config: &Config) -> Result<Vec<Need>> {
    let wanted = config.sources.iter().filter(|s| s.enable_images).flat_map(|s| &s.watch);
    let databases: BTreeSet<String> = wanted.map(|w| database_of(w).to_owned()).collect();
    expand("archiverImages", &Vec::from_iter(databases), config)
}

/// The database that an entry is in; empty: all.
pub(super) fn database_of(watch: &Watch) -> &str {
    match watch {
        Watch::Collection(db, _) | Watch::Database(db) => db,
        Watch::Everything => "",
    }
}

/// What the account of the audit database needs.
pub(super) fn auditing(config: &Config) -> Result<Vec<Need>> {
    expand("archiverAudit", &[], config)
}

/// A role's privileges, with the names of this configuration for `<watched>`, `<audit>` and `<source>`.
fn expand(role: &'static str, watched: &[String], config: &Config) -> Result<Vec<Need>> {
    const ROLES: &str = include_str!("../../../deploy/mongodb-roles.json");
    let unusable = || Error::internal("the roles that this program was built with can't be read");
    let mut roles: BTreeMap<String, Role> = serde_json::from_str(ROLES).map_err(|e| unusable().because(e))?;
    let privileges = roles.remove(role).ok_or_else(unusable)?.privileges;
    let names = |part: &str| match part {
        "<watched>" => watched.to_vec(),
        "<audit>" => vec![config.audit_database.clone()],
        "<source>" => config.sources.iter().map(|s| s.name.clone()).collect(),
        fixed => vec![fixed.to_owned()],
    };
    let mut needs = Vec::new();
    for Privilege { resource, actions } in privileges {
        for db in names(&resource.db) {
            for collection in names(&resource.collection) {
                let resource = Resource { db: db.clone(), collection, ..resource.clone() };
                needs.extend(actions.iter().map(|action| Need {
                    role,
                    resource: resource.clone(),
                    action: action.clone(),
                }));
            }
        }
    }
    Ok(needs)
}

/// Reads `authenticatedUserPrivileges` of the server's answer. Kinds of resources that are none of ours are left out.
pub(super) fn privileges(listed: &[Bson]) -> Vec<Privilege> {
    listed.iter().filter_map(|p| bson::deserialize_from_bson(p.clone()).ok()).collect()
}

impl Resource {
    fn database(name: &str) -> Self {
        Resource { db: name.to_owned(), ..Resource::default() }
    }

    /// Whether a privilege on this resource is one on `other` too.
    fn covers(&self, other: &Resource) -> bool {
        if self.any_resource || self.cluster || other.cluster {
            return self.any_resource || self.cluster == other.cluster;
        }
        // MongoDB does not count these two among "all databases".
        let ordinary = !matches!(other.db.as_str(), "local" | "config");
        (self.db == other.db || (self.db.is_empty() && ordinary))
            && (self.collection == other.collection || self.collection.is_empty())
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.db.as_str(), self.collection.as_str()) {
            _ if self.cluster => f.write_str("the cluster"),
            ("", _) => f.write_str("all databases"),
            (db, "") => f.write_str(db),
            (db, collection) => write!(f, "{db}.{collection}"),
        }
    }
}

fn allows(privileges: &[Privilege], action: &str, resource: &Resource) -> bool {
    let has = |p: &Privilege| p.actions.iter().any(|a| a == action || a == "anyAction");
    privileges.iter().any(|p| has(p) && p.resource.covers(resource))
}

/// What these privileges lack of the needs, by role: `("archiverWatch", "changeStream, find on shop")`.
pub(super) fn lacking(privileges: &[Privilege], needs: &[Need]) -> Vec<(&'static str, String)> {
    let mut missing: BTreeMap<&str, Vec<(Resource, &str)>> = BTreeMap::new();
    for need in needs.iter().filter(|n| !allows(privileges, &n.action, &n.resource)) {
        missing.entry(need.role).or_default().push((need.resource.clone(), &need.action));
    }
    missing.into_iter().map(|(role, pairs)| (role, listed(pairs))).collect()
}

/// What these privileges allow to change in some databases (`""`: all) beyond the needs: `"update on audit.payments"`;
/// empty where it is nothing.
pub(super) fn beyond(privileges: &[Privilege], needs: &[Need], databases: &BTreeSet<&str>) -> String {
    let needed = |action: &str, resource: &Resource| {
        needs.iter().any(|n| n.action == action && n.resource == *resource)
    };
    let mut pairs = Vec::new();
    for database in databases {
        let whole = Resource::database(database);
        let parts: BTreeSet<&Resource> =
            privileges.iter().map(|p| &p.resource).filter(|r| r.db == *database).collect();
        for action in ALTERING {
            let extra =
                |resource: &Resource| allows(privileges, action, resource) && !needed(action, resource);
            match extra(&whole) {
                true => pairs.push((whole.clone(), action)),
                false => pairs.extend(parts.iter().filter(|r| extra(r)).map(|r| ((*r).clone(), action))),
            }
        }
    }
    let accounts = Resource::database(GRANTING.0);
    if allows(privileges, GRANTING.1, &accounts) {
        pairs.push((accounts, GRANTING.1));
    }
    listed(pairs)
}

/// "insert, update on a; find on b"
fn listed(pairs: Vec<(Resource, &str)>) -> String {
    let mut actions: BTreeMap<Resource, Vec<&str>> = BTreeMap::new();
    for (resource, action) in pairs {
        actions.entry(resource).or_default().push(action);
    }
    let on = |(resource, actions): (Resource, Vec<&str>)| format!("{} on {resource}", actions.join(", "));
    actions.into_iter().map(on).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use bson::bson;

    use super::*;

    fn need(db: &str, collection: &str, action: &str) -> Need {
        let resource = Resource { collection: collection.to_owned(), ..Resource::database(db) };
        Need { role: "archiverAudit", resource, action: action.to_owned() }
    }

    fn has(resource: Bson, actions: &[&str]) -> Vec<Privilege> {
        privileges(&[bson!({"resource": resource, "actions": actions.to_vec()})])
    }

    #[test]
    fn what_is_missing_is_named_by_role_and_resource() {
        let needs = [need("audit", "a", "find"), need("audit", "a", "insert"), need("audit", "b", "find")];
        let some = has(bson!({"db": "audit", "collection": "b"}), &["find"]);
        assert_eq!(lacking(&some, &needs), [("archiverAudit", "find, insert on audit.a".to_owned())]);
        assert_eq!(lacking(&has(bson!({"db": "audit", "collection": ""}), &["find", "insert"]), &needs), []);
        assert_eq!(lacking(&has(bson!({"anyResource": true}), &["anyAction"]), &needs), []);
        assert_eq!(lacking(&has(bson!({"cluster": true}), &["find", "insert"]), &needs).len(), 1);
    }

    #[test]
    fn all_databases_are_not_those_of_mongodb_itself() {
        let all = has(bson!({"db": "", "collection": ""}), &["find"]);
        assert_eq!(lacking(&all, &[need("shop", "", "find")]), []);
        assert_eq!(lacking(&all, &[need("local", "oplog.rs", "find")]).len(), 1);
    }

    #[test]
    fn what_an_account_may_change_beyond_its_job_is_named_once() {
        let needs = [need("audit", "a", "insert"), need("audit", "b", "update")];
        let exact = has(bson!({"db": "audit", "collection": "a"}), &["find", "insert"]);
        let audit = BTreeSet::from(["audit"]);
        assert_eq!(beyond(&exact, &needs, &audit), "");
        let more = has(bson!({"db": "audit", "collection": "a"}), &["insert", "update"]);
        assert_eq!(beyond(&more, &needs, &audit), "update on audit.a");
        let whole = has(bson!({"db": "audit", "collection": ""}), &["update", "dropDatabase"]);
        assert_eq!(beyond(&whole, &needs, &audit), "update, dropDatabase on audit");
        assert!(
            beyond(&has(bson!({"anyResource": true}), &["anyAction"]), &needs, &audit).contains("grantRole")
        );
        assert_eq!(beyond(&more, &[], &BTreeSet::from(["shop", ""])), "");
    }
}
