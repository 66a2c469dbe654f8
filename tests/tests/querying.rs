//! docs/querying.md says what is true: each of its blocks is run on an archive of a small story, and answers as the page shows.
//!
//! With `ARCHIVER_WRITE_PAGES=1` the answers are written into the page instead.

use std::time::Duration;

use archiver_tests::cloud::load_extension;
use archiver_tests::{Fixture, Server, duckdb, tools, wait_until};
use bson::{Document, doc};
use serde_json::Value;

/// The page's archive, day, next day and moment, which stand for the story's.
const ARCHIVE: &str = "/var/lib/archiver/archive";
const DAY: &str = "2026-11-21";
const NEXT_DAY: &str = "2026-11-22";
const MOMENT: &str = "2026-11-21 09:30:00";

/// An archive in which a payment is made, changed, and deleted.
struct Story {
    fixture: Fixture,
    statements: String,
    /// In the middle of it, to the second: `2026-11-21 09:30:00`.
    moment: String,
}

fn payment(id: &str, amount: i32, by: &str) -> Document {
    let card = doc! {"brand": "visa", "pan": "4111111111111111"};
    doc! {"_id": id, "amount": amount, "status": "new", "card": card, "updatedBy": by}
}

/// The server's time in seconds, as cluster times count them.
async fn second(server: &Server) -> u32 {
    let hello = server.client().database("admin").run_command(doc! {"hello": 1}).await.unwrap();
    hello.get_document("$clusterTime").unwrap().get_timestamp("clusterTime").unwrap().time
}

/// Waits until what happens from now on has a later second, and gives it.
async fn next_second(server: &Server, fixture: &Fixture) -> u32 {
    let start = second(server).await;
    wait_until("the next second", Duration::from_secs(30), async || {
        fixture.collection("elsewhere").insert_one(doc! {}).await.unwrap();
        let now = second(server).await;
        (now > start).then_some(now)
    })
    .await
}

async fn told(server: &Server) -> Story {
    let fixture = Fixture::new(server);
    let rules = "{ path = \"card.pan\", action = \"mask\", keep_last = 4 }";
    let source = "[[source]]\nname = \"payments\"\nwatch = [\"{db}.payments\", \"{db}.refunds\"]\nplugins = [\"redact-pii\"]\n\
        actor_field = \"updatedBy\"\n\n";
    fixture.configure(
        &("[archive]\nurl = \"{archive}\"\ntable_format = \"delta\"\n\n".to_owned()
            + &Fixture::redact("redact-pii", rules)
            + source),
    );
    let payments = fixture.create_with_images("payments").await;
    let refunds = fixture.collection("refunds");
    payments.insert_one(payment("p-1001", 50, "ann")).await.unwrap();
    fixture.run_once().await;
    let set = async |id: &str, set: Document| {
        payments.update_one(doc! {"_id": id}, doc! {"$set": set}).await.unwrap();
    };
    payments.insert_one(payment("p-1002", 120, "ann")).await.unwrap();
    set("p-1001", doc! {"status": "paid", "updatedBy": "bob"}).await;
    let moment = next_second(server, &fixture).await;
    set("p-1002", doc! {"amount": 90, "updatedBy": "bob"}).await;
    refunds.insert_one(doc! {"_id": "r-1", "payment": "p-1001", "updatedBy": "bob"}).await.unwrap();
    refunds
        .update_one(doc! {"_id": "r-1"}, doc! {"$set": {"sent": true, "updatedBy": "carol"}})
        .await
        .unwrap();
    payments.delete_one(doc! {"_id": "p-1002"}).await.unwrap();
    payments.insert_one(payment("p-1003", 75, "carol")).await.unwrap();
    refunds.drop().await.unwrap();
    fixture.run_once().await;
    let moment =
        duckdb::query(&format!("SELECT strftime(to_timestamp({moment}), '%Y-%m-%d %H:%M:%S') AS at"));
    let statements = fixture.ok(&["sql"]).await;
    Story { statements, moment: moment[0]["at"].as_str().unwrap().to_owned(), fixture }
}

impl Story {
    fn day(&self) -> &str {
        &self.moment[..10]
    }

