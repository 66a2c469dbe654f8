//! What the rules name is nowhere: not in the audit database, not in the archive, not in the most talkative log.

use archiver_tests::canary::{Canary, Haystack};
use archiver_tests::record::{integer, of, only, text};
use archiver_tests::{Fixture, Server};
use bson::{Document, doc};

/// Ten digits that occur nowhere else by chance, different for every call.
fn digits() -> i64 {
    rand::random_range(4_000_000_000_000_000..5_000_000_000_000_000)
}

const RULES: &str = r#"
    { path = "card.pan", action = "remove" },
    { path = "**.iban", action = "mask", keep_last = 4 },
    { path = "customer.email", action = "replace", value = "[redacted]" },
    { path = "cards.pan", action = "remove" },
    { path = "secret", action = "remove" },
    { path = "**.token", action = "remove" }"#;

/// Secrets, and the documents and changes that carry them into every corner of a change event.
struct Secrets {
    canaries: Vec<Canary>,
}

impl Secrets {
    fn text(&mut self) -> String {
        let text = format!("secret-{}@example.org", digits());
        self.canaries.push(Canary::text(&text));
        text
    }

    fn number(&mut self) -> i64 {
        let number = digits();
        self.canaries.push(Canary::number(number));
        number
    }

    /// A masked value: its last four characters may be seen, the rest may not.
    fn masked(&mut self) -> String {
        let text = format!("NO{}", digits());
        self.canaries.push(Canary::text(&text[..text.len() - 4]));
        text
    }

    fn document(&mut self, id: &str) -> Document {
        doc! {
            "_id": id,
            "n": 0,
            "card": {"pan": self.number(), "brand": "visa"},
            "customer": {"email": self.text(), "name": "Ada", "bank": {"iban": self.masked()}},
            "cards": [{"pan": self.text(), "n": 1}, {"pan": self.number(), "n": 2}],
            "secret": {"deep": [{"er": self.text()}]},
            "sessions": [[{"token": self.text()}]],
        }
    }

    fn changes(&mut self) -> Vec<Document> {
        vec![
            doc! {"$set": {"card.pan": self.number()}},
            doc! {"$set": {"card": {"pan": self.text(), "brand": "visa"}}},
            doc! {"$set": {"customer": {"email": self.text(), "bank": {"iban": self.masked()}}}},
            doc! {"$set": {"customer.bank.iban": self.masked()}},
            doc! {"$set": {"cards.0.pan": self.text(), "cards.1": {"pan": self.text()}}},
            doc! {"$push": {"cards": {"pan": self.text()}}},
            doc! {"$push": {"cards": {"$each": [{"pan": self.text()}], "$slice": -2}}},
            doc! {"$set": {"secret.deep.0.er": self.text(), "secret.new": self.text()}},
            doc! {"$set": {"secret": self.text()}},
            doc! {"$set": {"sessions.0.0.token": self.text(), "other.token": {"x": self.text()}}},
            doc! {"$unset": {"customer.email": "", "card": ""}},
            doc! {"$set": {"card.pan": self.number(), "n": 7}},
        ]
    }
}

async fn fill(fixture: &Fixture, secrets: &mut Secrets) {
    for name in ["with", "without"] {
        let collection = fixture.collection(name);
        for n in 0..3 {
            collection.insert_one(secrets.document(&format!("new {n}"))).await.unwrap();
        }
        for change in secrets.changes() {
            collection.update_one(doc! {"_id": "new 0"}, change).await.unwrap();
        }
        let stages = vec![doc! {"$set": {"card": {"pan": {"$literal": secrets.text()}}}}];
        collection.update_one(doc! {"_id": "new 1"}, stages).await.unwrap();
        collection.replace_one(doc! {"_id": "new 1"}, secrets.document("new 1")).await.unwrap();
        collection.delete_one(doc! {"_id": "new 1"}).await.unwrap();
        let mut session = fixture.db.client().start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        collection.insert_one(secrets.document("in a transaction")).session(&mut session).await.unwrap();
        session.commit_transaction().await.unwrap();
    }
}

/// A baseline, then changes of every shape; gives the archiver's whole output.
async fn run(fixture: &Fixture, secrets: &mut Secrets) -> String {
    fixture.create_with_images("with").await;
    for name in ["with", "without"] {
        fixture.collection(name).insert_one(secrets.document("old")).await.unwrap();
    }
    let run = ["run", "--once", "--log-level", "trace"];
    let first = fixture.archiver.run(&run).await.expect_code(0);
    fill(fixture, secrets).await;
    let second = fixture.archiver.run(&run).await.expect_code(0);
    let others = [
        fixture.archiver.run(&["status", "--log-level", "trace"]).await,
        fixture.archiver.run(&["check", "--log-level", "trace"]).await,
        fixture.archiver.run(&["verify", "--log-level", "trace"]).await,
        fixture.archiver.run(&["history", "--source", "all", "--id", "new 0", "--log-level", "trace"]).await,
        fixture.archiver.run(&["recover", "--source", "all", "--id", "new 1", "--log-level", "trace"]).await,
    ];
    [first, second].iter().chain(&others).map(|o| o.stdout.clone() + &o.stderr).collect()
}

