//! The MongoDB that a test talks to: the shared one of the test run, or one of its own.

use mongodb::Client;

use crate::replica_set::{Mongod, Settings};

/// Where `archiver-services` says which server to use.
pub const SHARED_URI: &str = "ARCHIVER_TEST_MONGODB_URI";

/// A MongoDB deployment.
#[derive(Debug)]
pub struct Server {
    uri: String,
    client: Client,
    /// Stopped with this value; `None` for the shared one.
    mongod: Option<Mongod>,
}

impl Server {
    /// The server of this test run, or a new one when the test runs alone. Every test uses its own databases on it.
    pub async fn shared() -> Server {
        match std::env::var(SHARED_URI) {
            Ok(uri) => {
                Server { client: Client::with_uri_str(&uri).await.expect("connects"), uri, mongod: None }
            }
            Err(_) => Server::own(Settings::default()).await,
        }
    }

    /// A server that nobody else uses.
    pub async fn own(settings: Settings) -> Server {
        let mongod = Mongod::start(settings).await.unwrap_or_else(|e| panic!("{e:#}"));
        let uri = mongod.uri();
        Server { client: Client::with_uri_str(&uri).await.expect("connects"), uri, mongod: Some(mongod) }
    }

    /// A deployment that somebody else has started.
    pub async fn at(uri: &str) -> Server {
        let client = Client::with_uri_str(uri).await.expect("connects");
        Server { uri: uri.to_owned(), client, mongod: None }
    }

    /// The connection string.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// A client that stays connected.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The process behind a server of one's own.
    pub fn mongod(&self) -> &Mongod {
        self.mongod.as_ref().expect("only a server of one's own can be touched")
    }
}
