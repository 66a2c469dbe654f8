//! Secrets of every type in every position, through plugins that redact and plugins that fail: nothing that Archiver wrote
//! anywhere or answered holds one of them, in any form, but for the `_id`s in checkpoints' resume tokens.

use std::time::Duration;

use archiver_tests::canary::{Canary, Haystack};
use archiver_tests::record::{integer, of};
use archiver_tests::replica_set::Settings;
use archiver_tests::scrape::{address, get};
use archiver_tests::secrets::Secrets;
use archiver_tests::workload::seed;
use archiver_tests::{Fixture, Server, tools, wait_until};
use bson::{Bson, Document, doc};

const PLUGIN: i32 = 14;
const LIMIT: Duration = Duration::from_secs(120);

/// What the first two sources let through: nothing below `secret`; nothing but `n` and `kind`. The others: nothing at all.
const DENY: &str = r#"{ path = "secret", action = "remove" }"#;
const ALLOW: &str = r#"{ path = "n", action = "keep" }, { path = "kind", action = "keep" }, { path = "_id", action = "mask" }"#;

/// The collections: secrets below `secret` only, and secrets everywhere.
const COVERED: [&str; 2] = ["covered", "covered_with_images"];
const OPEN: [&str; 2] = ["open", "open_with_images"];

fn configuration() -> String {
    let bad = tools::plugin("misbehave");
    let (path, sha256) = (bad.display(), tools::sha256(&bad));
    let source = |name: &str, collections: &[&str], plugin: &str| {
        Fixture::source(name, collections).trim_end().to_owned() + &format!("\nplugins = [\"{plugin}\"]\n")
    };
    let allow = Fixture::redact("allow", ALLOW).replace("config = {", "config = { mode = \"allow\",");
    [
        Fixture::redact("deny", DENY),
        allow,
        format!(
            "[[plugin]]\nname = \"bad\"\npath = \"{path}\"\nsha256 = \"{sha256}\"\nconfig = {{ always = true }}\n\n"
        ),
        format!(
            "[[plugin]]\nname = \"loud\"\npath = \"{path}\"\nsha256 = \"{sha256}\"\nconfig = {{ chatter = true }}\n\n"
        ),
        source("denied", &COVERED, "deny"),
        source("allowed", &OPEN, "allow"),
        source("failed", &OPEN, "bad") + "quarantine_limit = 10000\n",
        source("dropped", &OPEN, "loud") + "\n",
        Fixture::source("control", &["control"]),
    ]
    .concat()
}

/// With metrics, and a source that halts at the first secret.
fn served() -> String {
    let halted = Fixture::source("halted", &OPEN).trim_end().to_owned();
    let halted = halted + "\nplugins = [\"bad\"]\non_plugin_error = \"halt\"\n";
    "[metrics]\nlisten = \"127.0.0.1:0\"\n\n".to_owned() + &configuration() + &halted
}

/// Documents of one collection and all that can happen to them.
async fn live(fixture: &Fixture, name: &str, secrets: &mut Secrets, secret_ids: bool, field: &str) {
    let collection = fixture.collection(name);
    for n in 0..3 {
        let id = if secret_ids { secrets.id() } else { Bson::Int32(n) };
        collection.insert_one(secrets.document(id.clone(), field)).await.unwrap();
        for update in secrets.changes(field) {
            update.apply(&collection, &id).await.unwrap_or_else(|e| panic!("{update:?}: {e}"));
        }
        collection.replace_one(doc! {"_id": &id}, secrets.document(id.clone(), field)).await.unwrap();
        if n > 0 {
            collection.delete_one(doc! {"_id": &id}).await.unwrap();
        }
    }
    let mut session = fixture.db.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let id = if secret_ids { secrets.id() } else { Bson::Int32(9) };
    collection.insert_one(secrets.document(id, field)).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    // Definitions hold literals that may be the values of fields, and the tokens of their events hold the definitions.
    let filter = doc! {format!("{field}.one"): secrets.in_tokens()};
    let index = doc! {"key": {"n": 1}, "name": "n", "partialFilterExpression": filter};
    fixture.db.run_command(doc! {"createIndexes": name, "indexes": [index]}).await.unwrap();
    let validator = doc! {format!("{field}.one"): {"$ne": secrets.in_tokens()}};
    fixture.db.run_command(doc! {"collMod": name, "validator": validator}).await.unwrap();
}

/// What was printed, and what was answered over HTTP meanwhile.
struct Said {
    output: String,
    pages: String,
}

