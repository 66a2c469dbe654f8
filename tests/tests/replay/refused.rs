//! Where a replay stops: at what it may not write to, and where history is missing.

use archiver_tests::record::{at, text};
use archiver_tests::{Fixture, Server, tools};
use bson::{Document, RawDocumentBuf, doc};
use futures_util::{StreamExt, TryStreamExt};

use super::{HISTORY_LOST, INVALID, digests, events, output, replay, target};

#[tokio::test]
async fn a_target_that_must_not_be_written_to_is_refused_with_what_to_do() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders", "items"]));
    fixture.collection("orders").insert_one(doc! {"_id": 1}).await.unwrap();
    fixture.run_once().await;
    let (again, whole) = target(&server, &fixture);
    again.collection::<Document>("orders").insert_one(doc! {"_id": "there"}).await.unwrap();
    let namespace = format!("{}.orders", fixture.db.name());
    let of = |namespace: String| output(fixture.uri(), &namespace);
    let (there, free) = (of(format!("{}.orders", again.name())), of(format!("{}.free", again.name())));
    let (watched, audit) = (of(namespace.clone()), of(format!("{}.x", fixture.audit.name())));
    let watched_database = of(fixture.db.name().to_owned());
    let one = ["--namespace", &namespace];
    for (output, more, words) in [
        (&there, &one[..], &["the target is not empty", "--allow-nonempty", "--state"][..]),
        (&whole, &[], &["the target is not empty"]),
        (&watched, &one, &["is watched itself", "source=orders"]),
        (&watched_database, &[], &["is watched itself"]),
        (&audit, &one, &["audit database"]),
        (&free, &[], &["several collections", "--namespace"]),
        (
            &free,
            &["--namespace", &namespace, "--from", "2026-01-01T00:00:00Z"],
            &["need the documents as they were then"],
        ),
        (&"mongodb://127.0.0.1".to_owned(), &[], &["--output is not ndjson"]),
        (&"ndjson".to_owned(), &["--atomic"], &["--atomic is for --output into collections"]),
        (&"ndjson".to_owned(), &["--speed", "fast"], &["--speed is neither max"]),
        (&"ndjson".to_owned(), &["--from", "soon"], &["--from is neither a seq nor a time"]),
    ] {
        let mut arguments = vec!["--source", "orders", "--output", output];
        arguments.extend(more);
        replay(&fixture, &arguments).await.expect_code(INVALID).expect_message(words);
    }
    assert_eq!(again.list_collection_names().await.unwrap(), ["orders"]);
    let arguments = ["--source", "orders", "--output", &there, "--namespace", &namespace, "--allow-nonempty"];
    replay(&fixture, &arguments).await.expect_code(0);
    assert_eq!(again.collection::<Document>("orders").count_documents(doc! {}).await.unwrap(), 2);
    replay(&fixture, &["--source", "nobody", "--output", "ndjson"]).await.expect_code(16);
}

/// Changes from a time on, applied to the documents as they were then.
#[tokio::test]
async fn changes_are_applied_to_a_restored_state() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let orders = fixture.collection("orders");
    orders.insert_many((0..5).map(|n| doc! {"_id": n, "n": 0, "list": [1]})).await.unwrap();
    fixture.run_once().await;
    let then: Vec<Document> = orders.find(doc! {}).await.unwrap().try_collect().await.unwrap();
    let from = (fixture.count("orders").await + 1).to_string();
    for n in 0..5 {
        orders.update_one(doc! {"_id": n}, doc! {"$inc": {"n": n}, "$push": {"list": n}}).await.unwrap();
    }
    orders.delete_one(doc! {"_id": 3}).await.unwrap();
    fixture.run_once().await;
    let (again, _) = target(&server, &fixture);
    again.collection::<Document>("orders").insert_many(then).await.unwrap();
    let output = output(fixture.uri(), &format!("{}.orders", again.name()));
    let arguments = ["--source", "orders", "--from", &from, "--output", &output, "--allow-nonempty"];
    replay(&fixture, &arguments).await.expect_code(0);
    assert_eq!(digests(&again, &["orders"]).await, digests(&fixture.db, &["orders"]).await);
}

