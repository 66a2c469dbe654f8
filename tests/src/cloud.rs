//! Object stores over the wire: an S3 server and an Azure Blob server on free loopback ports, and a bucket in one of them for
//! each test, looked at with Amazon's and Microsoft's own clients.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use serde_json::{Value, json};

use crate::tools;

/// Where `archiver-services` says which S3 server to use.
pub const S3_ENDPOINT: &str = "ARCHIVER_TEST_S3";
/// Where `archiver-services` says which Azure Blob server to use.
pub const AZURE_ENDPOINT: &str = "ARCHIVER_TEST_AZURE";

/// The account that every Azurite has, and its key, which is no secret.
pub const AZURE_ACCOUNT: &str = "devstoreaccount1";
/// See [`AZURE_ACCOUNT`].
pub const AZURE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// The time a server may take to start; generous because much may start at once.
const START: Duration = Duration::from_secs(90);

const CLIENT: &str = include_str!("cloud.py");

/// Which object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Amazon's.
    S3,
    /// Microsoft's.
    Azure,
}

/// A running server; stopped when dropped.
#[derive(Debug)]
pub struct StoreServer {
    child: Child,
    endpoint: String,
}

impl StoreServer {
    /// Starts one that nobody else uses; it holds everything in memory. `own_process_group` keeps it alive when the terminal
    /// sends Ctrl-C.
    pub async fn start(kind: Kind, own_process_group: bool) -> Result<StoreServer> {
        let mut last = None;
        // Another process can take the free port before the server does.
        for _ in 0..5 {
            let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            let mut command = command(kind, port);
            if own_process_group {
                command.process_group(0);
            }
            match launch(&mut command, port).await {
                Ok(child) => return Ok(StoreServer { child, endpoint: endpoint(kind, port) }),
                Err(e) => last = Some(e),
            }
        }
        Err(last.expect("at least one attempt"))
            .with_context(|| format!("the {kind:?} server does not start"))
    }

    /// Its URL, with the account's name where there is one.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

impl Drop for StoreServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn endpoint(kind: Kind, port: u16) -> String {
    match kind {
        Kind::S3 => format!("http://127.0.0.1:{port}"),
        Kind::Azure => format!("http://127.0.0.1:{port}/{AZURE_ACCOUNT}"),
    }
}

fn command(kind: Kind, port: u16) -> Command {
    let port = port.to_string();
    match kind {
        Kind::S3 => {
            let mut command = Command::new(tools::python());
            command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port]);
            command
        }
        Kind::Azure => {
            let mut command = Command::new("node");
            command.arg(tools::azurite()).args(["--blobHost", "127.0.0.1", "--blobPort", &port]);
            command.args(["--inMemoryPersistence", "--silent", "--loose", "--skipApiVersionCheck"]);
            command.arg("--disableTelemetry");
            command
        }
    }
}

