//! Running the `archiver` binary: one command to its end, or `run` in the background until it is stopped or killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::tools;

/// No command of a test takes longer; where faults run for hours, catching up behind them may.
fn limit() -> Duration {
    let long = std::env::var_os("ARCHIVER_FAULT_ROUNDS").is_some();
    Duration::from_secs(if long { 3_600 } else { 180 })
}

/// What a command left behind.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard output as it is.
    pub bytes: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Panics with everything that was printed unless the exit code is this one.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Outcome {
        assert_eq!(
            self.code,
            Some(code),
            "exit code\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout,
            self.stderr
        );
        self.assert_no_panic();
        self
    }

    #[track_caller]
    fn assert_no_panic(&self) {
        // A plugin that panics is no panic of the archiver: its words are passed on.
        let own = self.stderr.replace("plugin panicked at", "");
        assert!(!own.contains("panicked"), "a panic:\n{}", self.stderr);
    }

    /// Panics unless standard error holds all of these words.
    #[track_caller]
    pub fn expect_message(self, words: &[&str]) -> Outcome {
        for word in words {
            assert!(self.stderr.contains(word), "the message lacks {word:?}:\n{}", self.stderr);
        }
        self.assert_no_panic();
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not JSON ({e}):\n{}", self.stdout))
    }

    /// Standard output as one JSON value per line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let parse =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}"));
        self.stdout.lines().filter(|l| !l.trim().is_empty()).map(parse).collect()
    }
}

/// A program that runs, with its output going to files; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    output: TempDir,
}

impl Running {
    /// Starts a program.
    pub fn start(command: &mut Command) -> Running {
        let output = TempDir::with_prefix("archiver-output-").expect("a temporary folder");
        let file = |name: &str| File::create(output.path().join(name)).expect("a file in a temporary folder");
        let child = command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr")).spawn();
        Running { child: child.unwrap_or_else(|e| panic!("{command:?}: {e}")), output }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed to standard error so far.
    pub fn stderr(&self) -> String {
        self.read("stderr")
    }

    /// What it printed to standard output so far.
    pub fn stdout(&self) -> String {
        self.read("stdout")
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGTERM, then waits for its end.
    pub async fn terminate(self) -> Outcome {
        tools::signal(self.child.id(), "TERM");
        self.finish(limit()).await
    }

    /// SIGINT, as Ctrl-C gives it, then waits for its end.
    pub async fn interrupt(self) -> Outcome {
        tools::signal(self.child.id(), "INT");
        self.finish(limit()).await
    }

    /// SIGKILL: no chance to clean up.
    pub async fn kill(mut self) -> Outcome {
        let _ = self.child.kill();
        self.finish(limit()).await
    }

    /// Waits for its end; panics with its output when it does not end in time.
    pub async fn finish(mut self, limit: Duration) -> Outcome {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our own child can be waited for") {
                break status;
            }
            if start.elapsed() > limit {
                let _ = self.child.kill();
                panic!("still running after {limit:?}\n{}\n{}", self.read("stdout"), self.read("stderr"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let bytes = std::fs::read(self.output.path().join("stdout")).unwrap_or_default();
        Outcome { code: status.code(), stdout: self.read("stdout"), bytes, stderr: self.read("stderr") }
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.output.path().join(name)).unwrap_or_default())
            .into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `archiver`, ready to be given arguments.
#[derive(Debug, Clone)]
pub struct Archiver {
    config: Option<PathBuf>,
    environment: Vec<(String, String)>,
}

impl Archiver {
    /// With this configuration file; `None`: without any.
    pub fn new(config: Option<&Path>) -> Archiver {
        Archiver { config: config.map(Path::to_path_buf), environment: Vec::new() }
    }

    /// Sets an environment variable; the last value counts.
    pub fn env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts `archiver <arguments>`.
    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(arguments))
    }

    /// Runs `archiver <arguments>` to its end, whose standard output nobody reads any more: the other end of it is closed.
    pub fn run_unread(&self, arguments: &[&str]) -> std::process::Output {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        self.command(arguments).stdout(writer).output().expect("it can be started")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(tools::archiver());
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        command.args(arguments).envs(self.environment.iter().map(|(n, v)| (n, v)));
        command
    }

    /// Runs a command that must succeed, and gives its standard output as bytes.
    pub async fn run_for_bytes(&self, arguments: &[&str]) -> Vec<u8> {
        let outcome = self.run(arguments).await.expect_code(0);
        outcome.bytes
    }

    /// Runs `archiver <arguments>` to its end.
    pub async fn run(&self, arguments: &[&str]) -> Outcome {
        self.start(arguments).finish(limit()).await
    }
}