/// Makes the stored position one that the oplog does not hold, as if it had rolled over. What is changed from now on is lost.
async fn lose_position(fixture: &Fixture) {
    let mut stream = fixture.db.watch().await.unwrap();
    fixture.collection("unwatched").insert_one(doc! {}).await.unwrap();
    let event = stream.next().await.unwrap().unwrap();
    let token = bson::serialize_to_bson(&event.id).unwrap();
    let position = doc! {"$set": {"token": token, "clusterTime": event.cluster_time.unwrap()}};
    let checkpoints = fixture.audit.collection::<Document>("archiver.checkpoints");
    assert_eq!(checkpoints.update_one(doc! {"_id": "orders"}, position).await.unwrap().matched_count, 1);
}

#[tokio::test]
async fn a_gap_is_refused_and_marked_and_passed_over_when_that_is_allowed() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let orders = fixture.collection("orders");
    orders.insert_many((0..6).map(|n| doc! {"_id": n, "n": 0})).await.unwrap();
    fixture.run_once().await;
    let before = digests(&fixture.db, &["orders"]).await;
    lose_position(&fixture).await;
    orders.update_one(doc! {"_id": 1}, doc! {"$set": {"n": 1}}).await.unwrap();
    orders.delete_one(doc! {"_id": 2}).await.unwrap();
    orders.insert_one(doc! {"_id": 9}).await.unwrap();
    fixture.run_once().await;
    orders.update_one(doc! {"_id": 1}, doc! {"$set": {"n": 2}}).await.unwrap();
    fixture.run_once().await;

    let text_of = replay(&fixture, &["--source", "orders", "--output", "ndjson"]).await.expect_code(0);
    let text_of = text_of.expect_message(&["history is missing in 1 places"]);
    let all = events(&text_of.stdout);
    let gap = all.iter().find(|e| text(e, "operationType") == "gap").expect("a gap is an event");
    assert!(at(gap, "archiver.detail.after").is_some(), "{gap}");
    let found: Vec<_> = all.iter().filter(|e| at(e, "archiver.found").is_some()).collect();
    let told: Vec<_> = found.iter().map(|e| (text(e, "operationType"), text(e, "archiver.found"))).collect();
    assert_eq!(told, [("replace", "changed"), ("insert", "inserted"), ("delete", "deleted")]);

    let (again, _) = target(&server, &fixture);
    let output = output(fixture.uri(), &format!("{}.orders", again.name()));
    let state = fixture.path("state").display().to_string();
    let arguments = ["--source", "orders", "--output", &output, "--state", &state];
    let refused = replay(&fixture, &arguments).await.expect_code(HISTORY_LOST);
    let name = text(gap, "_id._data");
    refused.expect_message(&["history is missing", &format!("record={name}"), "--allow-gaps"]);
    assert_eq!(digests(&again, &["orders"]).await, before, "what comes before it is applied");
    let allowed = [&arguments[..], &["--allow-gaps"]].concat();
    replay(&fixture, &allowed).await.expect_code(0);
    assert_eq!(digests(&again, &["orders"]).await, digests(&fixture.db, &["orders"]).await);
}

