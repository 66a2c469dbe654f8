//! The roles of `deploy/mongodb-roles.json`, made with the commands that mongosh would send, so that tests run under
//! them and nothing more.

use bson::{Document, doc};
use mongodb::Client;
use serde_json::{Map, Value};

use crate::tools::repository;

/// What the placeholders of the file stand for.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// `<watched>`: the watched databases.
    pub watched: Vec<String>,
    /// `<audit>`: the audit database.
    pub audit: String,
    /// `<source>`: the names of the sources.
    pub sources: Vec<String>,
    /// `<target>`: the databases that are replayed into.
    pub targets: Vec<String>,
}

/// One action on one resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Privilege {
    /// The resource, as MongoDB's commands take it.
    pub resource: Document,
    /// The action.
    pub action: String,
}

/// All roles of the file by name.
pub fn roles() -> Map<String, Value> {
    let text = std::fs::read_to_string(repository().join("deploy/mongodb-roles.json")).expect("the roles");
    serde_json::from_str(&text).expect("the roles are JSON")
}

/// The names of the roles without which nothing is captured, or of the others.
pub fn named(optional: bool) -> Vec<String> {
    let is = |role: &Value| role["optional"].as_bool().unwrap_or(false) == optional;
    roles().into_iter().filter(|(_, role)| is(role)).map(|(name, _)| name).collect()
}

/// What a role allows, one action at a time.
pub fn privileges(role: &str, names: &Names) -> Vec<Privilege> {
    let roles = roles();
    let list = roles[role]["privileges"].as_array().expect("a list of privileges");
    let mut found = Vec::new();
    for privilege in list {
        for resource in expand(&privilege["resource"], names) {
            for action in privilege["actions"].as_array().expect("a list of actions") {
                let action = action.as_str().expect("an action's name").to_owned();
                found.push(Privilege { resource: resource.clone(), action });
            }
        }
    }
    found
}

/// One resource for everything that its placeholders stand for.
fn expand(resource: &Value, names: &Names) -> Vec<Document> {
    if resource["cluster"] == true {
        return vec![doc! {"cluster": true}];
    }
    let part = |name: &str| match resource[name].as_str().expect("a resource has db and collection") {
        "<watched>" => names.watched.clone(),
        "<audit>" => vec![names.audit.clone()],
        "<source>" => names.sources.clone(),
        "<target>" => names.targets.clone(),
        fixed => vec![fixed.to_owned()],
    };
    let (databases, collections) = (part("db"), part("collection"));
    let pairs = databases.iter().flat_map(|db| collections.iter().map(move |coll| (db, coll)));
    pairs.map(|(db, collection)| doc! {"db": db, "collection": collection}).collect()
}

/// Creates a role of exactly these privileges, or gives it these instead of those it has.
pub async fn define(admin: &Client, role: &str, privileges: &[Privilege]) {
    let list = privileges.iter().map(|p| doc! {"resource": &p.resource, "actions": [&p.action]});
    let list: Vec<Document> = list.collect();
    let database = admin.database("admin");
    let created = doc! {"createRole": role, "privileges": &list, "roles": []};
    if database.run_command(created).await.is_err() {
        let updated = doc! {"updateRole": role, "privileges": list};
        database.run_command(updated).await.expect("a role can be changed");
    }
}

/// Creates an account with a password and these roles.
pub async fn account(admin: &Client, user: &str, password: &str, roles: &[String]) {
    let created = doc! {"createUser": user, "pwd": password, "roles": roles};
    admin.database("admin").run_command(created).await.expect("an account can be made");
}

/// Creates the account of a certificate with this subject and these roles.
pub async fn certificate_account(admin: &Client, subject: &str, roles: &[String]) {
    let roles: Vec<Document> = roles.iter().map(|role| doc! {"role": role, "db": "admin"}).collect();
    let created = doc! {"createUser": subject, "roles": roles};
    admin.database("$external").run_command(created).await.expect("an account can be made");
}
