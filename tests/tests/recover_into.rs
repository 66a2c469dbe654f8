//! Recovered documents on their way back into a live collection: the plan, what is never overwritten, what is refused, and that an
//! interrupted recovery is finished by running it again.

use std::time::Duration;

use archiver_tests::record::{integer, of};
use archiver_tests::{Fixture, Server, wait_until};
use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::Collection;

const LIMIT: Duration = Duration::from_secs(60);
const INVALID: i32 = 10;

/// A source with deleted documents 0..count.
async fn deleted(server: &Server, count: i32, source: &str) -> Fixture {
    let fixture = Fixture::new(server);
    fixture.configure(&source.replace("{source}", &Fixture::source("orders", &["orders"])));
    let orders = fixture.create_with_images("orders").await;
    let documents = (0..count).map(|n| doc! {"_id": n, "n": n, "card": "4111"});
    orders.insert_many(documents).await.unwrap();
    fixture.run_once().await;
    orders.delete_many(doc! {}).await.unwrap();
    fixture.run_once().await;
    fixture
}

const SINCE: [&str; 5] = ["recover", "--source", "orders", "--deleted-since", "2020-01-01T00:00:00Z"];

async fn all(collection: &Collection<Document>) -> Vec<Document> {
    let found = collection.find(doc! {}).sort(doc! {"_id": 1}).await.unwrap();
    found.try_collect().await.unwrap()
}

