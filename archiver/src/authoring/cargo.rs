//! Runs cargo on a plugin's crate, so that the same sources give the same bytes in every folder.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::error::{Error, Result};

/// The target that plugins are built for.
pub const TARGET: &str = "wasm32-unknown-unknown";

const NO_CARGO: &str = "plugins are built with Rust's cargo: install it with rustup (https://rustup.rs), and see that it is on the PATH";

/// A crate that builds to a plugin.
#[derive(Debug, Clone)]
pub struct PluginCrate {
    /// Its folder, absolute.
    pub folder: PathBuf,
    /// Its name.
    pub name: String,
    /// Its library's name, as Rust writes it.
    pub library: String,
    /// Where cargo puts what it builds.
    pub target_folder: PathBuf,
    workspace: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    crate_types: Vec<String>,
}

/// A line of what `cargo build` reports, as far as it matters.
#[derive(Deserialize)]
struct Report {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

impl PluginCrate {
    /// Asks cargo about the crate in this folder. Kind Invalid where there is none, or none that builds to a plugin;
    /// Unavailable without cargo.
    pub fn find(folder: &Path) -> Result<PluginCrate> {
        let shown = folder.display();
        let no_crate = |what: String| {
            Error::invalid(what).hint("name the folder of a plugin's crate; `archiver plugin new` makes one")
        };
        let manifest = folder.join("Cargo.toml").canonicalize();
        let manifest = manifest.map_err(|_| no_crate(format!("there is no Cargo.toml in {shown}")))?;
        let folder = manifest.parent().unwrap_or(folder).to_owned();
        let output = cargo(&folder).args(["metadata", "--no-deps", "--format-version", "1"]).output();
        let output =
            output.map_err(|e| Error::unavailable("cargo can't be started").hint(NO_CARGO).because(e))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::invalid(format!("cargo does not accept the crate in {shown}")).because(words));
        }
        let metadata: Metadata = serde_json::from_slice(&output.stdout)
            .map_err(|e| Error::internal("cargo's metadata can't be read").because(e))?;
        let package = metadata.packages.into_iter().find(|package| package.manifest_path == manifest);
        let package = package.ok_or_else(|| no_crate(format!("the Cargo.toml in {shown} is of no crate")))?;
        let library =
            package.targets.into_iter().find(|target| target.crate_types.iter().any(|kind| kind == "cdylib"));
        let library = library.ok_or_else(|| {
            Error::invalid(format!("the crate in {shown} does not build to a plugin"))
                .hint("its Cargo.toml needs [lib] crate-type = [\"cdylib\", \"rlib\"]")
        })?;
        Ok(PluginCrate {
            folder,
            name: package.name,
            library: library.name.replace('-', "_"),
            target_folder: metadata.target_directory,
            workspace: metadata.workspace_root,
        })
    }

    /// Builds the plugin in release mode and gives the `.wasm` file. What cargo says goes to stderr. Kind Plugin where the crate
    /// does not compile, Unavailable where a tool is missing.
    pub fn build(&self) -> Result<PathBuf> {
        self.check_target()?;
        let flags = format!("target.{TARGET}.rustflags={}", serde_json::json!(self.flags()?));
        let mut build = cargo(&self.folder);
        build.args(["build", "--release", "--lib", "--target", TARGET]);
        build.args(["--message-format", "json-render-diagnostics", "--config", &flags]);
        // They would take the place of the flags above.
        build.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        let reports = run(&mut build, &format!("building {}", self.name))?;
        let manifest = self.folder.join("Cargo.toml");
        let built = reports.lines().filter_map(|line| serde_json::from_str::<Report>(line).ok());
        let ours = built.filter(|r| r.reason == "compiler-artifact" && r.manifest_path == manifest);
        let is_wasm = |file: &PathBuf| file.extension() == Some(OsStr::new("wasm"));
        ours.flat_map(|report| report.filenames)
            .find(is_wasm)
            .ok_or_else(|| Error::internal(format!("cargo built {}, and named no .wasm file", self.name)))
    }

    /// The versions of what it is built from.
    pub(super) fn lock_file(&self) -> PathBuf {
        self.workspace.join("Cargo.lock")
    }

    fn check_target(&self) -> Result<()> {
        let libraries = self.rustc(&["--print", "target-libdir", "--target", TARGET])?;
        if Path::new(libraries.trim()).is_dir() {
            return Ok(());
        }
        Err(Error::unavailable(format!("Rust's target {TARGET} is not installed"))
            .hint(format!("rustup target add {TARGET}")))
    }

    fn rustc(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("rustc").args(arguments).current_dir(&self.folder).output();
        let output =
            output.map_err(|e| Error::unavailable("rustc can't be started").hint(NO_CARGO).because(e))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Takes the folders of this machine out of what is compiled: they stand in the messages of panics. What lies in the crate's
    /// workspace, cargo names from there; were its folder among the flags, every crate's dependencies would be built anew.
    fn flags(&self) -> Result<Vec<String>> {
        let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
        let sysroot = self.rustc(&["--print", "sysroot"])?;
        // Where the standard library's sources are installed, they are named by their place.
        let mut flags = vec![remap(&Path::new(sysroot.trim()).join("lib/rustlib/src/rust"), "/rust")];
        let home = std::env::home_dir().map(|home| home.join(".cargo"));
        let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
        flags.extend(cargo_home.map(|folder| remap(&folder, "/cargo")));
        Ok(flags)
    }
}

/// Cargo, in a folder.
pub(super) fn cargo(folder: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(folder).stdin(Stdio::null());
    command
}

/// Runs cargo to its end with its stderr shown, and gives its stdout. Kind Plugin where it fails.
pub(super) fn run(command: &mut Command, doing: &str) -> Result<String> {
    let failed = |e| Error::unavailable("cargo can't be started").hint(NO_CARGO).because(e);
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(failed)?;
    let mut out = String::new();
    let stdout = child.stdout.take().map(BufReader::new);
    for line in stdout.into_iter().flat_map(BufRead::lines).map_while(std::result::Result::ok) {
        out.push_str(&line);
        out.push('\n');
    }
    let status = child.wait().map_err(|e| Error::internal("cargo's end was missed").because(e))?;
    match status.success() {
        true => Ok(out),
        false => Err(Error::plugin(format!("{doing} failed")).hint("cargo's message is above")),
    }
}