/// A baseline, then changes of every shape.
async fn run(fixture: &Fixture, secrets: &mut Secrets, control: &str) -> Said {
    for name in ["covered_with_images", "open_with_images"] {
        fixture.create_with_images(name).await;
    }
    for (names, secret_ids) in [(COVERED, false), (OPEN, true)] {
        for name in names {
            for n in 100..103 {
                let id = if secret_ids { secrets.id() } else { Bson::Int32(n) };
                fixture.collection(name).insert_one(secrets.document(id, "secret")).await.unwrap();
            }
        }
    }
    let once = ["run", "--once", "--log-level", "trace"];
    let mut outputs = vec![fixture.archiver.run(&once).await.expect_code(0)];
    fixture.configure(&served());
    let archiver = fixture.archiver.start(&["run", "--log-level", "trace"]);
    let address = address(&archiver).await;
    let changing = async {
        fixture.collection("control").insert_one(doc! {"text": control}).await.unwrap();
        for name in COVERED {
            live(fixture, name, secrets, false, "secret").await;
        }
        for name in OPEN {
            // A field whose name is a secret too.
            let field = secrets.in_tokens();
            live(fixture, name, secrets, true, &field).await;
        }
        is_captured(fixture).await;
    };
    let pages = scraped_during(&address, changing).await;
    // What halted the one source is said at the end, too.
    outputs.push(archiver.terminate().await.expect_code(PLUGIN));
    fixture.configure(&configuration());
    outputs.push(fixture.archiver.run(&once).await.expect_code(0));
    for command in [
        &["status"][..],
        &["check"],
        &["verify"],
        &["history", "--source", "denied", "--id", "0"],
        &["recover", "--source", "denied", "--deleted-since", "2020-01-01T00:00:00Z"],
    ] {
        let arguments = [command, &["--log-level", "trace"]].concat();
        outputs.push(fixture.archiver.run(&arguments).await);
    }
    Said { output: outputs.iter().map(|o| o.stdout.clone() + &o.stderr).collect(), pages }
}

/// Waits until everything that has happened is in the log.
async fn is_captured(fixture: &Fixture) {
    let now = fixture.db.run_command(doc! {"ping": 1}).await.unwrap().get_timestamp("operationTime").unwrap();
    for source in ["denied", "allowed", "failed", "dropped", "control"] {
        wait_until("everything is captured", LIMIT, || async {
            let checkpoint = fixture.checkpoint(source).await?;
            (checkpoint.get_timestamp("clusterTime").unwrap() >= now).then_some(())
        })
        .await;
    }
}

/// All that an archiver answers over HTTP meanwhile, and at the end.
async fn scraped_during(address: &str, deeds: impl Future<Output = ()>) -> String {
    let mut pages = String::new();
    let mut often = tokio::time::interval(Duration::from_millis(50));
    tokio::pin!(deeds);
    loop {
        let done = tokio::select! {
            () = &mut deeds => true,
            _ = often.tick() => false,
        };
        for path in ["/metrics", "/healthz", "/livez", "/"] {
            let (status, body) = get(address, path).await;
            pages += &format!("{path} {status}\n{body}");
        }
        if done {
            return pages;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_of_every_type_in_every_position_are_found_nowhere() {
    let watched = Server::shared().await;
    let audit = Server::own(Settings { uncompressed: true, ..Settings::default() }).await;
    let mut fixture = Fixture::across(&watched, &audit);
    fixture.configure(&configuration());
    // There is no such folder: a temporary file could not be made.
    let nowhere = fixture.path("nowhere").display().to_string();
    fixture.archiver.env("TMPDIR", &nowhere);
    let mut secrets = Secrets::new(seed());
    let control = format!("control-{:032x}", rand::random::<u128>());
    let Said { output, pages } = run(&fixture, &mut secrets, &control).await;

    audit.client().database("admin").run_command(doc! {"fsync": 1}).await.unwrap();
    let mut stored = Haystack::of(&fixture.audit, &fixture.archive(), &output).await;
    stored.add("the pages", pages.as_bytes());
    let mut files = Haystack::default();
    files.add_folder(audit.mongod().folder());

    let canaries = &secrets.canaries;
    println!("{} secrets in values and names, {} in _ids", canaries.len(), secrets.ids.len());
    let mut found = stored.search(canaries);
    found.extend(files.search(canaries));
    found.extend(stored.search(&secrets.ids).into_iter().filter(|f| !f.contains("archiver.checkpoints")));
    let ids: Vec<Canary> = secrets.ids.iter().map(Canary::outside_tokens).collect();
    found.extend(files.search(&ids));
    assert!(found.is_empty(), "{} findings: {found:#?}", found.len());

    assert_searched(&fixture, &stored, &files, &control).await;
    for said in [
        "/metrics 200",
        "archiver_events_withheld{source=\"failed\"}",
        "/healthz 200\nok",
        "/healthz 503\nhalted: halted (plugin, exit code 14)",
    ] {
        assert!(pages.contains(said), "{said:?} was never answered");
    }
}

/// The search finds what is there, and there was something to be searched.
async fn assert_searched(fixture: &Fixture, stored: &Haystack, files: &Haystack, control: &str) {
    let control = [Canary::text(control)];
    let places = stored.search(&control);
    for place in ["the audit collection control", "decompressed"] {
        assert!(places.iter().any(|p| p.contains(place)), "not in {place}: {places:#?}");
    }
    assert!(!files.search(&control).is_empty(), "not in the server's files");
    let records = async |source: &str| fixture.records(source).await;
    for (source, least) in [("denied", 90), ("allowed", 90)] {
        let records = records(source).await;
        let seen: Vec<&Document> = of(&records, &["snapshot", "insert", "update", "replace", "delete"]);
        assert!(seen.len() > least, "{} in {source}", seen.len());
        assert!(of(&records, &["quarantine"]).is_empty(), "{source}: {:#?}", of(&records, &["quarantine"]));
    }
    let dropped = fixture.checkpoint("dropped").await.unwrap();
    assert!(integer(&dropped, "counters.dropped.loud") > 90);
    let failed = records("failed").await;
    assert!(of(&failed, &["quarantine"]).len() > 90);
    assert!(of(&failed, &["insert", "update", "replace", "delete"]).is_empty());
}
