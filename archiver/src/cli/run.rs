//! `archiver run`: captures and archives until stopped.

use anyhow::Result;
use archiver::{Error, service};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{EXIT_CODES, Global, Outcome};

/// Captures changes and archives them until stopped
///
/// SIGTERM and Ctrl-C end it cleanly: what was read is appended, or will be read again. A second one ends it at once,
/// which is safe too. SIGHUP has the configuration read again, as `archiver reload` does.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Catch up with the present (baseline included), roll everything, and exit
    #[arg(long)]
    once: bool,
}

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    let shutdown = CancellationToken::new();
    cancel_on_signal(shutdown.clone())?;
    let reload = if args.once { None } else { Some(reload_on_signal(global)?) };
    service::run(global.config()?, args.once, reload, shutdown).await?;
    Ok(Outcome::Fine)
}

/// Has the configuration read again at every SIGHUP.
fn reload_on_signal(global: &Global) -> archiver::Result<service::Reload> {
    let mut hangup = listen(SignalKind::hangup(), "SIGHUP")?;
    let (sender, asked) = mpsc::channel(1);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // One that is not dealt with yet does for both.
            sender.try_send(()).ok();
        }
    });
    Ok(service::Reload { path: global.config_path(), asked })
}

fn listen(kind: SignalKind, name: &str) -> archiver::Result<Signal> {
    signal(kind).map_err(|e| Error::internal(format!("{name} can't be listened for")).because(e))
}

/// Cancels the token at the first SIGTERM or Ctrl-C, and ends the process at the second.
pub(super) fn cancel_on_signal(shutdown: CancellationToken) -> archiver::Result<()> {
    let mut terminate = listen(SignalKind::terminate(), "SIGTERM")?;
    let mut interrupt = listen(SignalKind::interrupt(), "SIGINT")?;
    tokio::spawn(async move {
        loop {
            let code = tokio::select! {
                _ = terminate.recv() => 143,
                _ = interrupt.recv() => 130,
            };
            if shutdown.is_cancelled() {
                std::process::exit(code);
            }
            tracing::info!("stopping; the same signal again stops at once");
            shutdown.cancel();
        }
    });
    Ok(())
}
