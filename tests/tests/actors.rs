//! Who did it: what the application says of a transaction, and whose session it was.

use std::time::Duration;

use archiver_tests::record::{at, integer, must, of, text, time};
use archiver_tests::replica_set::Settings;
use archiver_tests::{Fixture, Server, wait_until};
use bson::{Bson, Document, doc, oid::ObjectId};
use mongodb::Client;
use mongodb::options::{ClientOptions, Credential};

const SOON: Duration = Duration::from_secs(60);

fn source(rest: &str) -> String {
    Fixture::source("orders", &["orders"]).trim_end().to_owned() + "\nactor_context = \"{db}.who\"\n" + rest
}

/// A transaction that says who acts, and then inserts these documents.
async fn act(client: &Client, fixture: &Fixture, context: Document, ids: std::ops::Range<i32>, size: usize) {
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let collection = |name: &str| client.database(fixture.db.name()).collection::<Document>(name);
    collection("who").insert_one(context).session(&mut session).await.unwrap();
    for part in ids.collect::<Vec<_>>().chunks(1_000) {
        let documents = part.iter().map(|id| doc! {"_id": id, "by": "field", "pad": "x".repeat(size)});
        collection("orders").insert_many(documents).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
}

async fn prepare(fixture: &Fixture) {
    for name in ["orders", "who"] {
        fixture.db.create_collection(name).await.unwrap();
    }
    fixture.run_once().await;
}

fn actor(record: &Document) -> Option<&Document> {
    at(record, "actor").and_then(Bson::as_document)
}

#[tokio::test]
async fn the_context_of_a_transaction_says_who_and_why_and_is_no_record() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&source("actor_field = \"by\"\n"));
    prepare(&fixture).await;
    let eve = ObjectId::new();
    act(server.client(), &fixture, doc! {"actor": "ann", "reason": "a refund", "more": 1}, 0..2, 1).await;
    act(server.client(), &fixture, doc! {"actor": eve}, 2..3, 1).await;
    act(server.client(), &fixture, doc! {"actor": 77_i64, "reason": 5}, 3..4, 1).await;
    act(server.client(), &fixture, doc! {"reason": "nobody's"}, 4..5, 1).await;
    fixture.collection("orders").insert_one(doc! {"_id": 5}).await.unwrap();
    fixture.collection("who").insert_one(doc! {"actor": "outside of any transaction"}).await.unwrap();
    fixture.collection("orders").insert_one(doc! {"_id": 6, "by": "bob"}).await.unwrap();
    fixture.run_once().await;

    let records = fixture.records("orders").await;
    let ann = doc! {"id": "ann", "from": "context", "reason": "a refund"};
    let expected = [
        Some(ann.clone()),
        Some(ann),
        Some(doc! {"id": eve.to_hex(), "from": "context"}),
        Some(doc! {"id": "77", "from": "context"}),
        Some(doc! {"id": "field", "from": "after"}),
        None,
        Some(doc! {"id": "bob", "from": "after"}),
    ];
    let inserts = of(&records, &["insert"]);
    let found: Vec<_> = inserts.iter().map(|r| actor(r).cloned()).collect();
    assert_eq!(found, expected);
    assert!(records.iter().all(|r| at(r, "ns.coll") != Some(&"who".into())), "the context is not watched");

    let checkpoint = fixture.checkpoint("orders").await.unwrap();
    assert_eq!(integer(&checkpoint, "counters.dropped.actor_context"), 5);
    assert_eq!(at(&checkpoint, "context"), None);
    let read = integer(&checkpoint, "counters.appended") + 5;
    assert_eq!(integer(&checkpoint, "counters.read"), read);
    fixture.ok(&["verify"]).await;
    let cold = fixture.cold("orders", "actor, actor_from, extra");
    let reasons: Vec<_> = cold.iter().filter(|r| r["actor"] == "ann").collect();
    assert_eq!(reasons.len(), 2);
    assert!(
        reasons.iter().all(|r| r["actor_from"] == "context" && r["extra"] == "{\"reason\":\"a refund\"}")
    );
}

#[tokio::test]
async fn a_context_that_is_watched_is_a_record_too() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let watched =
        Fixture::source("orders", &["*"]).trim_end().to_owned() + "\nactor_context = \"{db}.who\"\n";
    fixture.configure(&watched);
    prepare(&fixture).await;
    act(server.client(), &fixture, doc! {"_id": 1, "actor": "ann"}, 0..1, 1).await;
    fixture.run_once().await;
    let records = fixture.records("orders").await;
    let inserts = of(&records, &["insert"]);
    assert_eq!(inserts.iter().map(|r| text(r, "ns.coll")).collect::<Vec<_>>(), ["who", "orders"]);
    assert!(inserts.iter().all(|r| text(r, "actor.id") == "ann"));
}