/// Through a plugin that fails on one document, until it is mended.
#[tokio::test]
async fn a_withheld_change_is_a_gap_until_it_is_released_and_stands_in_its_place() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let file = tools::plugin("misbehave");
    let (path, sha256) = (file.display(), tools::sha256(&file));
    let redact = Fixture::redact("redact", r#"{ path = "secret", action = "remove" }"#);
    let configure = |plugin: &str| {
        let bad = format!("[[plugin]]\nname = \"bad\"\npath = \"{path}\"\nsha256 = \"{sha256}\"\n\n");
        let source = Fixture::source("orders", &["orders"]);
        fixture.configure(&format!("{redact}{bad}{}\nplugins = [\"{plugin}\"]\n", source.trim_end()));
    };
    configure("bad");
    fixture.db.create_collection("orders").await.unwrap();
    fixture.run_once().await;
    let orders = fixture.collection("orders");
    for n in 0..4 {
        let mut document = doc! {"_id": n, "n": 0};
        if n >= 2 {
            document.extend(doc! {"do": "panic", "secret": "x"});
        }
        orders.insert_one(document).await.unwrap();
        orders.update_one(doc! {"_id": n}, doc! {"$set": {"n": 1}}).await.unwrap();
    }
    orders.replace_one(doc! {"_id": 3}, doc! {"_id": 3, "n": 5}).await.unwrap();
    fixture.run_once().await;
    let (again, _) = target(&server, &fixture);
    let into = output(fixture.uri(), &format!("{}.orders", again.name()));
    let arguments = ["--source", "orders", "--output", &into];
    replay(&fixture, &arguments).await.expect_code(HISTORY_LOST).expect_message(&["a change is withheld"]);
    again.drop().await.unwrap();
    let state = fixture.path("state").display().to_string();
    let early = output(fixture.uri(), &format!("{}.early", again.name()));
    let allowed = ["--source", "orders", "--output", &early, "--allow-gaps", "--state", &state];
    replay(&fixture, &allowed).await.expect_code(0);
    let known = digests(&again, &["early"]).await;
    assert_eq!(again.collection::<Document>("early").count_documents(doc! {}).await.unwrap(), 3);

    configure("redact");
    fixture.ok(&["quarantine", "retry"]).await;
    fixture.run_once().await;
    let outcome = replay(&fixture, &allowed).await.expect_code(0);
    outcome.expect_message(&["a change was released after later ones had been applied"]);
    assert_eq!(digests(&again, &["early"]).await, known, "what came later stays");
    let outcome = replay(&fixture, &["--source", "orders", "--output", "ndjson"]).await.expect_code(0);
    let all = events(&outcome.stdout);
    let withheld: Vec<_> = all.iter().filter(|e| text(e, "operationType") == "quarantine").collect();
    assert!(withheld.iter().all(|e| at(e, "archiver.detail.released").is_some()), "{withheld:?}");
    let of_two: Vec<_> =
        all.iter().filter(|e| at(e, "documentKey._id").and_then(|id| id.as_i32()) == Some(2)).collect();
    assert_eq!(of_two.iter().map(|e| text(e, "operationType")).collect::<Vec<_>>(), ["insert", "update"]);
    assert!(at(of_two[0], "archiver.late").is_some());
    replay(&fixture, &arguments).await.expect_code(0);
    orders.update_one(doc! {"_id": 2}, doc! {"$unset": {"secret": ""}}).await.unwrap();
    let all = async |collection: mongodb::Collection<RawDocumentBuf>| -> Vec<RawDocumentBuf> {
        collection.find(doc! {}).sort(doc! {"_id": 1}).await.unwrap().try_collect().await.unwrap()
    };
    assert_eq!(all(again.collection("orders")).await, all(fixture.db.collection("orders")).await);
}

/// Collections of the same name in two databases, of which a source watches one after the other.
#[tokio::test]
async fn what_was_watched_in_another_database_is_not_mixed_in() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let before = server.client().database(&format!("{}_before", fixture.db.name()));
    let orders = [&before, &fixture.db].map(|db| db.collection::<Document>("orders"));
    for (n, collection) in orders.iter().enumerate() {
        collection.insert_one(doc! {"_id": n as i32}).await.unwrap();
        let db = collection.namespace().db;
        fixture.configure(&format!("[[source]]\nname = \"orders\"\nwatch = [\"{db}.orders\"]\n"));
        fixture.run_once().await;
    }
    let (again, into) = target(&server, &fixture);
    let arguments = ["--source", "orders", "--output", &into];
    let refused = replay(&fixture, &arguments).await.expect_code(INVALID);
    refused.expect_message(&["has watched another database before", before.name(), "--namespace"]);
    for (n, collection) in orders.iter().enumerate() {
        let namespace = collection.namespace().to_string();
        let into = output(fixture.uri(), &format!("{}.orders_{n}", again.name()));
        let one = ["--source", "orders", "--output", &into, "--namespace", &namespace];
        replay(&fixture, &one).await.expect_code(0);
        let found = again.collection::<Document>(&format!("orders_{n}")).find_one(doc! {}).await.unwrap();
        assert_eq!(found, Some(doc! {"_id": n as i32}));
    }
    before.drop().await.unwrap();
}

#[tokio::test]
async fn a_replay_leaves_a_record_of_it_where_that_is_wanted() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let audit = "[audit]\ndatabase = \"{audit}\"\nrecord_access = true\n\n";
    fixture.configure(&(audit.to_owned() + &Fixture::source("orders", &["orders"])));
    fixture.run_once().await;
    replay(&fixture, &["--source", "orders", "--from", "1", "--output", "ndjson"]).await.expect_code(0);
    fixture.run_once().await;
    let records = fixture.records("orders").await;
    let access = records.iter().find(|record| text(record, "op") == "access").expect("a record of it");
    let told = ["command", "what.output", "what.from"].map(|name| text(access, &format!("detail.{name}")));
    assert_eq!(told, ["replay", "ndjson", "1"]);
    let outcome = replay(&fixture, &["--source", "orders", "--output", "ndjson"]).await.expect_code(0);
    assert!(events(&outcome.stdout).iter().any(|event| text(event, "operationType") == "access"));
}
