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
        // Where the standard library's sources are installed, they are named by their place.
        let mut flags = vec![remap(&self.sysroot()?.join("lib/rustlib/src/rust"), "/rust")];
        flags.extend(cargo_home().map(|folder| remap(&folder, "/cargo")));
        Ok(flags)
    }

    fn sysroot(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(self.rustc(&["--print", "sysroot"])?.trim()))
    }
}

/// Where cargo keeps the sources of what it downloads.
fn cargo_home() -> Option<PathBuf> {
    let home = std::env::home_dir().map(|home| home.join(".cargo"));
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;
    use crate::error::Kind;

    /// A crate with one dependency beside it and one from crates.io, which the archiver has too, so that it is at hand. Panics
    /// in all of them and in the standard library's generic code name source files.
    fn tiny(folder: &Path, kind: &str) -> PathBuf {
        let manifest = format!(
            "[package]\nname = \"tiny\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"{kind}\"]\n\
             [dependencies]\nbeside = {{ path = \"beside\" }}\nbytes = \"1\"\n[workspace]\nexclude = [\"beside\"]\n"
        );
        let source = "#[unsafe(no_mangle)]\npub extern \"C\" fn f(n: usize) -> usize { beside::f(vec![n; 3]) + [1, 2, 3][n] + \
             bytes::Bytes::copy_from_slice(&vec![7; n]).split_to(n / 3).len() }\n";
        let beside = "pub fn f(mut v: Vec<usize>) -> usize { v.insert(9, 1); v.iter().sum::<usize>().checked_mul(3).unwrap() + \
             v.into_iter().map(|n| (n, n)).collect::<std::collections::BTreeMap<_, _>>().pop_first().unwrap().0 }\n";
        for (name, text) in [
            ("Cargo.toml", manifest.as_str()),
            ("Cargo.lock", include_str!("../../../Cargo.lock")),
            ("src/lib.rs", source),
            ("beside/Cargo.toml", "[package]\nname = \"beside\"\nedition = \"2024\"\n"),
            ("beside/src/lib.rs", beside),
        ] {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder.to_owned()
    }

    #[test]
    fn the_same_sources_give_the_same_file_in_every_folder() {
        let folder = tempfile::tempdir().unwrap();
        let [(plugin, built), (_, again)] = ["a", "another/and/deeper"].map(|name| {
            let plugin = PluginCrate::find(&tiny(&folder.path().join(name), "cdylib")).unwrap();
            let built = fs::read(plugin.build().unwrap()).unwrap();
            (plugin, built)
        });
        assert!(built == again, "the folder is in the file");
        let holds = |text: &str| built.windows(text.len()).any(|part| part == text.as_bytes());
        // It names sources of each of them, and where none lies on this machine.
        for named in
            ["src/lib.rs", "beside/src/lib.rs", "/cargo/registry/src/", "library/alloc/src/collections"]
        {
            assert!(holds(named), "{named} is not in the file, so that nothing can be told");
        }
        for place in [folder.path(), &cargo_home().unwrap(), &plugin.sysroot().unwrap()] {
            assert!(!holds(place.to_str().unwrap()), "{} is in the file", place.display());
        }
    }

    #[test]
    fn what_builds_to_no_plugin_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        for (path, words) in [
            (folder.path().join("missing"), "there is no Cargo.toml"),
            (tiny(&folder.path().join("x"), "rlib"), "does not build to a plugin"),
        ] {
            let error = PluginCrate::find(&path).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.to_string().contains(words) && error.hint_text().is_some(), "{error}");
        }
        let path = tiny(&folder.path().join("y"), "cdylib");
        fs::write(path.join("src/lib.rs"), "fn f() -> u8 { \"\" }").unwrap();
        assert_eq!(PluginCrate::find(&path).unwrap().build().unwrap_err().kind(), Kind::Plugin);
    }
}
