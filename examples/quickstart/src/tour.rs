//! The tour itself, chapter by chapter. Every promise it makes it also checks, and it fails where one does not hold.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use archiver_tests::canary::{Canary, Haystack};
use archiver_tests::process::Archiver;
use archiver_tests::replica_set::{Mongod, Settings};
use archiver_tests::{duckdb, tools};
use bson::{Document, RawDocumentBuf, doc};
use mongodb::{Client, Database};
use tempfile::TempDir;

use crate::shop::{CUSTOMERS, Shop};
use crate::show::{chapter, command, good, quote, say, table, title};

/// The customer who is deleted by mistake.
const DELETED: i32 = 7;
/// The order whose history the auditor wants to see.
const ORDER: i32 = 5;

struct Tour {
    /// Stopped with this value; `None` where the person gave a deployment.
    _mongod: Option<Mongod>,
    uri: String,
    folder: TempDir,
    shop: Shop,
    audit: Database,
    archiver: Archiver,
    output: String,
}

/// Runs all of it.
pub(crate) async fn run(keep: bool) -> Result<()> {
    title("Archiver: every sensitive change, captured, redacted and kept");
    let mut tour = Tour::begin().await?;
    tour.fill().await?;
    tour.configure()?;
    tour.capture().await?;
    tour.look_at_one_payment().await?;
    tour.ask()?;
    tour.bring_a_customer_back().await?;
    tour.prove().await?;
    tour.search().await?;
    tour.end(keep).await
}

impl Tour {
    async fn begin() -> Result<Tour> {
        chapter(1, "A MongoDB to watch");
        let folder = TempDir::with_prefix("archiver-quickstart-")?;
        let (mongod, uri, prefix) = match std::env::var("MONGODB_URI") {
            Ok(uri) => {
                say("Yours, from MONGODB_URI.");
                (None, uri, "archiver_quickstart_")
            }
            Err(_) => {
                let mongod =
                    Mongod::start(Settings { own_process_group: true, ..Settings::default() }).await?;
                say(&format!(
                    "A replica set of one node, started on {} in a temporary folder.",
                    mongod.address()
                ));
                let uri = mongod.uri();
                (Some(mongod), uri, "")
            }
        };
        let client = Client::with_uri_str(&uri).await.context("MONGODB_URI")?;
        let shop =
            Shop::open(&client, &format!("{prefix}shop")).await.context("the shop can't be created")?;
        let audit = client.database(&format!("{prefix}audit"));
        audit.drop().await?;
        let mut archiver = Archiver::new(Some(&folder.path().join("archiver.toml")));
        archiver.env("MONGODB_URI", &uri);
        Ok(Tour { _mongod: mongod, uri, folder, shop, audit, archiver, output: String::new() })
    }

    async fn fill(&mut self) -> Result<()> {
        chapter(2, "A small shop");
        self.shop.fill().await?;
        let payments = self.shop.collection("payments").count_documents(doc! {}).await?;
        say(&format!(
            "{CUSTOMERS} customers, their orders, and {payments} payments with card numbers and e-mail addresses."
        ));
        Ok(())
    }

    fn configure(&self) -> Result<()> {
        chapter(3, "The configuration");
        let plugin = tools::plugin("redact");
        let config = include_str!("../archiver.toml")
            .replace("{shop}", self.shop.db.name())
            .replace("{audit}", self.audit.name())
            .replace("{archive}", &self.archive().display().to_string())
            .replace("{plugin}", &plugin.display().to_string())
            .replace("{sha256}", &tools::sha256(&plugin));
        quote(&config);
        std::fs::write(self.folder.path().join("archiver.toml"), config)?;
        Ok(())
    }

    async fn capture(&mut self) -> Result<()> {
        chapter(4, "The present, then every change");
        self.run(&["run", "--once"]).await?;
        say(
            "What was there is in the audit log and in Parquet, as a baseline. Now the shop has a busy afternoon:",
        );
        let done = self.shop.afternoon().await?;
        let rows: Vec<_> =
            done.iter().map(|(what, n)| serde_json::json!({"changes": n, "what": what})).collect();
        table(&rows);
        self.run(&["run", "--once"]).await?;
        let changes: u32 = done.iter().map(|(_, n)| n).sum();
        let sql = "SELECT count(*) AS n FROM changes WHERE op NOT IN ('snapshot', 'policy')";
        let records = &self.query(sql)?[0]["n"];
        ensure!(*records == changes, "{changes} changes made {records} records");
        good(&format!("{changes} changes, {records} records: each exactly once."));
        Ok(())
    }

    async fn look_at_one_payment(&self) -> Result<()> {
        chapter(5, "What the plugin does to a payment");
        let (id, payments) = (70, self.shop.collection("payments"));
        let original = payments.find_one(doc! {"_id": id}).await?.context("a payment")?;
        let log = self.audit.collection::<Document>("payments");
        let record = log.find_one(doc! {"op": "insert", "key._id": id}).await?.context("its record")?;
        say("In the shop (now):");
        quote(&original.to_string());
        say("In the audit log and the archive (as it was inserted):");
        quote(&record.get_document("after")?.to_string());
        Ok(())
    }

