//! Connections that can't be made or are not safe, and two clusters whose clocks are far apart.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use archiver_tests::certificates::{Authority, Validity, subject};
use archiver_tests::oplog;
use archiver_tests::replica_set::Settings;
use archiver_tests::{Fixture, Server, roles, wait_until};
use bson::{Document, Timestamp, doc};
use futures_util::future::join_all;
use mongodb::ClusterTime;
use serde_json::Value;

const UNAVAILABLE: i32 = 11;
const FAST: &str = "&serverSelectionTimeoutMS=1000";
const SECRET: &str = "s3cret-w0rd";

async fn with_tls() -> (Arc<Authority>, Server) {
    let authority = Arc::new(Authority::new());
    let settings = Settings { auth: true, tls: Some(Arc::clone(&authority)), ..Settings::default() };
    (authority, Server::own(settings).await)
}

fn certificate(file: PathBuf) -> String {
    format!("&authMechanism=MONGODB-X509&tlsCertificateKeyFile={}{FAST}", file.display())
}

/// Each connection string with words that its error must hold.
async fn refused_connections(
    authority: &Authority,
    other: &Authority,
    server: &Server,
) -> Vec<(String, &'static [&'static str])> {
    let mongod = server.mongod();
    roles::account(server.client(), "known", SECRET, &["read".to_owned()]).await;
    roles::certificate_account(server.client(), &subject("known"), &["read".to_owned()]).await;
    let own = authority.ca_file().display().to_string();
    let with_password = mongod.uri_of(&format!("known:{SECRET}"), &format!("&authSource=admin{FAST}"));
    vec![
        (with_password.replace(&own, &other.ca_file().display().to_string()), &["certificate", "tlsCAFile"]),
        (with_password.replace(&format!("&tlsCAFile={own}"), ""), &["UnknownIssuer", "tlsCAFile"]),
        (with_password.replace("127.0.0.1", "localhost"), &["not valid for name", "another name"]),
        (with_password.replace(&format!("&tls=true&tlsCAFile={own}"), ""), &["add tls=true"]),
        (
            with_password.replace(SECRET, "s3cret-wr0ng"),
            &["Authentication failed", "check the user, password"],
        ),
        (with_password.replace("known:", "nobody:"), &["Authentication failed", "check the user, password"]),
        (mongod.uri_of("", FAST), &["requires authentication", "user:password@host"]),
        (
            mongod.uri_of("", &certificate(authority.client("known", Validity::Expired))),
            &["tlsCertificateKeyFile", "expired"],
        ),
        (
            mongod.uri_of("", &certificate(other.client("known", Validity::Present))),
            &["tlsCertificateKeyFile", "authority"],
        ),
        (
            mongod.uri_of("", &certificate(authority.client("stranger", Validity::Present))),
            &["Authentication failed", "$external"],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_refused_says_why_and_shows_no_secret() {
    let (authority, server) = with_tls().await;
    let audit = Server::shared().await;
    let other = Authority::new();
    let cases = refused_connections(&authority, &other, &server).await;
    let tried = cases.into_iter().map(|(uri, words)| {
        let mut fixture = Fixture::across(&server, &audit);
        fixture.configure(&Fixture::source("orders", &["orders"]));
        fixture.connect(&uri, audit.uri());
        async move {
            let fixture = fixture;
            for command in [&["run", "--once", "--log-level", "trace"][..], &["check"]] {
                let outcome = fixture.archiver.run(command).await;
                assert!(
                    !outcome.stderr.contains("s3cret") && !outcome.stdout.contains("s3cret"),
                    "{outcome:?}"
                );
                assert!(!outcome.stderr.contains("Topology"), "{outcome:?}");
                let outcome = outcome.expect_code(UNAVAILABLE).expect_message(&["hint:"]);
                // Without an account `check` finds out by itself.
                if command[0] == "run" || !words.contains(&"requires authentication") {
                    outcome.expect_message(words);
                }
            }
        }
    });
    join_all(tried).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_file_that_is_not_there_is_an_invalid_configuration() {
    let server = Server::shared().await;
    let mut fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    for option in ["tlsCAFile", "tlsCertificateKeyFile"] {
        let uri = format!("{}&tls=true&{option}={}", server.uri(), fixture.path("gone.pem").display());
        fixture.archiver.env("ARCHIVER_TEST_URI", &uri);
        fixture
            .archiver
            .run(&["run", "--once"])
            .await
            .expect_code(10)
            .expect_message(&["No such file", option]);
    }
}

async fn warnings(fixture: &Fixture, about: &str) -> Vec<String> {
    let outcome = fixture.archiver.run(&["check", "--format", "json"]).await;
    let findings = outcome.json();
    let of = findings.as_array().unwrap().iter().filter(|f| f["level"] == "warn" && f["about"] == about);
    of.map(|f: &Value| format!("{} → {}", f["what"].as_str().unwrap(), f["hint"].as_str().unwrap())).collect()
}

fn any(warnings: &[String], words: &[&str]) -> bool {
    warnings.iter().any(|w| words.iter().all(|word| w.contains(word)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_warns_of_accounts_that_may_do_too_much_and_of_unsafe_connections() {
    let (_, server) = with_tls().await;
    let mut fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let audit = fixture.audit.name().to_owned();
    let found = warnings(&fixture, "audit log").await;
    assert!(
        any(
            &found,
            &[
                "root@admin may do more",
                "update",
                "dropDatabase",
                &format!("on {audit}"),
                "grantRole on admin"
            ]
        ),
        "{found:#?}"
    );
    assert!(any(&found, &["one account serves both sides: root@admin", "[audit] uri"]), "{found:#?}");
    let found = warnings(&fixture, "mongodb").await;
    assert!(any(&found, &["root@admin may do more", "remove, dropCollection"]), "{found:#?}");

    // Two accounts on one deployment: the one that watches may not touch the audit database.
    let names = roles::Names {
        watched: vec![fixture.db.name().to_owned()],
        audit: audit.clone(),
        sources: vec!["orders".to_owned()],
        targets: Vec::new(),
    };
    let mut reading = roles::privileges("archiverWatch", &names);
    roles::define(server.client(), "watch", &reading).await;
    reading.push(roles::Privilege {
        resource: doc! {"db": &audit, "collection": "orders"},
        action: "remove".to_owned(),
    });
    roles::define(server.client(), "meddle", &reading).await;
    roles::define(server.client(), "audit", &roles::privileges("archiverAudit", &names)).await;
    for role in ["watch", "meddle", "audit"] {
        roles::account(server.client(), role, "pass", &[role.to_owned()]).await;
    }
    let uri = |user: &str| server.mongod().uri_of(&format!("{user}:pass"), "&authSource=admin");
    fixture.connect(&uri("meddle"), &uri("audit"));
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let found = warnings(&fixture, "mongodb").await;
    assert!(any(&found, &["meddle@admin may do more", &format!("remove on {audit}.orders")]), "{found:#?}");
    fixture.connect(&uri("watch"), &uri("audit"));
    assert_eq!(
        (warnings(&fixture, "mongodb").await, warnings(&fixture, "audit log").await),
        (vec![], vec![])
    );

    // No account, no TLS; and another machine, which need not be there.
    let open = Server::shared().await;
    let mut fixture = Fixture::new(&open);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    assert!(any(&warnings(&fixture, "mongodb").await, &["no account", "--auth"]));
    fixture.archiver.env("ARCHIVER_TEST_URI", &format!("mongodb://db.invalid/?{}", &FAST[1..]));
    let found = warnings(&fixture, "mongodb").await;
    assert!(any(&found, &["no TLS", "db.invalid:27017", "add tls=true"]), "{found:#?}");
}

/// Sets a cluster's logical clock ahead by some days; it never goes back.
async fn advance(server: &Server, days: u32) -> Timestamp {
    let hello = server.client().database("admin").run_command(doc! {"hello": 1}).await.unwrap();
    let mut time: Document = hello.get_document("$clusterTime").unwrap().clone();
    let now = time.get_timestamp("clusterTime").unwrap();
    let ahead = Timestamp { time: now.time + days * 86_400, increment: 1 };
    time.insert("clusterTime", ahead);
    let time: ClusterTime = bson::deserialize_from_document(time).unwrap();
    let mut session = server.client().start_session().await.unwrap();
    session.advance_cluster_time(&time);
    let ping = server
        .client()
        .database("clock")
        .collection::<Document>("ticks")
        .insert_one(doc! {})
        .session(&mut session)
        .await;
    ping.unwrap();
    ahead
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clusters_need_not_agree_on_the_time() {
    let (slow, fast) = tokio::join!(Server::own(Settings::default()), Server::own(Settings::default()));
    advance(&fast, 100).await;
    for (watched, audit) in [(&slow, &fast), (&fast, &slow)] {
        let fixture = Fixture::across(watched, audit);
        let archive = "[archive]\nurl = \"{archive}\"\nsegment_max_age = \"1s\"\n\n";
        fixture.configure(&(archive.to_owned() + &Fixture::source("orders", &["orders"])));
        let orders = fixture.collection("orders");
        orders.insert_one(doc! {"_id": "a"}).await.unwrap();
        // The stream begins with what happened last, and that is something else.
        fixture.collection("other").insert_one(doc! {}).await.unwrap();
        fixture.run_once().await;
        orders.update_one(doc! {"_id": "a"}, doc! {"$set": {"n": 1}}).await.unwrap();
        orders.delete_one(doc! {"_id": "a"}).await.unwrap();
        let running = fixture.start();
        let everything = fixture.count("orders").await + 2;
        let limit = Duration::from_secs(60);
        wait_until("what has the age is rolled, whatever the clocks say", limit, || async {
            (fixture.archive().is_dir() && rows(&fixture) >= everything).then_some(())
        })
        .await;
        running.terminate().await.expect_code(0);

        let records = fixture.records("orders").await;
        let changes = oplog::changes(watched.client(), &format!("{}.orders", fixture.db.name())).await;
        assert_eq!(oplog::recorded(&records), changes[1..], "the watched cluster's times");
        let own: Vec<&Document> =
            records.iter().filter(|r| matches!(r.get_str("op"), Ok("snapshot" | "policy"))).collect();
        assert_eq!(own.len(), 2, "{records:#?}");
        for record in own {
            let time = record.get_timestamp("clusterTime").unwrap();
            assert!(changes[0].time <= time && time < changes[1].time, "{record:#?}\n{changes:#?}");
        }
        let status = fixture.archiver.run(&["status", "--format", "json"]).await.expect_code(0).json();
        assert!(status[0]["lagSeconds"].as_i64().unwrap() < 86_400, "{status:#}");
        assert_eq!(
            (&status[0]["state"], &status[0]["problems"]),
            (&"stopped".into(), &serde_json::json!([]))
        );
    }
}

fn rows(fixture: &Fixture) -> u64 {
    fixture
        .archive_files()
        .iter()
        .filter(|f| f.extension().is_some_and(|e| e == "json"))
        .map(|f| {
            let manifest: Value = serde_json::from_slice(&std::fs::read(f).unwrap()).unwrap_or_default();
            manifest["rows"].as_u64().unwrap_or(0)
        })
        .sum()
}
