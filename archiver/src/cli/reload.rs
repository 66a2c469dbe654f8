//! `archiver reload`: has the archivers that run read their configurations again.

use anyhow::Result;
use archiver::capture::lease::Reloaded;
use archiver::{Error, service};

use super::{EXIT_CODES, Format, Global, Outcome, output};

/// Has every running archiver read its configuration again, for other plugins
///
/// Each loads the plugins of its own configuration file aside and tries them. They count from the next batch on, and a policy
/// record says so, and so do on_plugin_error and quarantine_limit; where a plugin can't be loaded, that archiver keeps all it has.
/// Sources that have halted are tried again. Whatever else has changed in the file is named: it takes a restart.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// How the answers are printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    let answers = service::reload(&global.config()?).await?;
    match args.format {
        Format::Json => output::json(&answers.iter().map(json).collect::<Vec<_>>())?,
        Format::Table => output::table(
            &["instance", "changed for", "tried again", "takes a restart", "refused"],
            answers.iter().map(|(holder, reloaded)| row(holder, reloaded)),
        )?,
    }
    // The first will do: all have been printed.
    match answers.into_iter().find_map(|(holder, reloaded)| Some((holder, reloaded.failed?))) {
        None => Ok(Outcome::Fine),
        Some((holder, failed)) => {
            let hint = "the plugins that were in force still are; correct the file and reload again";
            let kind = failed.kind();
            Err(Error::new(kind, format!("an archiver refuses its configuration instance={holder}"))
                .hint(hint)
                .because(failed.into_error())
                .into())
        }
    }
}

fn json((holder, reloaded): (&String, &Reloaded)) -> serde_json::Value {
    serde_json::json!({
        "instance": holder,
        "changed": reloaded.changed,
        "revived": reloaded.revived,
        "restart": reloaded.restart,
        "refused": reloaded.failed.as_ref().map(|failed| &failed.message),
    })
}

fn row(holder: &str, reloaded: &Reloaded) -> Vec<String> {
    let listed = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
    let refused = reloaded.failed.as_ref().map_or("-", |failed| &failed.message);
    let lists = [&reloaded.changed, &reloaded.revived, &reloaded.restart].map(|names| listed(names));
    [holder.to_owned()].into_iter().chain(lists).chain([refused.to_owned()]).collect()
}
