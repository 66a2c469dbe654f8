//! Puts the plugin SDK's sources into the program, so that `archiver plugin new` can write them beside a new plugin.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// What of the SDK a plugin needs to be built.
const PARTS: [&str; 5] = ["Cargo.toml", "src", "wit", "bson-walker/Cargo.toml", "bson-walker/src"];

fn main() -> Result<(), Box<dyn Error>> {
    let sdk = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../plugin-sdk").canonicalize()?;
    let mut files = Vec::new();
    for part in PARTS {
        println!("cargo::rerun-if-changed={}", sdk.join(part).display());
        collect(&sdk.join(part), &mut files)?;
    }
    files.sort();
    let mut list = String::from("[\n");
    for file in files {
        writeln!(list, "    ({:?}, include_str!({file:?})),", file.strip_prefix(&sdk)?)?;
    }
    list.push_str("]\n");
    fs::write(Path::new(&env::var("OUT_DIR")?).join("sdk.rs"), list)?;
    Ok(())
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}