    /// A block of the page with what is the story's own in place.
    fn own(&self, text: &str) -> String {
        let next = duckdb::query(&format!("SELECT (DATE '{}' + 1)::DATE::VARCHAR AS day", self.day()));
        text.replace(MOMENT, &self.moment)
            .replace(NEXT_DAY, next[0]["day"].as_str().unwrap())
            .replace(DAY, self.day())
            .replace(ARCHIVE, self.fixture.archive().to_str().unwrap())
    }

    /// An answer as the page has it.
    fn anonymous(&self, text: &str) -> String {
        text.replace(&format!("_{}", self.fixture.tag()), "")
            .replace(self.day(), DAY)
            .replace(self.fixture.archive().to_str().unwrap(), ARCHIVE)
    }

    /// Runs SQL as the page tells: behind the statements of `archiver sql`. One line for the columns, one for each row.
    fn answer(&self, sql: &str) -> Vec<Vec<String>> {
        let program = "import json, sys\nimport duckdb\nlogin, sql = json.load(open(sys.argv[1]))\n\
            connection = duckdb.connect()\nconnection.execute(login)\nresult = connection.execute(sql)\n\
            text = lambda v: '' if v is None else v.strftime('%Y-%m-%d %H:%M:%S') if hasattr(v, 'hour') else str(v)\n\
            print(json.dumps([[c[0] for c in result.description]] + [[text(v) for v in row] for row in result.fetchall()]))\n";
        let login = load_extension("delta") + &self.statements;
        let input = serde_json::json!([login, self.own(sql)]).to_string();
        let printed = tools::run_python(program, &[&self.file(&input)]);
        let rows: Vec<Vec<String>> = serde_json::from_str(&printed).unwrap();
        rows.into_iter().map(|row| row.iter().map(|cell| self.anonymous(cell)).collect()).collect()
    }

    fn file(&self, text: &str) -> String {
        let file = self.fixture.path("input.json");
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }
}

/// Rows under each other, cells separated by a bar.
fn shown(rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> =
        (0..rows[0].len()).map(|n| rows.iter().map(|row| row[n].chars().count()).max().unwrap()).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join(" | ").trim_end().to_owned() + "\n"
    };
    let rule = widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>().join("-+-") + "\n";
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    lines.insert(1, rule);
    lines.concat()
}

/// The same but for times of day, which are never the same.
fn timeless(text: &str) -> String {
    let mut timeless = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(&format!("{DAY} ")) {
        timeless.push_str(&rest[..at + DAY.len() + 1]);
        timeless.push_str("hh:mm:ss");
        rest = rest.get(at + MOMENT.len()..).unwrap_or_default();
    }
    timeless + rest
}

/// The page's blocks: language, and the text between the fences with its place.
fn blocks(page: &str) -> Vec<(String, std::ops::Range<usize>)> {
    let mut blocks = Vec::new();
    let (mut at, mut open): (usize, Option<(String, usize)>) = (0, None);
    for line in page.split_inclusive('\n') {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some((language, start))) => blocks.push((language, start..at)),
            (Some(language), None) => open = Some((language.trim().to_owned(), at + line.len())),
            (None, still) => open = still,
        }
        at += line.len();
    }
    blocks
}

#[tokio::test]
async fn every_block_of_the_page_answers_what_the_page_shows() {
    let server = Server::shared().await;
    let story = told(&server).await;
    let file = tools::repository().join("docs/querying.md");
    let page = std::fs::read_to_string(&file).unwrap();
    let blocks = blocks(&page);
    let (mut written, mut end, mut asked) = (String::new(), 0, 0);
    let mut differences = Vec::new();
    for (n, (_, sql)) in blocks.iter().enumerate().filter(|(_, (language, _))| language == "sql") {
        let answer = shown(&story.answer(&page[sql.clone()]));
        asked += 1;
        let Some((_, text)) = blocks.get(n + 1).filter(|(language, _)| language == "text") else {
            panic!("a question without an answer:\n{}\n{answer}", &page[sql.clone()])
        };
        if timeless(&answer) != timeless(&page[text.clone()]) {
            differences.push(format!("{}\n{answer}", &page[sql.clone()]));
        }
        written.push_str(&page[end..text.start]);
        written.push_str(&answer);
        end = text.end;
    }
    assert!(asked >= 12, "the page is written in another way now: {asked}");
    if std::env::var("ARCHIVER_WRITE_PAGES").is_ok_and(|value| value == "1") {
        std::fs::write(&file, written + &page[end..]).unwrap();
    } else {
        assert!(differences.is_empty(), "ARCHIVER_WRITE_PAGES=1 writes:\n{}", differences.join("\n"));
    }
    // What takes Java or a hundred megabytes more is run by hand.
    let by_hand = ["pandas", "pyspark"];
    let mut programs = 0;
    for (_, place) in blocks.iter().filter(|(language, _)| language == "python") {
        let program = story.own(&page[place.clone()]);
        if !by_hand.iter().any(|package| program.contains(package)) {
            programs += 1;
            assert!(!tools::run_python(&program, &[]).trim().is_empty(), "it prints nothing:\n{program}");
        }
    }
    assert!(programs >= 3, "{programs}");
}