/// Several oplog entries, thousands of operations, cut by every batch and by two restarts.
#[tokio::test]
async fn a_context_reaches_the_end_of_a_large_transaction_across_batches_and_restarts() {
    const OPERATIONS: i32 = 4_000;
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let small = "[capture]\nbatch_max_events = 20\n\n";
    fixture.configure(&(small.to_owned() + &source("")));
    prepare(&fixture).await;
    act(server.client(), &fixture, doc! {"actor": "ann"}, 0..OPERATIONS, 5_000).await;
    fixture.collection("orders").insert_one(doc! {"_id": "last"}).await.unwrap();
    let mut captured = 0;
    for _ in 0..2 {
        let running = fixture.start();
        wait_until("more of the transaction", SOON, async || {
            (fixture.count("orders").await > captured + 200).then_some(())
        })
        .await;
        running.terminate().await.expect_code(0);
        let checkpoint = fixture.checkpoint("orders").await.unwrap();
        captured = fixture.count("orders").await;
        assert!(captured < OPERATIONS as u64, "ended in the middle of the transaction");
        assert_eq!(text(&checkpoint, "context.actor"), "ann");
    }
    fixture.run_once().await;
    let records = fixture.records("orders").await;
    let inserts = of(&records, &["insert"]);
    let (last, of_transaction) = inserts.split_last().unwrap();
    assert_eq!(of_transaction.len(), OPERATIONS as usize);
    assert!(of_transaction.iter().all(|r| text(r, "actor.id") == "ann"));
    assert!(of_transaction.iter().all(|r| time(r) == time(of_transaction[0])));
    assert_eq!(actor(last), None);
    assert_eq!(at(&fixture.checkpoint("orders").await.unwrap(), "context"), None);
}

#[tokio::test]
async fn what_plugins_redact_of_a_context_is_redacted_in_every_record() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let rules =
        "{ path = \"actor\", action = \"mask\", keep_last = 2 }, { path = \"reason\", action = \"remove\" }";
    let config = Fixture::redact("names", rules) + &source("plugins = [\"names\"]\n");
    fixture.configure(&config);
    prepare(&fixture).await;
    act(server.client(), &fixture, doc! {"actor": "annabel", "reason": "SECRET"}, 0..2, 1).await;
    fixture.run_once().await;
    let records = fixture.records("orders").await;
    let masked = doc! {"id": "***el", "from": "context"};
    assert_eq!(of(&records, &["insert"]).iter().map(|r| actor(r)).collect::<Vec<_>>(), [Some(&masked); 2]);
}

/// The context is one document, of one partition; the others' changes have it all the same.
#[tokio::test]
async fn a_context_reaches_the_changes_of_every_partition() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&source("partitions = 3\n"));
    prepare(&fixture).await;
    act(server.client(), &fixture, doc! {"actor": "ann"}, 0..60, 1).await;
    fixture.run_once().await;
    let records = fixture.records("orders").await;
    let inserts = of(&records, &["insert"]);
    assert_eq!(inserts.len(), 60);
    assert!(inserts.iter().all(|r| text(r, "actor.id") == "ann"));
    for partition in 0..3 {
        let checkpoint = fixture.checkpoint(&format!("orders/{partition}")).await.unwrap();
        assert_eq!(integer(&checkpoint, "counters.dropped.actor_context"), 1);
        assert!(inserts.iter().any(|r| integer(r, "_id.p") == partition));
    }
}

async fn as_user(server: &Server, database: &str, user: &str) -> Client {
    let mut options = ClientOptions::parse(server.uri()).await.unwrap();
    let account = Credential::builder().username(user.to_owned()).password("p".to_owned());
    options.credential = Some(account.source(database.to_owned()).build());
    Client::with_options(options).unwrap()
}

/// An account that reads what it archives, writes the audit database, and sees the users as far as `seeing` says.
async fn account(server: &Server, fixture: &Fixture, name: &str, seeing: Option<Document>) {
    let admin = server.client().database("admin");
    let seeing: Vec<Document> = seeing.into_iter().collect();
    admin.run_command(doc! {"createRole": name, "privileges": seeing, "roles": []}).await.unwrap();
    let roles = vec![
        doc! {"role": "read", "db": fixture.db.name()},
        doc! {"role": "readWrite", "db": fixture.audit.name()},
        doc! {"role": name, "db": "admin"},
    ];
    admin.run_command(doc! {"createUser": name, "pwd": "p", "roles": roles}).await.unwrap();
}

