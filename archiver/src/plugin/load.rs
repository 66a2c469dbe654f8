//! Loads a plugin: reads its file once, checks the pin, turns it into a component that imports nothing but the
//! host's interface, compiles it, and lets it describe and configure itself within its limits.

use std::io::Read;

use sha2::{Digest, Sha256};
use wasmtime::component::Component;
use wasmtime::{Engine, Module};
use wit_component::ComponentEncoder;

use super::check::Grants;
use super::contract::{CONTRACT, HOST, Manifest, PACKAGE, TYPES, VERSIONS, spoken, version};
use super::host::{Program, Running};
use super::limits::{Limits, MAX_FILE_BYTES};
use super::sandbox::Fault;
use super::stage::Stage;
use super::words::{Line, Literals, pass_on, untrusted};
use crate::config::PluginConfig;
use crate::error::{Error, Result};
use crate::record::hex;

const BUILD: &str = "build it with `cargo build --release --target wasm32-unknown-unknown`";

/// Loads one plugin into an engine.
pub(super) fn load(
    plugin: &PluginConfig,
    development: bool,
    engine: &Engine,
    limits: Limits,
) -> Result<Stage> {
    let file = read(plugin)?;
    let sha256 = hex(&Sha256::digest(&file).into());
    check_pin(plugin, &sha256, development)?;
    load_bytes(plugin, &file, engine, limits)
}

/// The same for a file that was read and is the right one.
pub(super) fn load_bytes(
    plugin: &PluginConfig,
    file: &[u8],
    engine: &Engine,
    limits: Limits,
) -> Result<Stage> {
    let component = compile(plugin, file, engine)?;
    let program = connect(plugin, engine, &component, limits)?;
    let manifest = describe(plugin, &program)?;
    let grants = grants(plugin, &manifest)?;
    configure(plugin, &program)?;
    Ok(Stage {
        name: plugin.name.as_str().into(),
        version: manifest.version,
        sha256: hex(&Sha256::digest(file).into()).into(),
        config_sha256: hex(&Sha256::digest(plugin.config_json.expose()).into()),
        contract: spoken(imports(&component, engine).iter().map(String::as_str)),
        config: plugin.config_json.clone(),
        grants,
        program,
        literals: Literals::of(file),
    })
}

pub(super) fn read(plugin: &PluginConfig) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| {
        let (name, path) = (&plugin.name, plugin.path.display());
        match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::plugin(format!("plugin `{name}`: there is no file {path}"))
                    .hint(format!("correct its `path`, or {BUILD}"))
            }
            _ => Error::plugin(format!("plugin `{name}`: can't read {path}")).because(e),
        }
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&plugin.path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let (name, path) = (&plugin.name, plugin.path.display());
        return Err(Error::plugin(format!("plugin `{name}`: {path} is larger than {MAX_FILE_BYTES} bytes"))
            .hint("build it in release mode, without debug information"));
    }
    Ok(bytes)
}

fn check_pin(plugin: &PluginConfig, sha256: &str, development: bool) -> Result<()> {
    let (name, path) = (&plugin.name, plugin.path.display());
    match &plugin.sha256 {
        Some(pin) if pin.eq_ignore_ascii_case(sha256) => Ok(()),
        Some(pin) => Err(Error::plugin(format!(
            "plugin `{name}`: {path} is not the file that the configuration names: sha256={sha256} configured={pin}"
        ))
        .hint("find out who changed the file; if the new one is wanted, set its `sha256` in the configuration")),
        None if development => Ok(()),
        None => Err(Error::plugin(format!("plugin `{name}` has no `sha256`, and this is not development"))
            .hint(format!("set sha256 = \"{sha256}\" if {path} is the file you reviewed, or development = true"))),
    }
}

/// Turns the file into a compiled component whose imports are all known.
pub(super) fn compile(plugin: &PluginConfig, file: &[u8], engine: &Engine) -> Result<Component> {
    let (name, path) = (&plugin.name, plugin.path.display());
    let encoded;
    let bytes = match file.first_chunk::<8>() {
        Some(b"\0asm\x01\0\0\0") => {
            encoded = encode(file).map_err(|e| {
                let no_plugin = Error::plugin(format!("plugin `{name}`: {path} is no plugin"))
                    .because(e)
                    .hint(format!("write it with this archiver's plugin-sdk and {BUILD}"));
                // What it imports explains it better.
                check_imports(plugin, &module_imports(file, engine)).err().unwrap_or(no_plugin)
            })?;
            encoded.as_slice()
        }
        Some(b"\0asm\x0d\0\x01\0") => file,
        _ => {
            return Err(
                Error::plugin(format!("plugin `{name}`: {path} is not a WebAssembly file")).hint(BUILD)
            );
        }
    };
    let component = Component::from_binary(engine, bytes).map_err(|e| {
        Error::plugin(format!("plugin `{name}`: {path} can't be compiled"))
            .because(e)
            .hint(format!("{BUILD}; it may be damaged, or ask for more memory than a plugin may have"))
    })?;
    check_imports(plugin, &imports(&component, engine))?;
    Ok(component)
}

/// What a component imports.
pub(super) fn imports(component: &Component, engine: &Engine) -> Vec<String> {
    component.component_type().imports(engine).map(|(import, _)| import.to_owned()).collect()
}

fn encode(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    ComponentEncoder::default().validate(true).module(module)?.encode()
}

