//! Where things are: the repository, the binaries that were built, and the tools that `tests/tools` got.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// The repository's root folder.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests folder lies in the repository")
}

/// The `archiver` binary: `$ARCHIVER_BIN`, or the one in the target folder that this program comes from.
pub fn archiver() -> PathBuf {
    built("ARCHIVER_BIN", profile_folder().join("archiver"), "cargo build --workspace")
}

/// A plugin that we ship, as WebAssembly: `redact` gives `…/redact.wasm`.
pub fn plugin(name: &str) -> PathBuf {
    let file = target_folder().join("wasm32-unknown-unknown/release").join(format!("{name}.wasm"));
    built("", file, &format!("cargo build --release --target wasm32-unknown-unknown -p {name}"))
}

/// The SHA-256 of a file, in hex.
pub fn sha256(file: &Path) -> String {
    let bytes = std::fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// `mongod`: `$MONGOD`, the one on PATH, or the one that `tests/tools` got.
pub fn mongod() -> PathBuf {
    if let Some(given) = std::env::var_os("MONGOD") {
        return PathBuf::from(given);
    }
    let on_path = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|p| p.join("mongod")).find(|p| p.is_file()));
    on_path.unwrap_or_else(|| fetched("mongod"))
}

/// A Python that can `import duckdb`.
pub fn python() -> PathBuf {
    std::env::var_os("PYTHON").map(PathBuf::from).unwrap_or_else(|| fetched("venv/bin/python"))
}

/// Runs a Python program that must succeed, and gives what it printed.
#[track_caller]
pub fn run_python(program: &str, arguments: &[&str]) -> String {
    // Threads in which pyarrow reads a Delta table may outlive the interpreter, and then abort a program that is done.
    let ended = format!("{program}\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n");
    let output = Command::new(python()).args(["-c", &ended]).args(arguments).output().expect("python starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "Python fails:\n{program}\n{errors}");
    String::from_utf8(output.stdout).expect("Python prints UTF-8")
}

/// The folder of the packages of the Python that `tests/tools` set up.
pub fn python_packages() -> PathBuf {
    let venv = fetched("venv/lib");
    let version = std::fs::read_dir(&venv).into_iter().flatten().flatten().next();
    version.unwrap_or_else(|| panic!("{} is empty", venv.display())).path().join("site-packages")
}

/// The folder of the newer DuckDB, for Python's path.
pub fn next_duckdb() -> PathBuf {
    fetched("duckdb-next")
}

/// The program of the Azure Blob server, for `node`.
pub fn azurite() -> PathBuf {
    fetched("azurite/node_modules/azurite/dist/src/blob/main.js")
}

fn fetched(name: &str) -> PathBuf {
    let file = repository().join(".tools").join(name);
    assert!(
        file.exists(),
        "{} is missing. Run tests/tools first, or the whole of tests/run.",
        file.display()
    );
    file
}

fn built(variable: &str, file: PathBuf, command: &str) -> PathBuf {
    let file = std::env::var_os(variable).map(PathBuf::from).unwrap_or(file);
    assert!(file.is_file(), "{} is missing. Build it: {command}", file.display());
    file
}

/// `target/debug` or `target/release`: tests run from `deps` inside it, binaries from the folder itself.
fn profile_folder() -> PathBuf {
    let program = std::env::current_exe().expect("a running program has a path");
    let folder = program.parent().expect("a program lies in a folder");
    if folder.ends_with("deps") { folder.parent().expect("deps has a parent") } else { folder }.to_path_buf()
}

fn target_folder() -> PathBuf {
    profile_folder().parent().expect("a profile's folder lies in the target folder").to_path_buf()
}

/// Sends a signal (`"TERM"`, `"KILL"`, `"STOP"`, …) to one process.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(status.is_ok_and(|s| s.success()), "kill -{name} {pid} failed");
}
