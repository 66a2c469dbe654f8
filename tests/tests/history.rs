//! What people meet when they ask for history: plans before writes, notes on redaction, and clear refusals.

use archiver_tests::{Fixture, Server};
use bson::doc;

async fn with_a_deleted_customer(plugin: &str, archive: &str) -> Fixture {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let mut source = Fixture::source("customers", &["customers", "suppliers"]);
    if !plugin.is_empty() {
        source = source.trim_end().to_owned() + "\nplugins = [\"redact-pii\"]\n";
    }
    fixture.configure(&format!("{archive}{plugin}{source}"));
    let customers = fixture.collection("customers");
    customers.insert_one(doc! {"_id": "c1", "name": "Anna", "mail": "anna@example.org"}).await.unwrap();
    fixture.run_once().await;
    customers.update_one(doc! {"_id": "c1"}, doc! {"$set": {"name": "Anne"}}).await.unwrap();
    customers.delete_one(doc! {"_id": "c1"}).await.unwrap();
    fixture.run_once().await;
    fixture
}

#[tokio::test]
async fn a_plan_says_what_would_be_written_and_then_that_it_is_there() {
    let fixture = with_a_deleted_customer("", "").await;
    let target = format!("{}.customers", fixture.db.name());
    let plan = ["recover", "--source", "customers", "--id", "c1", "--to-namespace", &target];
    assert_eq!(fixture.ok(&plan).await, "will insert\tc1\n");
    assert_eq!(fixture.ok(&[&plan[..], &["--apply"]].concat()).await, "inserted\tc1\n");
    assert_eq!(fixture.ok(&plan).await, "identical\tc1\n");
    let change = doc! {"$set": {"name": "Bea"}};
    fixture.collection("customers").update_one(doc! {"_id": "c1"}, change).await.unwrap();
    assert_eq!(fixture.ok(&plan).await, "conflict\tc1\n");
    let audit = format!("{}.customers", fixture.audit.name());
    let into_audit = ["recover", "--source", "customers", "--id", "c1", "--to-namespace", &audit];
    fixture.archiver.run(&into_audit).await.expect_code(10);
}

#[tokio::test]
async fn a_redacted_document_comes_back_with_a_note_that_it_is() {
    let redact = Fixture::redact("redact-pii", r#"{ path = "mail", action = "remove" }"#);
    let fixture = with_a_deleted_customer(&redact, "").await;
    let outcome =
        fixture.archiver.run(&["recover", "--source", "customers", "--id", "c1"]).await.expect_code(0);
    assert_eq!(outcome.stdout, "{\"_id\":\"c1\",\"name\":\"Anne\"}\n");
    assert!(
        outcome.stderr.contains("1 of 1 documents are redacted") && outcome.stderr.contains("redact-pii")
    );
    let plain = with_a_deleted_customer("", "").await;
    let outcome =
        plain.archiver.run(&["recover", "--source", "customers", "--id", "c1"]).await.expect_code(0);
    assert!(!outcome.stderr.contains("plugins"), "{}", outcome.stderr);
}

#[tokio::test]
async fn what_is_not_there_is_not_found_and_says_what_is() {
    let fixture = with_a_deleted_customer("", "").await;
    let run =
        async |arguments: &[&str], code: i32| fixture.archiver.run(arguments).await.expect_code(code).stderr;
    assert!(run(&["history", "--source", "customer", "--id", "c1"], 16).await.contains("customers"));
    run(&["recover", "--source", "customer", "--id", "c1"], 16).await;
    run(&["history", "--source", "customers", "--id", "c2"], 16).await;
    run(&["recover", "--source", "customers", "--id", "c2"], 16).await;
    run(&["recover", "--source", "customers", "--id", "c1", "--at", "2001-01-01T00:00:00Z"], 16).await;
    run(&["recover", "--source", "customers", "--id", "c1", "--at", "yesterday"], 10).await;
    run(&["recover", "--source", "customers", "--id", "{oops"], 10).await;
    run(&["verify", "--source", "customer"], 16).await;
}

#[tokio::test]
async fn with_a_configuration_verify_misses_the_newest_manifest() {
    let archive = "[archive]\nurl = \"{archive}\"\nhot_retention = \"0s\"\n\n";
    let fixture = with_a_deleted_customer("", archive).await;
    fixture.ok(&["verify"]).await;
    let mut files = fixture.archive_files();
    files.retain(|file| file.extension().is_some_and(|e| e == "json"));
    std::fs::remove_file(files.last().unwrap()).unwrap();
    let outcome = fixture.archiver.run(&["verify"]).await.expect_code(3);
    assert!(outcome.stdout.contains("a manifest was removed"), "{}", outcome.stdout);
}

#[tokio::test]
async fn a_dropped_collections_documents_come_back_and_one_id_in_two_places_is_told_apart() {
    let fixture = with_a_deleted_customer("", "").await;
    let suppliers = fixture.collection("suppliers");
    suppliers.insert_one(doc! {"_id": "c1", "of": "paper"}).await.unwrap();
    suppliers.drop().await.unwrap();
    fixture.run_once().await;
    let both = ["recover", "--source", "customers", "--id", "c1"];
    let refused = fixture.archiver.run(&both).await.expect_code(10);
    assert!(refused.stderr.contains(&format!("{}.suppliers", fixture.db.name())));
    let namespace = format!("{}.suppliers", fixture.db.name());
    let found = fixture.ok(&[&both[..], &["--namespace", &namespace]].concat()).await;
    assert_eq!(found, "{\"_id\":\"c1\",\"of\":\"paper\"}\n");
}
