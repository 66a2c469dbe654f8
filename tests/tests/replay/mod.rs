//! History that is played again: what comes out is what happened, in collections byte for byte, as change events each once.

mod events;
mod follow;
mod refused;
mod resume;
mod round_trip;

use std::collections::BTreeMap;
use std::time::Duration;

use archiver_tests::{Fixture, Outcome, Server};
use bson::{Document, doc};
use mongodb::Database;

const LIMIT: Duration = Duration::from_secs(60);
const INVALID: i32 = 10;
const HISTORY_LOST: i32 = 12;
const FENCED: i32 = 13;

/// Everything is rolled, and nothing is left in MongoDB.
const COLD: &str = "[archive]\nurl = \"{archive}\"\nhot_retention = \"0s\"\nsegment_max_bytes = \"64KiB\"\nsegment_max_age = \"1h\"\n\n";

/// The database that a test replays into: its name, and the `--output` for it.
fn target(server: &Server, fixture: &Fixture) -> (Database, String) {
    let name = format!("again_{}", fixture.tag());
    (server.client().database(&name), output(fixture.uri(), &name))
}

/// An `--output` for a database or a collection.
fn output(uri: &str, namespace: &str) -> String {
    let (hosts, options) = uri.split_once("/?").map_or((uri.trim_end_matches('/'), ""), |(h, o)| (h, o));
    format!("{hosts}/{namespace}?{options}")
}

async fn replay(fixture: &Fixture, arguments: &[&str]) -> Outcome {
    let mut all = vec!["replay"];
    all.extend(arguments);
    fixture.archiver.run(&all).await
}

/// The server's own digest of each of these collections; of one that is not there, none.
async fn digests(db: &Database, collections: &[&str]) -> BTreeMap<String, String> {
    let reply = db.run_command(doc! {"dbHash": 1, "collections": collections}).await.unwrap();
    let found = reply.get_document("collections").unwrap();
    let text = |(name, digest): (&String, &bson::Bson)| (name.clone(), digest.as_str().unwrap().to_owned());
    found.iter().map(text).collect()
}

/// The events of a replay as an independent reader of Extended JSON has them.
fn events(outcome: &str) -> Vec<Document> {
    outcome.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}