/// What the page shows is what happened.
#[tokio::test]
async fn the_macros_about_people_collections_and_policies_tell_the_story() {
    let server = Server::shared().await;
    let story = told(&server).await;
    let ask = |sql: &str| duckdb::query(&format!("{};\n{sql}", story.statements));
    let json = |value: &Value| serde_json::from_str::<Value>(value.as_str().unwrap()).unwrap();
    let rows = ask("SELECT actor, changes, ops FROM actors_of('payments', 'p-1002')");
    let expected = serde_json::json!([
        {"actor": "ann", "changes": 1, "ops": ["insert"]}, {"actor": "bob", "changes": 2, "ops": ["delete", "update"]},
    ]);
    // The one who deleted it is the last who set the field, from another source: `actor_from` tells them apart.
    let mut merged: std::collections::BTreeMap<String, (i64, Vec<String>)> = Default::default();
    for row in &rows {
        let entry = merged.entry(row["actor"].as_str().unwrap().to_owned()).or_default();
        entry.0 += row["changes"].as_i64().unwrap();
        entry.1.extend(row["ops"].as_array().unwrap().iter().map(|op| op.as_str().unwrap().to_owned()));
        entry.1.sort();
    }
    let merged: Vec<Value> = merged
        .into_iter()
        .map(|(actor, (changes, ops))| serde_json::json!({"actor": actor, "changes": changes, "ops": ops}))
        .collect();
    assert_eq!(Value::from(merged), expected);
    let rows = ask("SELECT op, doc_id FROM changes_by('payments', 'bob')");
    let told: Vec<_> =
        rows.iter().map(|r| (r["op"].as_str().unwrap(), r["doc_id"].as_str().unwrap())).collect();
    assert_eq!(told, [("update", "p-1001"), ("update", "p-1002"), ("insert", "r-1"), ("delete", "p-1002")]);
    let rows = ask("SELECT op, coll FROM collection_changes('payments')");
    let told: Vec<_> =
        rows.iter().map(|r| (r["op"].as_str().unwrap(), r["coll"].as_str().unwrap())).collect();
    assert_eq!(told, [("create", "refunds"), ("drop", "refunds")]);
    let rows = ask("SELECT policy, plugins, watch FROM policies('payments')");
    assert_eq!((rows.len(), &rows[0]["policy"]), (1, &1.into()));
    assert!(rows[0]["plugins"][0].as_str().unwrap().starts_with("redact-pii "), "{rows:?}");
    let watch = rows[0]["watch"].as_array().unwrap();
    assert_eq!(watch[0], format!("{}.payments", story.fixture.db.name()));
    assert!(ask("FROM gaps('payments')").is_empty() && ask("FROM withheld('payments')").is_empty());
    // What was redacted stays so, and what was dropped has ended.
    let rows = ask(&format!("SELECT state, document FROM doc_at('payments', 'p-1002', '{}')", story.moment));
    let document = json(&rows[0]["document"]);
    assert_eq!((&document["amount"], &document["card"]["pan"]), (&120.into(), &"***1111".into()));
    let rows = ask("SELECT state, why FROM doc_at('payments', 'r-1', now() + INTERVAL 1 DAY)");
    assert_eq!(rows, [serde_json::json!({"state": "ended", "why": "drop"})]);
}
