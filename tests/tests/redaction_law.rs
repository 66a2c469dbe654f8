//! Redaction commutes with updates: whatever a real MongoDB does to a document, the redacted delta turns the redacted document
//! before into the redacted document after, for every kind of rule.

use archiver::history::document::{Contents, Unapplied, apply};
use archiver_tests::record::{at, of, text};
use archiver_tests::updates::{Names, document, update};
use archiver_tests::workload::seed;
use archiver_tests::{Fixture, Server, tools};
use bson::{Bson, Document, doc};
use bson_walker::Doc;
use rand::SeedableRng;
use rand::rngs::StdRng;

const DOCUMENTS: i64 = 40;
const UPDATES: usize = 12;
/// Where arrays are cut short.
const CUT: [(&str, &str); 6] = [("a", "b"), ("a", "c"), ("a", "e"), ("b", "c"), ("b", "e"), ("c", "d")];

/// A source per kind of rule: its name, and the configuration of its plugin. None removes a name that is a number: no delta says
/// whether that is an element, of which a null remains.
const KINDS: [(&str, &str, &str); 5] = [
    (
        "remove",
        "redact",
        r#"{ rules = [{ path = "a", action = "remove" }, { path = "b.c", action = "remove" }] }"#,
    ),
    (
        "anywhere",
        "redact",
        r#"{ rules = [{ path = "**.c", action = "remove" }, { path = "b.*", action = "mask" }] }"#,
    ),
    (
        "mask",
        "redact",
        r#"{ rules = [{ path = "a.b", action = "mask", keep_last = 2 }, { path = "**.d", action = "mask" }] }"#,
    ),
    (
        "replace",
        "redact",
        r#"{ rules = [{ path = "a", action = "replace", value = "[a]" }, { path = "c.*", action = "replace", value = 7 }] }"#,
    ),
    (
        "allow",
        "redact",
        r#"{ mode = "allow", rules = [{ path = "_id", action = "keep" }, { path = "a", action = "keep" }, { path = "**.b", action = "keep" }, { path = "a.c", action = "mask" }] }"#,
    ),
];

fn configuration() -> String {
    let mut configuration = String::new();
    for (name, plugin, config) in KINDS {
        let file = tools::plugin(plugin);
        let (path, sha256) = (file.display(), tools::sha256(&file));
        configuration += &format!(
            "[[plugin]]\nname = \"{name}\"\npath = \"{path}\"\nsha256 = \"{sha256}\"\nconfig = {config}\n\n\
             [[source]]\nname = \"{name}\"\nwatch = [\"{{db}}.things\"]\nplugins = [\"{name}\"]\n\n"
        );
    }
    configuration + &Fixture::source("clear", &["things"])
}

/// Makes random updates of random documents.
async fn write(fixture: &Fixture, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let things = fixture.create_with_images("things").await;
    for id in 0..DOCUMENTS {
        let mut first = doc! {"_id": id};
        first.extend(document(&mut rng, 3, Names::Plain));
        // With a large part that stays, MongoDB reports pipeline updates as deltas and not as replacements.
        first.insert("padding", "p".repeat(1_000));
        things.insert_one(&first).await.unwrap();
        for _ in 0..UPDATES {
            let now = things.find_one(doc! {"_id": id}).await.unwrap().unwrap();
            let _ = update(&mut rng, &now, Names::Plain).apply(&things, &Bson::Int64(id)).await;
        }
    }
}

/// Cuts arrays short below all that the rules cover: only then does MongoDB say so instead of setting them.
async fn cut(fixture: &Fixture) {
    let things = fixture.collection("things");
    for (id, (outer, inner)) in (DOCUMENTS..).zip(CUT) {
        let items: Vec<String> = (0..8).map(|n| format!("item {n}")).collect();
        things
            .insert_one(doc! {"_id": id, outer: {inner: items}, "padding": "p".repeat(1_000)})
            .await
            .unwrap();
        let path = format!("{outer}.{inner}");
        let shorter = doc! {"$set": {&path: {"$slice": [format!("${path}"), 3]}}};
        things.update_one(doc! {"_id": id}, vec![shorter]).await.unwrap();
    }
}

/// A document's fields in the order of their names: what is left of an allow-list may stand in another order.
fn sorted(document: &Document) -> Document {
    let mut fields: Vec<(String, Bson)> = document.clone().into_iter().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    let below = |value| match value {
        Bson::Document(d) => Bson::Document(sorted(&d)),
        Bson::Array(items) => Bson::Array(
            items
                .into_iter()
                .map(|v| match v {
                    Bson::Document(d) => Bson::Document(sorted(&d)),
                    other => other,
                })
                .collect(),
        ),
        other => other,
    };
    fields.into_iter().map(|(name, value)| (name, below(value))).collect()
}

/// The redacted delta applied to the redacted document before; `None` where a number in a path can be read in two ways, which
/// history then says instead of guessing.
fn after_the_delta(record: &Document) -> Option<Document> {
    let part = |name| bson::serialize_to_vec(record.get_document(name).unwrap()).unwrap();
    let (before, delta) = (part("before"), part("delta"));
    match apply(&before, Doc::new(&delta).unwrap(), Contents::Full) {
        Ok(built) => Some(bson::deserialize_from_slice(&built).unwrap()),
        Err(Unapplied::Ambiguous) => None,
        Err(error) => panic!("{error}\n{record}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redacted_delta_turns_the_redacted_before_into_the_redacted_after() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&configuration());
    fixture.run_once().await;
    write(&fixture, seed()).await;
    cut(&fixture).await;
    fixture.run_once().await;

    let clear = fixture.records("clear").await;
    let updates = of(&clear, &["update"]).len();
    assert!(updates > DOCUMENTS as usize * UPDATES / 4, "only {updates} updates");
    let is_cut = |record: &&Document| {
        at(record, "delta.truncatedArrays").is_some_and(|cut| !cut.as_array().unwrap().is_empty())
    };
    let cuts = of(&clear, &["update"]).into_iter().filter(is_cut).count();
    assert!(cuts >= CUT.len(), "only {cuts} arrays are cut short");
    for (kind, _, _) in KINDS {
        let records = fixture.records(kind).await;
        assert!(of(&records, &["quarantine"]).is_empty(), "{kind}: {:#?}", of(&records, &["quarantine"]));
        let redacted = of(&records, &["update"]);
        assert_eq!(redacted.len(), updates, "{kind}");
        let (mut changed, mut ambiguous) = (0, 0);
        for (record, original) in redacted.iter().zip(of(&clear, &["update"])) {
            let after = record.get_document("after").unwrap();
            let Some(built) = after_the_delta(record) else {
                ambiguous += 1;
                continue;
            };
            let (built, after) = if kind.starts_with("allow") {
                (sorted(&built), sorted(after))
            } else {
                (built, after.clone())
            };
            assert_eq!(built, after, "{kind}\n{record}\nin clear {original}");
            assert_eq!(text(record, "op"), text(original, "op"));
            changed += usize::from(after != *original.get_document("after").unwrap());
        }
        println!("{kind}: {updates} updates, {changed} of redacted documents, {ambiguous} ambiguous");
        assert!(ambiguous * 20 < updates, "{kind}: {ambiguous} of {updates} are ambiguous");
        assert!(changed > updates / 20, "{kind} redacts nothing: {changed} of {updates}");
    }
}