fn lines(text: &str, action: &str) -> Vec<String> {
    let of = |line: &&str| line.split('\t').next() == Some(action);
    let mut ids: Vec<String> =
        text.lines().filter(of).map(|line| line.split('\t').nth(1).unwrap().to_owned()).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn a_plan_says_what_would_happen_to_each_document_and_then_that_happens() {
    let server = Server::shared().await;
    let fixture = deleted(&server, 6, "{source}").await;
    let restored = fixture.collection("restored");
    let same = doc! {"_id": 1, "n": 1, "card": "4111"};
    let others = [doc! {"_id": 2, "alive": true}, doc! {"_id": 3.0, "n": 3, "card": "4111"}];
    restored.insert_one(&same).await.unwrap();
    restored.insert_many(&others).await.unwrap();
    let to = format!("{}.restored", fixture.db.name());
    let command = [&SINCE[..], &["--to-namespace", &to]].concat();
    let plan = fixture.archiver.run(&command).await.expect_code(0);
    assert_eq!(lines(&plan.stdout, "will insert"), ["0", "4", "5"]);
    assert_eq!(
        (lines(&plan.stdout, "identical"), lines(&plan.stdout, "conflict")),
        (vec!["1".to_owned()], vec!["2".to_owned(), "3".to_owned()])
    );
    assert!(
        plan.stderr.contains(
            "plan: 3 will be inserted, 1 identical, 2 in conflict with live ones, 0 refused as redacted"
        ),
        "{}",
        plan.stderr
    );
    assert_eq!(all(&restored).await.len(), 3, "nothing is written without --apply");

    let apply = [&command[..], &["--apply"]].concat();
    let done =
        fixture.archiver.run(&apply).await.expect_code(INVALID).expect_message(&["2 live documents differ"]);
    assert_eq!(lines(&done.stdout, "inserted"), ["0", "4", "5"]);
    let now = all(&restored).await;
    assert_eq!((now.len(), &now[2], &now[3]), (6, &others[0], &others[1]), "live documents stay as they are");

    let over = fixture.archiver.run(&[&apply[..], &["--overwrite"]].concat()).await.expect_code(0);
    assert!(
        over.stderr.contains("done: 0 inserted, 4 identical, 2 replaced, 0 in conflict"),
        "{}",
        over.stderr
    );
    let expected: Vec<Document> = (0..6).map(|n| doc! {"_id": n, "n": n, "card": "4111"}).collect();
    let now = all(&restored).await;
    assert_eq!(now[..3], expected[..3]);
    assert_eq!(now[3].get("n"), expected[3].get("n"));
}

#[tokio::test]
async fn ids_that_cant_be_given_are_named_beside_those_that_are_in_conflict() {
    let server = Server::shared().await;
    let fixture = deleted(&server, 2, "{source}").await;
    let restored = fixture.collection("restored");
    restored.insert_one(doc! {"_id": 1, "alive": true}).await.unwrap();
    let to = format!("{}.restored", fixture.db.name());
    let ids = ["--id", "never", "--id", "0", "--id", "nor this", "--id", "1"];
    let command =
        [&["recover", "--source", "orders"], &ids[..], &["--to-namespace", &to, "--apply"]].concat();
    let done = fixture.archiver.run(&command).await.expect_code(INVALID);
    assert_eq!(
        (lines(&done.stdout, "inserted"), lines(&done.stdout, "conflict")),
        (vec!["0".into()], vec!["1".into()])
    );
    for named in ["\"never\"", "\"nor this\"", "1 live documents differ"] {
        assert!(done.stderr.contains(named), "{named}: {}", done.stderr);
    }
}

#[tokio::test]
async fn documents_of_two_collections_on_their_way_into_one_are_named() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders", "refunds"]));
    for name in ["orders", "refunds"] {
        fixture.create_with_images(name).await.insert_one(doc! {"_id": 1, "of": name}).await.unwrap();
    }
    fixture.run_once().await;
    for name in ["orders", "refunds"] {
        fixture.collection(name).delete_many(doc! {}).await.unwrap();
    }
    fixture.run_once().await;
    let to = format!("{}.orders", fixture.db.name());
    let command = [&SINCE[..], &["--to-namespace", &to]].concat();
    let plan = fixture.archiver.run(&command).await.expect_code(0);
    assert!(plan.stderr.contains("the documents are of several collections"), "{}", plan.stderr);
    let counts =
        |stdout: &str| ["will insert", "inserted", "conflict"].map(|action| lines(stdout, action).len());
    assert_eq!(counts(&plan.stdout), [1, 0, 1], "they have one _id: {}", plan.stdout);
    // What the plan says is what happens, and none of them takes the other's place.
    let elsewhere = format!("{}.elsewhere", fixture.db.name());
    for overwrite in [false, true] {
        let mut apply = [&SINCE[..], &["--to-namespace", &elsewhere, "--apply"]].concat();
        apply.extend(overwrite.then_some("--overwrite"));
        let done = fixture.archiver.run(&apply).await.expect_code(INVALID);
        assert_eq!(counts(&done.stdout), [0, 1, 1], "{}", done.stdout);
        let words =
            if overwrite { "have the _id of one that was written before" } else { "live documents differ" };
        assert!(done.stderr.contains(words), "{}", done.stderr);
        assert_eq!(all(&fixture.collection("elsewhere")).await.len(), 1);
        fixture.collection("elsewhere").delete_many(doc! {}).await.unwrap();
    }
    // What is there already is met by both.
    let met = |stdout: &str| {
        ["will insert", "inserted", "identical", "conflict"].map(|action| lines(stdout, action).len())
    };
    for (live, expected) in [("orders", [0, 0, 1, 1]), ("refunds", [0, 0, 1, 1]), ("other", [0, 0, 0, 2])] {
        fixture.collection("elsewhere").insert_one(doc! {"_id": 1, "of": live}).await.unwrap();
        let apply = [&SINCE[..], &["--to-namespace", &elsewhere, "--apply"]].concat();
        for command in [&apply[..apply.len() - 1], &apply[..]] {
            let told = fixture.archiver.run(command).await;
            assert_eq!(met(&told.stdout), expected, "{live} {}", told.stdout);
        }
        fixture.collection("elsewhere").delete_many(doc! {}).await.unwrap();
    }
    let twice = [
        "recover",
        "--source",
        "orders",
        "--namespace",
        &to,
        "--id",
        "1",
        "--id",
        "1",
        "--to-namespace",
        &elsewhere,
    ];
    let plan = fixture.archiver.run(&twice).await.expect_code(0);
    assert!(plan.stderr.contains("1 will be inserted, 1 identical"), "{}", plan.stderr);
    let one =
        fixture.archiver.run(&[&command[..], &["--namespace", &to, "--apply"]].concat()).await.expect_code(0);
    assert!(!one.stderr.contains("several collections"), "{}", one.stderr);
    assert_eq!(all(&fixture.collection("orders")).await, [doc! {"_id": 1, "of": "orders"}]);
}