async fn launch(command: &mut Command, port: u16) -> Result<Child> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    let start = Instant::now();
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("it ended with {status}: {command:?}");
        }
        if start.elapsed() > START {
            let _ = child.kill();
            bail!("it does not listen: {command:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(child)
}

/// A bucket or container that only one test uses, with an archive under the prefix `audit`.
#[derive(Debug, Clone)]
pub struct Bucket {
    kind: Kind,
    name: String,
    /// The store's own address, whatever stands between it and Archiver.
    endpoint: String,
    /// Where Archiver is told to find it.
    through: String,
    /// Kept running where the test runs alone.
    _server: Option<Arc<StoreServer>>,
}

impl Bucket {
    /// A new one on the server of this test run, or on a new server when the test runs alone.
    pub async fn new(kind: Kind) -> Bucket {
        Bucket::with(kind, json!({"do": "create"})).await
    }

    /// A new S3 bucket under Object Lock: every object is kept for this many days in compliance mode.
    pub async fn locked(days: u32) -> Bucket {
        Bucket::with(Kind::S3, json!({"do": "create", "lock_days": days})).await
    }

    /// A new S3 bucket that keeps older versions, and locks nothing.
    pub async fn versioned() -> Bucket {
        Bucket::with(Kind::S3, json!({"do": "create", "versioned": true})).await
    }

    /// A new S3 bucket on a server that asks for signatures and rights, and for each set of rights the key and the secret of an
    /// account that has just these.
    pub async fn guarded(rights: &[(&str, &[&str])]) -> (Bucket, BTreeMap<String, (String, String)>) {
        let bucket = Bucket::on(Kind::S3, None, json!({"do": "create"})).await;
        let rights: BTreeMap<_, _> = rights.iter().copied().collect();
        let keys = bucket.ask(json!({"do": "guard", "rights": rights}));
        (bucket, serde_json::from_value(keys).expect("keys by account"))
    }

    async fn with(kind: Kind, create: Value) -> Bucket {
        let variable = if kind == Kind::S3 { S3_ENDPOINT } else { AZURE_ENDPOINT };
        Bucket::on(kind, std::env::var(variable).ok(), create).await
    }

    async fn on(kind: Kind, endpoint: Option<String>, create: Value) -> Bucket {
        let (endpoint, server) = match endpoint {
            Some(endpoint) => (endpoint, None),
            None => {
                let server = StoreServer::start(kind, false).await.unwrap_or_else(|e| panic!("{e:#}"));
                (server.endpoint().to_owned(), Some(Arc::new(server)))
            }
        };
        let name = format!("audit-{:08x}", rand::random::<u32>());
        let bucket = Bucket { kind, name, through: endpoint.clone(), endpoint, _server: server };
        bucket.ask(create);
        bucket
    }

    /// The same bucket, which Archiver reaches through this address (`http://host:port`).
    pub fn through(&self, address: &str) -> Bucket {
        let path = if self.kind == Kind::Azure { format!("/{AZURE_ACCOUNT}") } else { String::new() };
        Bucket { through: format!("{address}{path}"), ..self.clone() }
    }

    /// `host:port` of the store.
    pub fn address(&self) -> &str {
        let address = self.endpoint.trim_start_matches("http://");
        address.split('/').next().expect("an endpoint has a host")
    }

    /// The archive's URL.
    pub fn url(&self) -> String {
        let scheme = if self.kind == Kind::S3 { "s3" } else { "az" };
        format!("{scheme}://{}/audit", self.name)
    }

    /// `[archive]` with this URL and further keys (TOML lines), and `[archive.options]`.
    pub fn section(&self, further: &str) -> String {
        self.section_as(further, &self.credentials())
    }

    /// [`Bucket::section`] with other credentials than the usual ones: lines of `[archive.options]`.
    pub fn section_as(&self, further: &str, credentials: &str) -> String {
        format!(
            "[archive]\nurl = \"{}\"\n{further}\n[archive.options]\nendpoint = \"{}\"\nallow_http = \"true\"\n{credentials}\n",
            self.url(),
            self.through,
        )
    }

    /// The lines of `[archive.options]` with the usual credentials.
    pub fn credentials(&self) -> String {
        match self.kind {
            Kind::S3 => "region = \"us-east-1\"\naccess_key_id = \"test\"\nsecret_access_key = \"secret-of-the-test\"\n".to_owned(),
            Kind::Azure => format!("account_name = \"{AZURE_ACCOUNT}\"\naccount_key = \"{AZURE_KEY}\"\n"),
        }
    }

    /// The bucket itself, for what looks at single requests.
    pub fn store(&self) -> Result<Arc<dyn ObjectStore>> {
        anyhow::ensure!(self.kind == Kind::S3, "only S3 buckets are looked at like this");
        // The client wants TLS set up even where nothing is encrypted.
        archiver::archive::store::install_tls();
        let store = AmazonS3Builder::new()
            .with_bucket_name(&self.name)
            .with_endpoint(&self.through)
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_access_key_id("test")
            .with_secret_access_key("secret-of-the-test")
            .build()?;
        Ok(Arc::new(store))
    }

    /// Statements that let DuckDB read the bucket: its extension, by path since nothing is fetched, and a secret.
    pub fn duckdb(&self) -> String {
        match self.kind {
            Kind::S3 => format!(
                "{}CREATE OR REPLACE SECRET direct (TYPE s3, KEY_ID 'test', SECRET 'secret-of-the-test', REGION 'us-east-1', \
                 ENDPOINT '{}', USE_SSL false, URL_STYLE 'path', SCOPE '{}');\n",
                load_extension("httpfs"),
                self.address(),
                self.url()
            ),
            Kind::Azure => format!(
                "{}CREATE OR REPLACE SECRET direct (TYPE azure, CONNECTION_STRING \
                 'DefaultEndpointsProtocol=http;AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};BlobEndpoint={};', SCOPE '{}');\n",
                load_extension("azure"),
                self.endpoint,
                self.url()
            ),
        }
    }

    /// What delta-rs is to be told, as `storage_options`.
    pub fn delta_options(&self) -> Value {
        match self.kind {
            Kind::S3 => json!({
                "AWS_ENDPOINT_URL": self.endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
            }),
            Kind::Azure => json!({
                "azure_storage_account_name": AZURE_ACCOUNT, "azure_storage_account_key": AZURE_KEY,
                "azure_storage_endpoint": self.endpoint, "allow_http": "true",
            }),
        }
    }

    /// The documented glob over one source's segments.
    pub fn glob(&self, source: &str) -> String {
        format!("{}/source={source}/date=*/*.parquet", self.url())
    }

    /// Keys below the archive's prefix, sorted.
    pub fn keys(&self) -> Vec<String> {
        let keys = self.ask(json!({"do": "list"}));
        keys.as_array().expect("a list").iter().map(|k| k.as_str().expect("a key").to_owned()).collect()
    }

    /// An object's bytes.
    pub fn read(&self, key: &str) -> Vec<u8> {
        let body = self.ask(json!({"do": "read", "key": key}));
        STANDARD.decode(body.as_str().expect("base64")).expect("base64")
    }

    /// Writes an object, over whatever is there.
    pub fn write(&self, key: &str, body: &[u8]) {
        self.ask(json!({"do": "write", "key": key, "body": STANDARD.encode(body)}));
    }

    /// Deletes an object.
    pub fn delete(&self, key: &str) {
        self.ask(json!({"do": "delete", "key": key}));
    }

    /// How the store says that an object is encrypted.
    pub fn encryption(&self, key: &str) -> Option<String> {
        self.ask(json!({"do": "encryption", "key": key})).as_str().map(str::to_owned)
    }

    /// A shared access signature for an Azure container, with these permissions (`"racwl"` and others), for so many minutes from
    /// now; fewer than none: it has expired.
    pub fn shared_access(&self, permissions: &str, minutes: i32) -> String {
        let signature = self.ask(json!({"do": "sas", "permissions": permissions, "minutes": minutes}));
        signature.as_str().expect("a signature").to_owned()
    }

    /// How many versions each key has had, deletions included; only where the bucket keeps versions.
    pub fn versions(&self) -> Vec<(String, u64)> {
        let versions = self.ask(json!({"do": "versions"}));
        let one = |(key, n): (&String, &Value)| (key.clone(), n.as_u64().expect("a number"));
        versions.as_object().expect("an object").iter().map(one).collect()
    }

    #[track_caller]
    fn ask(&self, mut request: Value) -> Value {
        request["kind"] = json!(format!("{:?}", self.kind));
        request["endpoint"] = json!(self.endpoint);
        request["bucket"] = json!(self.name);
        request["account"] = json!([AZURE_ACCOUNT, AZURE_KEY]);
        let mut child = Command::new(tools::python())
            .args(["-c", CLIENT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("python starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(request.to_string().as_bytes()).expect("python reads its input");
        drop(stdin);
        let output = child.wait_with_output().expect("python ends");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the store's client fails: {request}\n{errors}");
        serde_json::from_slice(&output.stdout).expect("the client prints JSON")
    }
}

/// A statement that loads one of DuckDB's extensions from the Python package that brings it.
pub fn load_extension(name: &str) -> String {
    let folder = tools::python_packages().join(format!("duckdb_extension_{name}/extensions"));
    let version = std::fs::read_dir(&folder).into_iter().flatten().flatten().next();
    let version = version.unwrap_or_else(|| panic!("{} is empty", folder.display())).path();
    format!("LOAD '{}/{name}.duckdb_extension';\n", version.display())
}
