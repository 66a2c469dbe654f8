//! The plugin SDK's sources as files of their own: what its manifests take from this workspace is written out.

use std::collections::BTreeSet;

/// Every file that a plugin's build needs, by its path in the SDK's folder.
const FILES: &[(&str, &str)] = &include!(concat!(env!("OUT_DIR"), "/sdk.rs"));

const WORKSPACE: &str = include_str!("../../../Cargo.toml");
const LOCK: &str = include_str!("../../../Cargo.lock");

/// The SDK's files, ready to be written.
pub(super) fn files() -> impl Iterator<Item = (&'static str, String)> {
    FILES.iter().map(|(path, text)| match path.ends_with("Cargo.toml") {
        true => (*path, stand_alone(text, WORKSPACE)),
        false => (*path, (*text).to_owned()),
    })
}

/// A member's manifest without its workspace: inherited values are those of `workspace`, lints and what only tests need are
/// left out.
fn stand_alone(manifest: &str, workspace: &str) -> String {
    let mut out = String::new();
    let mut section = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        }
        if matches!(section, "[lints]" | "[dev-dependencies]") {
            continue;
        }
        let inherited = line.strip_suffix(".workspace = true").and_then(|key| {
            let table =
                if section == "[package]" { "[workspace.package]" } else { "[workspace.dependencies]" };
            value_line(workspace, table, key)
        });
        // Paths in the workspace begin at its top.
        out.push_str(&inherited.map_or(line.to_owned(), |found| found.replace("\"plugin-sdk/", "\"")));
        out.push('\n');
    }
    out.trim_end().to_owned() + "\n"
}

/// The line that sets `key` in a table whose values take one line each.
fn value_line<'t>(text: &'t str, table: &str, key: &str) -> Option<&'t str> {
    let lines = text.lines().skip_while(|line| *line != table).skip(1);
    let set = |line: &&str| line.split_once('=').is_some_and(|(name, _)| name.trim() == key);
    lines.take_while(|line| !line.starts_with('[')).find(set)
}

/// The versions that this program was tested with, of all that a plugin crate of this name with its SDK needs. More than
/// that does no harm: cargo takes out what is not used.
pub(super) fn lock(plugin: &str) -> String {
    let (head, packages) = LOCK.split_once("[[package]]\n").unwrap_or((LOCK, ""));
    let packages: Vec<&str> = packages.split("[[package]]\n").map(str::trim_end).collect();
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    let mut next: Vec<String> = ["serde", "plugin-sdk"].map(String::from).to_vec();
    while let Some(dependency) = next.pop() {
        if wanted.insert(dependency.clone()) {
            let found = packages.iter().filter(|package| is(package, &dependency));
            next.extend(found.flat_map(|package| dependencies(package)));
        }
    }
    let mut out = head.to_owned();
    let root = format!(
        "name = \"{plugin}\"\nversion = \"0.1.0\"\ndependencies = [\n \"plugin-sdk\",\n \"serde\",\n]"
    );
    let kept = packages.into_iter().filter(|package| wanted.iter().any(|wanted| is(package, wanted)));
    let mut kept: Vec<String> = kept.map(without_test_dependencies).chain([root]).collect();
    kept.sort();
    for package in kept {
        out.push_str(&format!("[[package]]\n{package}\n\n"));
    }
    out.trim_end().to_owned() + "\n"
}

/// Whether this is the package that a lock file calls `name` or `name version`.
fn is(package: &str, dependency: &str) -> bool {
    let (name, version) = dependency.split_once(' ').unwrap_or((dependency, ""));
    let mut lines = package.lines();
    let same_name = lines.next() == Some(&format!("name = \"{name}\""));
    same_name && (version.is_empty() || lines.next() == Some(&format!("version = \"{version}\"")))
}

fn name(package: &str) -> &str {
    package.lines().next().and_then(|line| line.split('"').nth(1)).unwrap_or("")
}

/// What a package depends on, but for what only the SDK's own tests need.
fn dependencies(package: &str) -> Vec<String> {
    let listed = package.lines().filter_map(|line| line.strip_prefix(" \"")?.strip_suffix("\","));
    listed.filter(|dependency| needed(name(package), dependency)).map(str::to_owned).collect()
}

fn without_test_dependencies(package: &str) -> String {
    let name = name(package);
    let stays = |line: &&str| match line.strip_prefix(" \"").and_then(|line| line.strip_suffix("\",")) {
        Some(dependency) => needed(name, dependency),
        None => true,
    };
    let lines: Vec<&str> = package.lines().filter(stays).collect();
    lines.join("\n").replace("\ndependencies = [\n]", "")
}

/// Whether a package of the lock file needs this one in a build; only of the SDK's do we know what its tests need.
fn needed(package: &str, dependency: &str) -> bool {
    let manifest = match package {
        "plugin-sdk" => "Cargo.toml",
        "bson-walker" => "bson-walker/Cargo.toml",
        _ => return true,
    };
    let text = files().find(|(path, _)| *path == manifest).map(|(_, text)| text).unwrap_or_default();
    let dependency = dependency.split(' ').next().unwrap_or(dependency);
    text.lines().any(|line| line.split_once('=').is_some_and(|(name, _)| name.trim() == dependency))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_members_manifest_stands_alone_with_the_workspaces_values() {
        let workspace = "[workspace.package]\nversion = \"9.1.0\"\n\n[workspace.dependencies]\n\
                         walker = { path = \"plugin-sdk/walker\" }\nserde = \"1\"\n[profile.dev]\nserde = 2\n";
        let member = "[package]\nname = \"x\"\nversion.workspace = true\n\n[dependencies]\nwalker.workspace = true\n\n\
                      [target.'cfg(wasm)'.dependencies]\nserde.workspace = true\n\n[dev-dependencies]\nbson.workspace = true\n\n\
                      [lints]\nworkspace = true\n";
        let expected = "[package]\nname = \"x\"\nversion = \"9.1.0\"\n\n[dependencies]\nwalker = { path = \"walker\" }\n\n\
                        [target.'cfg(wasm)'.dependencies]\nserde = \"1\"\n";
        assert_eq!(stand_alone(member, workspace), expected);
    }

    #[test]
    fn the_sdk_is_whole_and_nothing_in_it_is_inherited() {
        let files: Vec<_> = files().collect();
        for wanted in
            ["Cargo.toml", "src/lib.rs", "wit/plugin.wit", "bson-walker/Cargo.toml", "bson-walker/src/lib.rs"]
        {
            assert!(files.iter().any(|(path, _)| path == &wanted), "{wanted}");
        }
        for (path, text) in files.iter().filter(|(path, _)| path.ends_with("Cargo.toml")) {
            assert!(!text.contains("workspace"), "{path}:\n{text}");
            toml::from_str::<toml::Table>(text).unwrap();
        }
    }

    #[test]
    fn the_lock_file_has_what_the_sdk_needs_and_no_database_driver() {
        let lock = lock("mine");
        let parsed: toml::Table = toml::from_str(&lock).unwrap();
        let packages = parsed["package"].as_array().unwrap();
        let names: Vec<&str> = packages.iter().map(|p| p["name"].as_str().unwrap()).collect();
        for wanted in ["mine", "plugin-sdk", "bson-walker", "serde", "serde_json", "wit-bindgen", "syn"] {
            assert!(names.contains(&wanted), "{wanted} is not among {names:?}");
        }
        assert!(!names.contains(&"mongodb") && !names.contains(&"bson"), "{names:?}");
    }
}
