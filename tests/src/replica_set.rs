//! A `mongod` of our own: started on a free loopback port in a temporary folder, stopped when dropped.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bson::doc;
use mongodb::Client;
use mongodb::options::{ClientOptions, Credential};
use tempfile::TempDir;

use crate::certificates::Authority;
use crate::tools;

/// How long a server may take to start; this is generous because many may start at once.
const START: Duration = Duration::from_secs(90);

/// An oplog of fewer megabytes is made to be rolled over.
const TINY_OPLOG: u32 = 16;

/// How a server is started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `false`: a standalone server without an oplog.
    pub replica_set: bool,
    /// With user `root` and password `secret`.
    pub auth: bool,
    /// With TLS required, under certificates of this authority; clients may go without one of their own.
    pub tls: Option<Arc<Authority>>,
    /// Oplog size in megabytes.
    pub oplog_megabytes: u32,
    /// What WiredTiger may cache, in megabytes.
    pub cache_megabytes: u32,
    /// `name=value`, as `--setParameter` takes them.
    pub parameters: Vec<String>,
    /// Stores documents and index keys in its files as they are, so that a search finds them there.
    pub uncompressed: bool,
    /// Keeps the server alive when the terminal sends Ctrl-C to the whole process group.
    pub own_process_group: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            replica_set: true,
            auth: false,
            tls: None,
            oplog_megabytes: 256,
            cache_megabytes: 512,
            parameters: Vec::new(),
            uncompressed: false,
            own_process_group: false,
        }
    }
}

/// A running `mongod`.
#[derive(Debug)]
pub struct Mongod {
    child: Child,
    folder: TempDir,
    port: u16,
    settings: Settings,
}

impl Mongod {
    /// Starts a server and waits until it takes writes.
    pub async fn start(settings: Settings) -> Result<Mongod> {
        let server = Mongod::member(settings).await?;
        server.initiate().await.with_context(|| server.log_tail())?;
        Ok(server)
    }

    /// Starts a server that is to become a member of a set.
    pub async fn member(settings: Settings) -> Result<Mongod> {
        let folder = TempDir::with_prefix("archiver-mongod-")?;
        let mut last = None;
        // Another process can take the free port before mongod does.
        for _ in 0..5 {
            let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            match Mongod::launch(&folder, &settings, port).await {
                Ok(child) => return Ok(Mongod { child, folder, port, settings }),
                Err(e) => last = Some(e),
            }
        }
        Err(last.expect("at least one attempt")).context("mongod does not start")
    }

    /// The connection string, with credentials where the server asks for them.
    pub fn uri(&self) -> String {
        self.uri_of(if self.settings.auth { "root:secret" } else { "" }, "")
    }

    /// The connection string of another account: `user:password`, or none, and further options such as
    /// `&authMechanism=MONGODB-X509`.
    pub fn uri_of(&self, account: &str, further: &str) -> String {
        let at = if account.is_empty() { "" } else { "@" };
        let options = if self.settings.replica_set { "?replicaSet=rs0" } else { "?directConnection=true" };
        format!("mongodb://{account}{at}127.0.0.1:{}/{options}{}{further}", self.port, self.tls_options())
    }

    fn tls_options(&self) -> String {
        let tls =
            |authority: &Arc<Authority>| format!("&tls=true&tlsCAFile={}", authority.ca_file().display());
        self.settings.tls.as_ref().map(tls).unwrap_or_default()
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The folder with its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it, and starts it again on its port with its data.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = Mongod::launch(&self.folder, &self.settings, self.port).await?;
        Ok(())
    }

    async fn launch(folder: &TempDir, settings: &Settings, port: u16) -> Result<Child> {
        let mongod = tools::mongod();
        let mut command = Command::new(&mongod);
        let cache = f64::from(settings.cache_megabytes) / 1024.0;
        command.args([
            "--bind_ip",
            "127.0.0.1",
            "--nounixsocket",
            "--wiredTigerCacheSizeGB",
            &cache.to_string(),
        ]);
        command.args([
            "--setParameter",
            "diagnosticDataCollectionEnabled=false",
            "--port",
            &port.to_string(),
        ]);
        for parameter in &settings.parameters {
            command.args(["--setParameter", parameter]);
        }
        command.arg("--dbpath").arg(folder.path());
        if settings.replica_set {
            command.args(["--replSet", "rs0", "--oplogSize", &settings.oplog_megabytes.to_string()]);
        }
        if settings.oplog_megabytes < TINY_OPLOG {
            // What a checkpoint of the storage may need is not cut off the oplog, however full it is.
            command.args(["--syncdelay", "1"]);
        }
        if settings.uncompressed {
            command.args(["--wiredTigerCollectionBlockCompressor", "none"]);
            command.args([
                "--wiredTigerJournalCompressor",
                "none",
                "--wiredTigerIndexPrefixCompression",
                "false",
            ]);
        }
        if settings.auth {
            command.arg("--auth").arg("--keyFile").arg(key_file(folder)?);
        }
        if let Some(authority) = &settings.tls {
            command.args(["--tlsMode", "requireTLS", "--tlsAllowConnectionsWithoutCertificates"]);
            command.arg("--tlsCertificateKeyFile").arg(authority.server());
            command.arg("--tlsCAFile").arg(authority.ca_file());
        }
        if settings.own_process_group {
            command.process_group(0);
        }
        let log = File::create(folder.path().join("mongod.log"))?;
        let mut child = command
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            .spawn()
            .with_context(|| format!("{} can't be started", mongod.display()))?;
        let start = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("mongod ended with {status}");
            }
            if start.elapsed() > START {
                let _ = child.kill();
                bail!("mongod does not listen");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(child)
    }

    async fn initiate(&self) -> Result<()> {
        if !self.settings.replica_set {
            return Ok(());
        }
        let uri = format!("mongodb://{}/?directConnection=true{}", self.address(), self.tls_options());
        let mut options = ClientOptions::parse(uri).await?;
        let admin = Client::with_options(options.clone())?.database("admin");
        let member = doc! {"_id": 0, "host": self.address()};
        admin.run_command(doc! {"replSetInitiate": {"_id": "rs0", "members": [member]}}).await?;
        let start = Instant::now();
        while !admin.run_command(doc! {"hello": 1}).await?.get_bool("isWritablePrimary").unwrap_or(false) {
            if start.elapsed() > START {
                bail!("the replica set has no primary");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if self.settings.auth {
            admin.run_command(doc! {"createUser": "root", "pwd": "secret", "roles": ["root"]}).await?;
            let root =
                Credential::builder().username("root".to_owned()).password("secret".to_owned()).build();
            options.credential = Some(root);
            Client::with_options(options)?.database("admin").run_command(doc! {"ping": 1}).await?;
        }
        Ok(())
    }

    /// Why the server is gone, with the end of its log; `None` while it runs.
    pub fn death(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!("mongod ended with {status}\n{}", self.log_tail()))
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("mongod.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        // Its folder goes with it, so there is nothing to close in order.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn key_file(folder: &TempDir) -> Result<PathBuf> {
    use std::io::Write;
    let path = folder.path().join("key");
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(b"b25seWZvcnRlc3Rz")?;
    Ok(path)
}
