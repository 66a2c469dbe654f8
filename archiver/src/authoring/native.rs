//! Measures a plugin natively: a small program that is linked with the plugin's crate, built beside what cargo built of it.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::cargo::{PluginCrate, cargo, run};
use crate::config::Secret;
use crate::error::{Error, Result};

/// The program. It ends with an error's text on stderr.
const MAIN: &str = "\
//! Written by `archiver plugin bench`.
fn main() -> Result<(), String> {
    use std::io::Read;
    let number = |n| std::env::args().nth(n).and_then(|text| text.parse().ok());
    let usage = \"two arguments: rounds, bytes of the configuration; on stdin the configuration, then the events\";
    let (rounds, config_bytes): (usize, usize) = (number(1).ok_or(usage)?, number(2).ok_or(usage)?);
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).map_err(|e| e.to_string())?;
    let (config, events) = input.split_at_checked(config_bytes).ok_or(usage)?;
    let config = std::str::from_utf8(config).map_err(|e| e.to_string())?;
    for nanoseconds in plugin::__bench(config, events, rounds)? {
        println!(\"{nanoseconds}\");
    }
    Ok(())
}
";

/// Nanoseconds per event, once for each round, of the plugin as an ordinary program. Kind Plugin where that can't be built or fails.
pub fn time(plugin: &PluginCrate, config: &Secret, events: &[&[u8]], rounds: usize) -> Result<Vec<f64>> {
    let folder = plugin.target_folder.join("plugin-bench").join(&plugin.name);
    write(plugin, &folder)?;
    let mut build = cargo(&folder);
    build.args(["build", "--release", "--message-format", "json-render-diagnostics"]);
    build.env("CARGO_TARGET_DIR", &plugin.target_folder).env_remove("CARGO_BUILD_TARGET");
    let reports = run(&mut build, &format!("building {} natively", plugin.name))?;
    let program = reports.lines().filter_map(executable).next_back();
    let program = program.ok_or_else(|| Error::internal("cargo named no program that it built"))?;
    let failed = |e| Error::internal("the native measurement can't be run").because(e);
    // The configuration may hold secrets and the events anything: neither a file nor an argument.
    let config = config.expose().as_bytes();
    let mut child = std::process::Command::new(program)
        .args([rounds.to_string(), config.len().to_string()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends before it has read everything says itself why.
        let _ = stdin.write_all(&[config, &events.concat()].concat());
    }
    let output = child.wait_with_output().map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let times: Vec<f64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    match output.status.success() && times.len() == rounds {
        true => Ok(times),
        false => Err(Error::plugin(format!("{} failed natively", plugin.name)).hint("its message is above")),
    }
}

/// The program that a line of cargo's report names.
fn executable(line: &str) -> Option<String> {
    let report: serde_json::Value = serde_json::from_str(line).ok()?;
    Some(report.get("executable")?.as_str()?.to_owned())
}

fn write(plugin: &PluginCrate, folder: &Path) -> Result<()> {
    let failed = |e| Error::internal(format!("{} can't be written", folder.display())).because(e);
    // Text in TOML's basic strings is escaped like JSON's.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let path = plugin.folder.to_str().ok_or_else(|| Error::invalid("the plugin's path is not UTF-8"))?;
    let manifest = format!(
        "[package]\nname = \"plugin-bench\"\nedition = \"2024\"\n\n\
         [dependencies]\nplugin = {{ path = {}, package = {} }}\n\n\
         [profile.release]\nlto = true\ncodegen-units = 1\npanic = \"abort\"\n\n[workspace]\n",
        quoted(path),
        quoted(&plugin.name)
    );
    fs::create_dir_all(folder.join("src")).map_err(failed)?;
    fs::write(folder.join("Cargo.toml"), manifest).map_err(failed)?;
    fs::write(folder.join("src/main.rs"), MAIN).map_err(failed)?;
    // The versions that the plugin is built with.
    let _ = fs::copy(plugin.lock_file(), folder.join("Cargo.lock"));
    Ok(())
}