    fn ask(&self) -> Result<()> {
        chapter(6, "Three questions of an auditor, in DuckDB");
        quote(&self.view());
        println!();
        say("Who changed orders, when, from what to what?");
        self.show_query(
            "SELECT strftime(cluster_time, '%H:%M:%S') AS at, CASE WHEN actor_from <> 'unchanged' THEN actor END AS who,\n       \
             doc_id AS \"order\", changed, before->>'$.status' AS \"from\", after->>'$.status' AS \"to\"\n\
             FROM changes WHERE coll = 'orders' AND op = 'update' ORDER BY seq LIMIT 6",
        )?;
        say("How many changes per day and operation?");
        self.show_query(
            "SELECT date, op, count(*) AS changes, count(DISTINCT coll || doc_id) AS documents\n\
             FROM changes WHERE op <> 'policy' GROUP BY ALL ORDER BY date, changes DESC",
        )?;
        say(&format!("What happened to order {ORDER}?"));
        self.show_query(&format!(
            "SELECT seq, strftime(cluster_time, '%H:%M:%S') AS at, op,\n       \
             CASE WHEN actor_from <> 'unchanged' THEN actor END AS who, changed,\n       \
             after->>'$.status' AS status, json_array_length(after->'$.lines') AS lines\n\
             FROM changes WHERE coll = 'orders' AND doc_id = '{ORDER}' ORDER BY seq"
        ))
    }

    async fn bring_a_customer_back(&mut self) -> Result<()> {
        chapter(7, "A customer is deleted by mistake, and comes back");
        let customers = self.shop.db.collection::<RawDocumentBuf>("customers");
        let filter = doc! {"_id": DELETED};
        let before = customers.find_one(filter.clone()).await?.context("the customer")?;
        customers.delete_one(filter.clone()).await?;
        say(&format!("Customer {DELETED} is gone from the shop."));
        self.run(&["run", "--once"]).await?;
        let target = format!("{}.customers", self.shop.db.name());
        let id = DELETED.to_string();
        let recover = ["recover", "--source", "customers", "--id", &id, "--to-namespace", &target, "--apply"];
        self.run(&recover).await?;
        let after = customers.find_one(filter).await?.context("recover wrote nothing")?;
        ensure!(after == before, "the customer came back changed");
        good(&format!("Customer {DELETED} is back, all {} bytes as they were.", after.as_bytes().len()));
        say(
            "Customers pass no redaction here, so they come back whole. What a plugin takes out of a payment",
        );
        say("is nowhere in the archive, and can't come back from it: that is the point.");
        Ok(())
    }

    async fn prove(&mut self) -> Result<()> {
        chapter(8, "Proof that the archive is what was written");
        let output = self.run(&["verify"]).await?;
        quote(&output);
        good("Digests, manifest chain, sequence numbers and every record fit.");
        Ok(())
    }

    async fn search(&mut self) -> Result<()> {
        chapter(9, "Looking for the card numbers");
        let haystack = Haystack::of(&self.audit, &self.archive(), &self.output).await;
        let numbers: Vec<_> = self.shop.card_numbers.iter().map(|n| Canary::text(n)).collect();
        let found = haystack.search(&numbers);
        ensure!(found.is_empty(), "card numbers leaked: {found:?}");
        good(&format!(
            "{} card numbers went through the shop; none is in the audit database, in the archive",
            numbers.len()
        ));
        say("  (raw and decompressed), or in anything that was printed.");
        let addresses: Vec<_> = self.shop.receipt_addresses.iter().map(|a| Canary::text(a)).collect();
        let found = haystack.search(&addresses);
        ensure!(found.is_empty(), "addresses leaked: {found:?}");
        good(&format!("The same holds for the {} e-mail addresses on receipts.", addresses.len()));
        let kept = haystack.search(&[Canary::text("Customer 12")]);
        ensure!(!kept.is_empty(), "the search finds nothing at all");
        say(&format!(
            "The same search finds what is meant to be kept: a customer's name, in {} places.",
            kept.len()
        ));
        Ok(())
    }

    async fn end(self, keep: bool) -> Result<()> {
        if keep {
            title("Have a look around; Ctrl-C ends it and cleans up");
            say(&format!("export MONGODB_URI='{}'", self.uri));
            say(&format!("cd {}", self.folder.path().display()));
            say(&format!("{} --help", tools::archiver().display()));
            std::future::pending::<()>().await;
        }
        self.shop.db.drop().await?;
        self.audit.drop().await?;
        title("That was all of it");
        say("Everything that was started is stopped, and the temporary folders are removed.");
        say("examples/quickstart/run --keep leaves it running, to look around.");
        Ok(())
    }

    fn archive(&self) -> PathBuf {
        self.folder.path().join("archive")
    }

    fn view(&self) -> String {
        format!(
            "CREATE VIEW changes AS FROM read_parquet('{}/source=*/date=*/*.parquet');",
            self.archive().display()
        )
    }

    fn query(&self, sql: &str) -> Result<Vec<serde_json::Value>> {
        duckdb::try_query(&format!("{}\n{sql}", self.view())).map_err(anyhow::Error::msg)
    }

    fn show_query(&self, sql: &str) -> Result<()> {
        quote(sql);
        table(&self.query(sql)?);
        println!();
        Ok(())
    }

    /// Shows and runs a command that must succeed.
    async fn run(&mut self, arguments: &[&str]) -> Result<String> {
        command(&format!("archiver {}", arguments.join(" ")));
        let outcome = self.archiver.run(arguments).await;
        self.output.push_str(&outcome.stdout);
        self.output.push_str(&outcome.stderr);
        match outcome.code {
            Some(0) => Ok(outcome.stdout),
            code => bail!("archiver {} ended with {code:?}\n{}", arguments.join(" "), outcome.stderr),
        }
    }
}