#[tokio::test]
async fn redacted_values_are_found_nowhere() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let source = Fixture::source("all", &["with", "without"]).trim_end().to_owned();
    fixture.configure(&(Fixture::redact("redact-pii", RULES) + &source + "\nplugins = [\"redact-pii\"]\n"));
    let mut secrets = Secrets { canaries: Vec::new() };
    let output = run(&fixture, &mut secrets).await;

    let found = Haystack::of(&fixture.audit, &fixture.archive(), &output).await.search(&secrets.canaries);
    assert!(found.is_empty(), "{} of {} canaries leaked: {found:#?}", found.len(), secrets.canaries.len());

    // And what is not named is still there.
    let records = fixture.records("all").await;
    let inserted: Vec<_> = of(&records, &["insert"]);
    assert!(inserted.iter().all(|r| text(r, "after.customer.email") == "[redacted]"));
    assert!(inserted.iter().all(|r| text(r, "after.card.brand") == "visa"));
    let seven = of(&records, &["update"]).into_iter().filter(|r| r.to_string().contains("\"n\": 7")).count();
    assert!(seven >= 2, "the update beside the redacted field is kept");
    assert_eq!(of(&records, &["quarantine"]).len(), 0);
}

#[tokio::test]
async fn without_a_plugin_the_same_search_finds_the_values() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("all", &["with", "without"]));
    let mut secrets = Secrets { canaries: Vec::new() };
    let output = run(&fixture, &mut secrets).await;
    let found = Haystack::of(&fixture.audit, &fixture.archive(), &output).await.search(&secrets.canaries);
    let places = ["audit collection all", "decompressed"];
    for place in places {
        let here = found.iter().filter(|f| f.contains(place)).count();
        assert!(here * 10 >= secrets.canaries.len() * 9, "{here} of {} in {place}", secrets.canaries.len());
    }
    let log: Vec<_> = found.iter().filter(|f| f.contains("the output")).collect();
    println!("{} in the commands' output", log.len());
}

#[tokio::test]
async fn a_rule_on_id_reaches_the_key_of_every_record() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let rules = r#"{ path = "_id", action = "mask", keep_last = 4 }"#;
    let source = Fixture::source("all", &["people"]).trim_end().to_owned();
    fixture.configure(&(Fixture::redact("redact-pii", rules) + &source + "\nplugins = [\"redact-pii\"]\n"));
    let mut secrets = Secrets { canaries: Vec::new() };
    let people = fixture.create_with_images("people").await;
    let old = secrets.masked();
    people.insert_one(doc! {"_id": &old, "n": 1}).await.unwrap();
    let run = ["run", "--once", "--log-level", "trace"];
    let mut output = fixture.archiver.run(&run).await.expect_code(0).stderr;
    people.update_one(doc! {"_id": &old}, doc! {"$set": {"n": 2}}).await.unwrap();
    people.delete_one(doc! {"_id": &old}).await.unwrap();
    output += &fixture.archiver.run(&run).await.expect_code(0).stderr;

    let mut found = Haystack::of(&fixture.audit, &fixture.archive(), &output).await.search(&secrets.canaries);
    // A resume token holds the document key: checkpoints have it, nothing else does.
    found.retain(|f| !f.contains("archiver.checkpoints"));
    assert!(found.is_empty(), "{found:#?}");
    let records = fixture.records("all").await;
    assert_eq!(of(&records, &["snapshot", "update", "delete"]).len(), 3);
}

#[tokio::test]
async fn a_rewritten_event_keeps_its_identity_and_its_numbers_exact() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let rules = r#"{ path = "email", action = "replace", value = "[redacted]" }"#;
    let source = Fixture::source("all", &["people"]).trim_end().to_owned();
    fixture.configure(&(Fixture::redact("redact-pii", rules) + &source + "\nplugins = [\"redact-pii\"]\n"));
    fixture.run_once().await;
    let people = fixture.collection("people");
    people.insert_one(doc! {"_id": 1, "big": i64::MAX, "email": "a@b.c", "half": 0.5}).await.unwrap();
    fixture.run_once().await;
    let records = fixture.records("all").await;
    let insert = only(&records, "insert", 1);
    assert_eq!(integer(insert, "after.big"), i64::MAX);
    assert_eq!(text(insert, "after.email"), "[redacted]");
    assert_eq!(text(insert, "ns.coll"), "people");
}
