//! What one test has for itself: databases on the server, an archive folder, a configuration, and ways to look at
//! what Archiver stored.

use std::path::{Path, PathBuf};

use bson::{Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::{Collection, Database};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Archiver, Outcome, Running};
use crate::{Server, duckdb, tools};

/// One test's own world.
#[derive(Debug)]
pub struct Fixture {
    uri: String,
    /// Where the audit database lies on another deployment than the watched one.
    audit_uri: Option<String>,
    tag: String,
    folder: TempDir,
    /// The watched database.
    pub db: Database,
    /// The audit database.
    pub audit: Database,
    /// The binary, with this fixture's configuration file.
    pub archiver: Archiver,
}

impl Fixture {
    /// Fresh names on this server.
    pub fn new(server: &Server) -> Fixture {
        let tag = format!("{:08x}", rand::random::<u32>());
        let folder = TempDir::with_prefix("archiver-test-").expect("a temporary folder");
        let mut archiver = Archiver::new(Some(&folder.path().join("archiver.toml")));
        archiver.env("ARCHIVER_TEST_URI", server.uri());
        Fixture {
            audit_uri: None,
            uri: server.uri().to_owned(),
            db: server.client().database(&format!("shop_{tag}")),
            audit: server.client().database(&format!("audit_{tag}")),
            tag,
            folder,
            archiver,
        }
    }

    /// Fresh names, with the audit database on another server.
    pub fn across(watched: &Server, audit: &Server) -> Fixture {
        let mut fixture = Fixture::new(watched);
        fixture.audit = audit.client().database(fixture.audit.name());
        fixture.connect(watched.uri(), audit.uri());
        fixture
    }

    /// Makes the binary use these connection strings from now on.
    pub fn connect(&mut self, watched: &str, audit: &str) {
        self.uri = watched.to_owned();
        self.audit_uri = Some(audit.to_owned());
        self.archiver.env("ARCHIVER_TEST_URI", watched);
        self.archiver.env("ARCHIVER_TEST_AUDIT_URI", audit);
    }

    /// Another fixture on the same watched database, with its own audit database, archive and configuration.
    pub fn second(&self, server: &Server) -> Fixture {
        Fixture { db: self.db.clone(), ..Fixture::new(server) }
    }

    /// A name nobody else uses.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The server's connection string.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// A collection of the watched database.
    pub fn collection(&self, name: &str) -> Collection<Document> {
        self.db.collection(name)
    }

    /// Creates a collection that keeps pre- and post-images.
    pub async fn create_with_images(&self, name: &str) -> Collection<Document> {
        let images = mongodb::options::ChangeStreamPreAndPostImages::builder().enabled(true).build();
        let created = self.db.create_collection(name).change_stream_pre_and_post_images(images).await;
        created.expect("a collection can be created");
        self.collection(name)
    }

    /// A file or folder in this fixture's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The archive's folder.
    pub fn archive(&self) -> PathBuf {
        self.path("archive")
    }

    /// Writes the configuration: sections that are not in `text` get the fixture's values, and `{db}` and `{audit}`
    /// become database names.
    pub fn configure(&self, text: &str) {
        let mut config = String::new();
        if !text.contains("[mongodb]") {
            config.push_str("[mongodb]\nuri = \"${ARCHIVER_TEST_URI}\"\n\n");
        }
        if !text.contains("[audit]") {
            let uri = self.audit_uri.as_ref().map_or("", |_| "uri = \"${ARCHIVER_TEST_AUDIT_URI}\"\n");
            config.push_str(&format!("[audit]\n{uri}database = \"{{audit}}\"\n\n"));
        }
        if !text.contains("[archive]") {
            config.push_str("[archive]\nurl = \"{archive}\"\n\n");
        }
        config.push_str(text);
        self.write_config(&config);
    }

    /// Writes the configuration as it is, but for the placeholders of [`Fixture::configure`] and `{archive}`.
    pub fn write_config(&self, text: &str) {
        let text = text
            .replace("{db}", self.db.name())
            .replace("{audit}", self.audit.name())
            .replace("{archive}", &self.archive_url());
        std::fs::write(self.path("archiver.toml"), text).expect("the configuration can be written");
    }

