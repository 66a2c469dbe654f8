//! Starts the servers that a whole test run shares, MongoDB, S3 and Azure Blob, runs a command with them, and stops them:
//! `archiver-services cargo nextest run`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr)]

use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use archiver_tests::cloud::{AZURE_ENDPOINT, Kind, S3_ENDPOINT, StoreServer};
use archiver_tests::replica_set::{Mongod, Settings};
use archiver_tests::server::SHARED_URI;
use archiver_tests::tools;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().context("the runtime can't be started");
    match runtime.and_then(|r| r.block_on(run())) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("archiver-services: {e:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<u8> {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else { bail!("usage: archiver-services <command> [argument…]") };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let settings = Settings { own_process_group: true, oplog_megabytes: 990, ..Settings::default() };
    let (mongod, s3, azure) = tokio::join!(
        Mongod::start(settings),
        StoreServer::start(Kind::S3, true),
        StoreServer::start(Kind::Azure, true)
    );
    let (mut mongod, s3, azure) = (mongod?, s3?, azure?);
    eprintln!(
        "archiver-services: MongoDB on {}, S3 on {}, Azure on {}",
        mongod.address(),
        s3.endpoint(),
        azure.endpoint()
    );
    let mut command = Command::new(&program);
    command.args(arguments).env(SHARED_URI, mongod.uri());
    command.env(S3_ENDPOINT, s3.endpoint()).env(AZURE_ENDPOINT, azure.endpoint());
    let child = command.spawn().with_context(|| format!("{} can't be started", program.display()))?;
    let pid = child.id();
    let mut end = std::pin::pin!(wait(child));
    loop {
        tokio::select! {
            code = &mut end => {
                // Every test after its death fails with a timeout: say what really happened.
                if let Some(death) = mongod.death() {
                    bail!("{death}");
                }
                return code;
            }
            _ = terminate.recv() => tools::signal(pid, "TERM"),
            // The terminal sends Ctrl-C to the command too: wait for it to end.
            _ = interrupt.recv() => {}
        }
    }
}

async fn wait(mut child: Child) -> Result<u8> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
