//! The harness of the end-to-end tests: a real MongoDB, the real `archiver` binary, DuckDB, and an oracle that does
//! not use the code under test.
//!
//! A test says what it needs (`Server::shared()`, `Fixture::new(&server)`), and fails loudly where something is
//! missing: nothing is ever skipped in silence. `tests/run` prepares everything and runs all of them.
#![forbid(unsafe_code)]
// A harness ends in panics and prints what it sees: that is its job.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

pub mod application;
pub mod bytes;
pub mod canary;
pub mod certificates;
pub mod cloud;
pub mod duckdb;
pub mod fixture;
pub mod http_proxy;
pub mod mixed;
pub mod oplog;
pub mod process;
pub mod program;
pub mod proxy;
pub mod record;
pub mod replica_set;
pub mod roles;
pub mod scrape;
pub mod secrets;
pub mod server;
pub mod story;
pub mod three_nodes;
pub mod tools;
pub mod truth;
pub mod updates;
pub mod wait;
pub mod workload;

pub use fixture::Fixture;
pub use process::{Outcome, Running};
pub use server::Server;
pub use wait::wait_until;