fn uri_of(fixture: &Fixture, user: &str) -> String {
    fixture.uri().replace("root:secret", &format!("{user}:p"))
}

#[tokio::test]
async fn the_user_of_a_transactions_session_is_named_where_the_account_may_see_the_users() {
    let server = Server::own(Settings { auth: true, ..Settings::default() }).await;
    let everywhere = doc! {"resource": {"cluster": true}, "actions": ["viewUser"]};
    let in_admin = doc! {"resource": {"db": "admin", "collection": ""}, "actions": ["viewUser"]};
    let db = server.client().database("shop");
    let fixtures: Vec<_> = (0..3)
        .map(|_| {
            let mut fixture = Fixture::new(&server);
            fixture.db = db.clone();
            fixture
        })
        .collect();
    let names = ["sees_all", "sees_admin", "sees_none"];
    for ((fixture, name), seeing) in fixtures.iter().zip(names).zip([Some(everywhere), Some(in_admin), None])
    {
        account(&server, fixture, name, seeing).await;
        let mongodb = format!("[mongodb]\nuri = \"{}\"\n\n", uri_of(fixture, name));
        fixture.configure(&(mongodb + &source("actor_field = \"by\"\n")));
        fixture.run_once().await;
    }
    let write = vec![doc! {"role": "readWrite", "db": "shop"}];
    for (database, user) in [("shop", "ann"), ("admin", "bob"), ("shop", "gone")] {
        let create = doc! {"createUser": user, "pwd": "p", "roles": write.clone()};
        server.client().database(database).run_command(create).await.unwrap();
    }
    db.create_collection("orders").await.unwrap();
    for (n, (database, user)) in [("shop", "ann"), ("admin", "bob"), ("shop", "gone")].into_iter().enumerate()
    {
        let client = as_user(&server, database, user).await;
        let mut session = client.start_session().await.unwrap();
        let orders = client.database("shop").collection::<Document>("orders");
        session.start_transaction().await.unwrap();
        orders.insert_one(doc! {"_id": n as i32}).session(&mut session).await.unwrap();
        let update = doc! {"$set": {"by": "field"}};
        orders.update_one(doc! {"_id": n as i32}, update).session(&mut session).await.unwrap();
        session.commit_transaction().await.unwrap();
        orders.insert_one(doc! {"_id": format!("{n} outside of a transaction")}).await.unwrap();
    }
    db.run_command(doc! {"dropUser": "gone"}).await.unwrap();

    let named = [["ann@shop", "bob@admin", "-"], ["-", "bob@admin", "-"], ["-", "-", "-"]];
    for (fixture, expected) in fixtures.iter().zip(named) {
        fixture.run_once().await;
        let records = fixture.records("orders").await;
        let inserts = of(&records, &["insert"]);
        let in_transaction = inserts.iter().filter(|r| at(r, "txn").is_some());
        let found = in_transaction.map(|r| actor(r).map_or("-", |_| text(r, "actor.id")));
        assert_eq!(found.collect::<Vec<_>>(), expected);
        let outside = inserts.iter().filter(|r| at(r, "txn").is_none());
        assert!(outside.clone().count() == 3 && outside.clone().all(|r| actor(r).is_none()));
        let updates = of(&records, &["update"]);
        assert!(
            updates.iter().all(|r| must(r, "actor") == &Bson::from(doc! {"id": "field", "from": "delta"}))
        );
        for record in fixture.raw_records("orders").await {
            let stored = record.as_bytes().windows(DIGEST_OF_ANN.len()).any(|w| w == DIGEST_OF_ANN);
            assert!(!stored, "the digest is stored");
        }
    }
}

/// `printf ann@shop | sha256sum`: what the server puts into the session's `uid`.
const DIGEST_OF_ANN: [u8; 32] = [
    0xe6, 0x45, 0x3c, 0x81, 0xa5, 0x62, 0x74, 0xd5, 0x88, 0x7e, 0x41, 0x1c, 0xfe, 0x5d, 0x28, 0xa8, 0xb8,
    0x7b, 0xe3, 0x5f, 0x07, 0xcf, 0x99, 0xf4, 0x8d, 0xe7, 0xab, 0x05, 0x52, 0xce, 0x63, 0x3d,
];
