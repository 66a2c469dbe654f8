//! What the shipped plugins other than `redact` promise, through a real MongoDB: pseudonyms and filters.

use archiver_tests::canary::{Canary, Haystack};
use archiver_tests::record::{at, integer, must, of, only, text};
use archiver_tests::truth::assert_dense;
use archiver_tests::{Fixture, Server, tools};
use bson::{Document, doc};

/// A source `all` that watches these collections through one plugin.
fn through(plugin: &str, config: &str, collections: &[&str]) -> String {
    let file = tools::plugin(plugin);
    let (path, sha256) = (file.display(), tools::sha256(&file));
    let source = Fixture::source("all", collections);
    format!(
        "[[plugin]]\nname = \"{plugin}\"\npath = \"{path}\"\nsha256 = \"{sha256}\"\n[plugin.config]\n{config}\n\n\
         {}\nplugins = [\"{plugin}\"]\n",
        source.trim_end()
    )
}

const TRACE: [&str; 4] = ["run", "--once", "--log-level", "trace"];

const PSEUDONYMS: &str = r#"
keys = [{ id = "2026", key = "${file:pseudonym.key}" }, { id = "2025", key = "${ARCHIVER_TEST_OLD_KEY}" }]
rules = [
    { path = "_id", class = "person" },
    { path = "owner", class = "person" },
    { path = "email", class = "email", normalise = ["trim", "lowercase"] },
    { path = "phones", class = "phone", key = "2025" },
]"#;

#[tokio::test]
async fn pseudonyms_join_and_keep_documents_apart_in_history_and_recovery() {
    let server = Server::shared().await;
    let mut fixture = Fixture::new(&server);
    let key = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    let old_key = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    std::fs::write(fixture.path("pseudonym.key"), format!("{key}\n")).unwrap();
    fixture.archiver.env("ARCHIVER_TEST_OLD_KEY", &old_key);
    fixture.configure(&through("pseudonymise", PSEUDONYMS, &["people", "orders"]));
    let tag = rand::random_range(100_000_000..1_000_000_000_u64);
    let (ann, ben) = (format!("ann-{tag}"), format!("ben-{tag}"));
    let (people, orders) = (fixture.collection("people"), fixture.collection("orders"));
    let mail = |case: &str| format!("{case}-{tag}@example.org");
    people.insert_one(doc! {"_id": &ann, "n": 1, "email": mail("Ann")}).await.unwrap();
    let mut output = fixture.archiver.run(&TRACE).await.expect_code(0).stderr;
    people
        .insert_one(doc! {"_id": &ben, "n": 1, "email": mail("ann"), "phones": [&ann, null]})
        .await
        .unwrap();
    people.update_one(doc! {"_id": &ann}, doc! {"$set": {"n": 2, "email": mail("other")}}).await.unwrap();
    people.update_one(doc! {"_id": &ben}, doc! {"$set": {"n": 3, "phones.1": &ben}}).await.unwrap();
    orders.insert_one(doc! {"_id": 1, "owner": &ann}).await.unwrap();
    orders.insert_one(doc! {"_id": 2, "owner": mail("ann")}).await.unwrap();
    people.delete_one(doc! {"_id": &ann}).await.unwrap();
    people.delete_one(doc! {"_id": &ben}).await.unwrap();
    output += &fixture.archiver.run(&TRACE).await.expect_code(0).stderr;

    let records = fixture.records("all").await;
    let person = |record: &Document| text(record, "key._id").to_owned();
    let token = text(of(&records, &["snapshot"])[0], "key._id").to_owned();
    let of_people = |op: &str| -> Vec<Document> {
        let all = of(&records, &[op]).into_iter().filter(|r| text(r, "ns.coll") == "people");
        all.cloned().collect()
    };
    let (inserted, deleted) = (of_people("insert"), of_people("delete"));
    let other = person(&inserted[0]);
    assert!(token.starts_with("p1:2026:") && token != other, "{token} {other}");
    assert_eq!(of_people("update").iter().map(person).collect::<Vec<_>>(), [token.clone(), other.clone()]);
    assert_eq!(deleted.iter().map(person).collect::<Vec<_>>(), [token.clone(), other.clone()]);
    assert_eq!(text(&inserted[0], "after._id"), other);
    // Equal values of a class join, whatever their collection and spelling; those of other classes and keys don't.
    let orders: Vec<_> =
        of(&records, &["insert"]).into_iter().filter(|r| text(r, "ns.coll") == "orders").collect();
    assert_eq!(text(orders[0], "after.owner"), token);
    assert_ne!(text(orders[1], "after.owner"), text(&inserted[0], "after.email"), "of another class");
    assert_eq!(text(&inserted[0], "after.email"), text(of(&records, &["snapshot"])[0], "after.email"));
    let phones = must(&inserted[0], "after.phones").as_array().unwrap();
    assert!(phones[0].as_str().unwrap().starts_with("p1:2025:") && phones[1].as_null().is_some());

    // A document is found by its token, and comes back with all of its changes and nobody else's.
    let recovered = fixture.ok(&["recover", "--source", "all", "--id", &token]).await;
    let start = format!("{{\"_id\":\"{token}\",\"n\":{{\"$numberInt\":\"2\"}},");
    assert!(recovered.starts_with(&start), "{recovered}");
    let recovered = fixture.ok(&["recover", "--source", "all", "--id", &other]).await;
    assert!(
        recovered.contains("\"n\":{\"$numberInt\":\"3\"}") && recovered.matches("p1:2025:").count() == 2,
        "{recovered}"
    );
    let history = fixture.ok(&["history", "--source", "all", "--id", &token, "--format", "json"]).await;
    assert_eq!(history.lines().count(), 3, "{history}");

    let canaries: Vec<_> = [&ann, &ben, &mail("Ann"), &mail("ann"), &mail("other"), &key, &old_key]
        .map(|c| Canary::text(c))
        .into();
    let mut found = Haystack::of(&fixture.audit, &fixture.archive(), &output).await.search(&canaries);
    // A resume token holds the document key: checkpoints have it, nothing else does.
    found.retain(|f| !f.contains("archiver.checkpoints"));
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn a_key_that_is_refused_is_not_shown() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let key = "hunter2-is-no-key-at-all!";
    std::fs::write(fixture.path("pseudonym.key"), key).unwrap();
    let config =
        "keys = [{ id = \"1\", key = \"${file:pseudonym.key}\" }]\nrules = [{ path = \"a\", class = \"a\" }]";
    fixture.configure(&through("pseudonymise", config, &["people"]));
    let outcome = fixture.archiver.run(&TRACE).await.expect_code(14);
    assert!(outcome.stderr.contains("keys[0]: the key is neither hex nor base64"), "{}", outcome.stderr);
    assert!(!(outcome.stdout + &outcome.stderr).contains("hunter2"));
    fixture.configure(&through("pseudonymise", &config.replace("pseudonym.key", "gone.key"), &["people"]));
    let outcome = fixture.archiver.run(&TRACE).await.expect_code(10);
    assert!(outcome.stderr.contains("gone.key can't be read"), "{}", outcome.stderr);
}