#[tokio::test]
async fn a_recovery_that_fails_in_the_middle_says_what_it_has_written() {
    let server = Server::shared().await;
    let fixture = deleted(&server, 6, "{source}").await;
    let refuses = doc! {"create": "restored", "validator": {"n": {"$ne": 3}}};
    fixture.db.run_command(refuses).await.unwrap();
    let to = format!("{}.restored", fixture.db.name());
    let apply = [&SINCE[..], &["--to-namespace", &to, "--apply", "--reason", "exercise"]].concat();
    let failed = fixture.archiver.run(&apply).await;
    assert_ne!(failed.code, Some(0));
    assert!(failed.stderr.contains("inserting recovered documents"), "{}", failed.stderr);
    let restored = all(&fixture.collection("restored")).await;
    let ids: Vec<String> =
        restored.iter().map(|document| document.get_i32("_id").unwrap().to_string()).collect();
    assert!(ids.len() < 6, "{ids:?}");
    assert_eq!(lines(&failed.stdout, "inserted"), ids);
    fixture.run_once().await;
    let records = fixture.records("orders").await;
    let ended = of(&records, &["recovery"]).into_iter().next_back().unwrap();
    assert_eq!(integer(ended, "detail.counts.inserted"), ids.len() as i64, "{ended}");
}

/// kill -9 in the middle, wherever that is.
#[tokio::test]
async fn a_killed_recovery_is_finished_by_running_it_again() {
    let server = Server::shared().await;
    let fixture = deleted(&server, 3_500, "{source}").await;
    let restored = fixture.collection("restored");
    let to = format!("{}.restored", fixture.db.name());
    let apply = [&SINCE[..], &["--to-namespace", &to, "--apply", "--reason", "exercise"]].concat();
    for (point, there) in [("restore:inserted=exit@1", 1_000), ("restore:batch=exit@2", 2_000)] {
        let mut archiver = fixture.archiver.clone();
        archiver.env("ARCHIVER_FAIL_POINTS", point);
        assert_eq!(archiver.run(&apply).await.code, None, "{point} ends it");
        assert_eq!(restored.count_documents(doc! {}).await.unwrap(), there, "{point}");
    }
    let mut archiver = fixture.archiver.clone();
    archiver.env("ARCHIVER_FAIL_POINTS", "restore:batch=sleep(100000)@3");
    let running = archiver.start(&apply);
    wait_until("most are back", LIMIT, async || {
        (restored.count_documents(doc! {}).await.unwrap() >= 3_000).then_some(())
    })
    .await;
    assert_eq!(running.kill().await.code, None);
    let done = fixture.archiver.run(&apply).await.expect_code(0);
    assert!(done.stderr.contains("done: 500 inserted, 3000 identical"), "{}", done.stderr);
    let expected: Vec<Document> = (0..3_500).map(|n| doc! {"_id": n, "n": n, "card": "4111"}).collect();
    assert!(all(&restored).await == expected);
}