/// The modules from which a core module imports: only to say why it was refused.
fn module_imports(module: &[u8], engine: &Engine) -> Vec<String> {
    let Ok(module) = Module::from_binary(engine, module) else { return Vec::new() };
    let mut names: Vec<_> = module.imports().map(|import| import.module().to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

/// Refuses everything but the interfaces of a contract that this host speaks.
fn check_imports(plugin: &PluginConfig, imports: &[String]) -> Result<()> {
    if let Some(other) = imports.iter().filter_map(|i| version(i)).find(|v| !VERSIONS.contains(v)) {
        return Err(other_contract(plugin, other));
    }
    let foreign: Vec<_> = imports.iter().filter(|import| *import != HOST && *import != TYPES).collect();
    if foreign.is_empty() { Ok(()) } else { Err(refused_imports(plugin, &foreign)) }
}

fn other_contract(plugin: &PluginConfig, version: &str) -> Error {
    Error::plugin(format!(
        "plugin `{}` was built for {PACKAGE}@{}, and this archiver speaks {PACKAGE}@{}",
        plugin.name,
        untrusted(version),
        VERSIONS.join(", ")
    ))
    .hint("build it against this archiver's plugin-sdk, or run an archiver that speaks its contract")
}

fn refused_imports(plugin: &PluginConfig, imports: &[&String]) -> Error {
    let shown: Vec<_> = imports.iter().take(8).map(|name| untrusted(name)).collect();
    let more = if imports.len() > shown.len() {
        format!(" and {} more", imports.len() - shown.len())
    } else {
        String::new()
    };
    let hint = if imports.iter().any(|name| name.starts_with(PACKAGE)) {
        format!("{CONTRACT} has no such interface: build it against this archiver's plugin-sdk")
    } else if imports.iter().any(|name| name.contains("wbindgen")) {
        "one of its dependencies expects a browser (often getrandom or bson): leave that dependency out"
            .to_owned()
    } else {
        format!("a plugin has no clock, files, network or randomness: {BUILD}, not for a WASI target")
    };
    Error::plugin(format!("plugin `{}` imports what no plugin gets: {}{more}", plugin.name, shown.join(", ")))
        .hint(hint)
}

pub(super) fn connect(
    plugin: &PluginConfig,
    engine: &Engine,
    component: &Component,
    limits: Limits,
) -> Result<Program> {
    Program::new(engine, component, limits).map_err(|what| {
        Error::plugin(format!("plugin `{}` is not a plugin for {CONTRACT}: {what}", plugin.name))
            .hint("build it against this archiver's plugin-sdk, with `export!` in it")
    })
}

pub(super) fn describe(plugin: &PluginConfig, program: &Program) -> Result<Manifest> {
    let described = program.start(0).and_then(|mut running| {
        running.takes_batches()?;
        let manifest = running.describe()?;
        say(plugin, &mut running);
        Ok(manifest)
    });
    let mut manifest = described.map_err(|fault| faulty(plugin, "`describe`", fault))?;
    manifest.version = untrusted(&manifest.version);
    manifest.name = untrusted(&manifest.name);
    tracing::debug!(
        plugin = plugin.name,
        describes_itself_as = manifest.name,
        version = manifest.version,
        "loaded"
    );
    Ok(manifest)
}

/// What the plugin may do: what it declares, none of which the configuration may withhold.
fn grants(plugin: &PluginConfig, declared: &Manifest) -> Result<Grants> {
    let name = &plugin.name;
    let grants = Grants { drop: declared.may_drop, modify: declared.may_modify };
    let (does, word) = match grants {
        Grants { drop: true, .. } if !plugin.allow.drop => ("drop", "drop"),
        Grants { modify: true, .. } if !plugin.allow.modify => ("change", "modify"),
        _ => return Ok(grants),
    };
    Err(Error::plugin(format!(
        "plugin `{name}` declares that it may {does} events, which its `allow` does not include"
    ))
    .hint(format!(
        "add \"{word}\" to `allow` of [[plugin]] `{name}` if it is meant to; else find out why it wants to"
    )))
}

fn configure(plugin: &PluginConfig, program: &Program) -> Result<()> {
    let config = plugin.config_json.expose();
    let configured = program.start(config.len()).and_then(|mut running| {
        let configured = running.configure(config)?;
        say(plugin, &mut running);
        Ok(configured)
    });
    configured.map_err(|fault| faulty(plugin, "`configure`", fault))?.map_err(|words| {
        Error::plugin(format!(
            "plugin `{}` does not accept its configuration; in its own words: \"{}\"",
            plugin.name,
            without_secrets(plugin, &words)
        ))
        .hint(format!("correct `config` of [[plugin]] `{}`", plugin.name))
    })
}

/// Passes on what a plugin says while there are no events.
fn say(plugin: &PluginConfig, running: &mut Running<'_>) {
    for Line { level, said } in running.take_said() {
        pass_on(&plugin.name, level, &without_secrets(plugin, &said));
    }
}

/// A plugin's words while there are no events: shown whole, but for secrets of its configuration. Plugins quote the values
/// that they do not accept.
pub(super) fn without_secrets(plugin: &PluginConfig, words: &str) -> String {
    untrusted(&plugin.secrets.iter().fold(words.to_owned(), |words, secret| secret.hide_in(&words)))
}

/// A plugin that fails before it is to see events.
pub(super) fn faulty(plugin: &PluginConfig, doing: &str, fault: Fault) -> Error {
    let mut what = format!("plugin `{}` failed in {doing}: {}", plugin.name, fault.code.explanation());
    if let Some(words) = fault.said {
        what.push_str(&format!("; in its own words: \"{}\"", without_secrets(plugin, &words)));
    }
    let error =
        Error::plugin(what).hint("this is for the plugin's author; `archiver plugin test` runs it on events");
    if fault.detail.is_empty() { error } else { error.because(fault.detail) }
}