#[tokio::test]
async fn a_filter_drops_what_its_rules_name_and_counts_it() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let config = r#"rules = [
        { drop = { only_changed = ["lastSeen", "stats.*"] } },
        { drop = { ns = "*.sessions" } },
    ]"#;
    fixture.configure(&through("filter", config, &["people", "sessions"]));
    let (people, sessions) = (fixture.collection("people"), fixture.collection("sessions"));
    people.insert_one(doc! {"_id": 1, "name": "Ann", "lastSeen": 1}).await.unwrap();
    sessions.insert_one(doc! {"_id": 1}).await.unwrap();
    fixture.run_once().await;
    for change in [
        doc! {"$set": {"lastSeen": 2}},
        doc! {"$set": {"stats": {"logins": 1}}},
        doc! {"$inc": {"stats.logins": 1}, "$set": {"lastSeen": 3}},
        doc! {"$set": {"name": "Anne", "lastSeen": 4}},
        doc! {"$unset": {"lastSeen": ""}},
        doc! {"$push": {"tags": "x"}},
    ] {
        people.update_one(doc! {"_id": 1}, change).await.unwrap();
    }
    sessions.insert_one(doc! {"_id": 2}).await.unwrap();
    sessions.delete_one(doc! {"_id": 2}).await.unwrap();
    people.delete_one(doc! {"_id": 1}).await.unwrap();
    sessions.drop().await.unwrap();
    fixture.run_once().await;

    let records = fixture.records("all").await;
    assert_dense(&records);
    only(&records, "snapshot", 1);
    let updates = of(&records, &["update"]);
    assert_eq!(updates.len(), 3, "{updates:#?}");
    assert!(
        at(updates[0], "delta.updatedFields.stats").is_some(),
        "a parent set as a whole is more than what is named"
    );
    assert_eq!(text(updates[1], "delta.updatedFields.name"), "Anne");
    assert!(of(&records, &["insert"]).is_empty());
    assert_eq!(of(&records, &["delete"]).len(), 1);
    assert_eq!(of(&records, &["drop"]).len(), 1, "what happens to a collection stays");
    let checkpoint = fixture.checkpoint("all").await.unwrap();
    // Of people: two that touched lastSeen or stats.logins alone, one that removed lastSeen; of sessions: all three.
    assert_eq!(integer(&checkpoint, "counters.dropped.filter"), 6, "{checkpoint}");
    let all = integer(&checkpoint, "counters.appended") + 6;
    assert_eq!(integer(&checkpoint, "counters.read"), all);
    // The fields that the rules name are as old as the last kept record that has them; all others are right.
    let recovered = fixture.ok(&["recover", "--source", "all", "--id", "1"]).await;
    let recovered: serde_json::Value = serde_json::from_str(&recovered).unwrap();
    let int = |n: i32| serde_json::json!({"$numberInt": n.to_string()});
    let expected = serde_json::json!({
        "_id": int(1), "name": "Anne", "lastSeen": int(4), "stats": {"logins": int(1)}, "tags": ["x"],
    });
    assert_eq!(recovered, expected);
}