#[tokio::test]
async fn what_plugins_have_changed_is_marked_and_written_only_when_told_so() {
    let server = Server::shared().await;
    let redact = Fixture::redact("redact", r#"{ path = "card", action = "remove" }"#);
    let fixture = deleted(&server, 3, &format!("{redact}{{source}}plugins = [\"redact\"]\n")).await;
    let printed = fixture.archiver.run(&SINCE).await.expect_code(0);
    assert_eq!(printed.json_lines().len(), 3);
    let marked = "note: 3 of 3 documents are redacted, or may be: ";
    assert!(printed.stderr.contains(marked), "{}", printed.stderr);

    let restored = fixture.collection("restored");
    let to = format!("{}.restored", fixture.db.name());
    let command = [&SINCE[..], &["--to-namespace", &to]].concat();
    let plan = fixture.archiver.run(&command).await.expect_code(0);
    assert_eq!(lines(&plan.stdout, "redacted"), ["0", "1", "2"]);
    assert!(plan.stderr.contains("3 refused as redacted"), "{}", plan.stderr);
    let apply = [&command[..], &["--apply"]].concat();
    fixture.archiver.run(&apply).await.expect_code(INVALID).expect_message(&["--allow-redacted"]);
    assert_eq!(all(&restored).await, [] as [Document; 0]);
    let done = fixture.archiver.run(&[&apply[..], &["--allow-redacted"]].concat()).await.expect_code(0);
    assert!(done.stdout.contains("inserted\t0\tredacted") && done.stderr.contains(marked), "{done:?}");
    let expected: Vec<Document> = (0..3).map(|n| doc! {"_id": n, "n": n}).collect();
    assert_eq!(all(&restored).await, expected);
}

/// By images, and put together from deltas, of which one is of a field that is redacted.
#[tokio::test]
async fn what_no_plugin_has_changed_comes_back_as_if_there_were_none() {
    let server = Server::shared().await;
    let redact = Fixture::redact("redact", r#"{ path = "card", action = "remove" }"#);
    let fixture = Fixture::new(&server);
    let source = Fixture::source("orders", &["orders", "deltas"]);
    fixture.configure(&format!("{redact}{source}plugins = [\"redact\"]\n"));
    fixture.create_with_images("orders").await;
    let card = |n: i32| {
        if n % 2 == 0 {
            doc! {"card": "4111"}
        } else {
            doc! {}
        }
    };
    for name in ["orders", "deltas"] {
        let collection = fixture.collection(name);
        for n in 0..4 {
            let mut document = doc! {"_id": format!("{name}-{n}"), "n": n};
            document.extend(card(n));
            collection.insert_one(document).await.unwrap();
        }
    }
    fixture.run_once().await;
    for name in ["orders", "deltas"] {
        let collection = fixture.collection(name);
        collection.update_many(doc! {}, doc! {"$inc": {"n": 10}}).await.unwrap();
        let id = format!("{name}-1");
        collection.update_one(doc! {"_id": id}, doc! {"$set": {"card": "4222"}}).await.unwrap();
        collection.update_many(doc! {}, doc! {"$unset": {"card": true}}).await.unwrap();
        collection.delete_many(doc! {}).await.unwrap();
    }
    fixture.run_once().await;

    let to = format!("{}.restored", fixture.db.name());
    let apply = [&SINCE[..], &["--to-namespace", &to, "--apply"]].concat();
    let done = fixture.archiver.run(&apply).await.expect_code(INVALID);
    // Its last image has no card any more; of deltas it is not known that they made up for what was taken away.
    assert_eq!(lines(&done.stdout, "redacted"), ["deltas-0", "deltas-1", "deltas-2"]);
    let inserted = ["deltas-3", "orders-0", "orders-1", "orders-2", "orders-3"];
    assert_eq!(lines(&done.stdout, "inserted"), inserted);
    let one = ["recover", "--source", "orders", "--id", "deltas-3"];
    let one = fixture.archiver.run(&one).await.expect_code(0);
    assert!(!one.stderr.contains("note:"), "{}", one.stderr);
}

/// What a plugin drops leaves no trace.
#[tokio::test]
async fn where_plugins_may_drop_events_every_document_may_lack_something() {
    let server = Server::shared().await;
    let filter =
        Fixture::plugin("filter", "filter", r#"{ rules = [{ drop = { only_changed = ["seen"] } }] }"#);
    let fixture = deleted(&server, 2, &format!("{filter}{{source}}plugins = [\"filter\"]\n")).await;
    let printed = fixture.archiver.run(&SINCE).await.expect_code(0);
    let marked = "note: 2 of 2 documents are redacted, or may be: ";
    assert!(printed.stderr.contains(marked), "{}", printed.stderr);
}