    /// The binary with another configuration of this fixture's databases and archive.
    pub fn with_configuration(&self, name: &str, text: &str) -> Archiver {
        let file = self.path(&format!("{name}.toml"));
        let own = std::fs::read_to_string(self.path("archiver.toml")).expect("a configuration");
        self.configure(text);
        std::fs::rename(self.path("archiver.toml"), &file).expect("a file can be renamed");
        std::fs::write(self.path("archiver.toml"), own).expect("the configuration can be written");
        let mut archiver = Archiver::new(Some(&file));
        archiver.env("ARCHIVER_TEST_URI", &self.uri);
        archiver
    }

    /// The archive's URL.
    pub fn archive_url(&self) -> String {
        format!("file://{}", self.archive().display())
    }

    /// One source named `name` that watches these namespaces of the watched database.
    pub fn source(name: &str, collections: &[&str]) -> String {
        let watch: Vec<_> = collections.iter().map(|c| format!("\"{{db}}.{c}\"")).collect();
        format!("[[source]]\nname = \"{name}\"\nwatch = [{}]\n\n", watch.join(", "))
    }

    /// A `[[plugin]]` section for the `redact` plugin with these rules (TOML, without the brackets).
    pub fn redact(name: &str, rules: &str) -> String {
        Fixture::plugin("redact", name, &format!("{{ rules = [{rules}] }}"))
    }

    /// A `[[plugin]]` section for one of the shipped plugins, with this configuration (TOML).
    pub fn plugin(shipped: &str, name: &str, config: &str) -> String {
        let file = tools::plugin(shipped);
        let (path, sha256) = (file.display(), tools::sha256(&file));
        format!(
            "[[plugin]]\nname = \"{name}\"\npath = \"{path}\"\nsha256 = \"{sha256}\"\nconfig = {config}\n\n"
        )
    }

    /// Runs a command that must succeed, and gives its standard output.
    pub async fn ok(&self, arguments: &[&str]) -> String {
        self.archiver.run(arguments).await.expect_code(0).stdout
    }

    /// Catches up with the present and rolls everything.
    pub async fn run_once(&self) -> Outcome {
        self.archiver.run(&["run", "--once"]).await.expect_code(0)
    }

    /// Starts `archiver run` in the background.
    pub fn start(&self) -> Running {
        self.archiver.start(&["run"])
    }

    /// A source's hot records in seq order.
    pub async fn records(&self, source: &str) -> Vec<Document> {
        let raw = self.raw_records(source).await;
        raw.iter().map(|r| bson::deserialize_from_slice(r.as_bytes()).expect("a record is BSON")).collect()
    }

    /// A source's hot records in seq order, as bytes.
    pub async fn raw_records(&self, source: &str) -> Vec<RawDocumentBuf> {
        let collection = self.audit.collection::<RawDocumentBuf>(source);
        let cursor = collection.find(doc! {}).sort(doc! {"_id": 1}).await.expect("the audit log can be read");
        cursor.try_collect().await.expect("the audit log can be read")
    }

    /// How many hot records a source has.
    pub async fn count(&self, source: &str) -> u64 {
        self.audit.collection::<Document>(source).count_documents(doc! {}).await.expect("countable")
    }

    /// A source's checkpoint.
    pub async fn checkpoint(&self, source: &str) -> Option<Document> {
        let checkpoints = self.audit.collection::<Document>("archiver.checkpoints");
        checkpoints.find_one(doc! {"_id": source}).await.expect("the checkpoints can be read")
    }

    /// The documented glob over one source's segments.
    pub fn glob(&self, source: &str) -> String {
        format!("{}/source={source}/date=*/*.parquet", self.archive().display())
    }

    /// Rows of one source's segments: `SELECT {columns} FROM … ORDER BY seq`.
    #[track_caller]
    pub fn cold(&self, source: &str, columns: &str) -> Vec<Value> {
        duckdb::query(&format!("SELECT {columns} FROM read_parquet('{}') ORDER BY seq", self.glob(source)))
    }

    /// All files of the archive, sorted.
    pub fn archive_files(&self) -> Vec<PathBuf> {
        files_in(&self.archive())
    }
}

/// All files below a folder, sorted.
pub fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() { files.extend(files_in(&entry.path())) } else { files.push(entry.path()) }
    }
    files.sort();
    files
}
