//! A new plugin crate: the example plugin under another name, with the SDK's sources beside it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use super::sdk;
use crate::error::{Error, Result};

const MANIFEST: &str = include_str!("template/Cargo.toml.in");
const README: &str = include_str!("template/README.md.in");
const SOURCE: &str = include_str!("../../../examples/plugin/src/lib.rs");
const CONFIG: &str = include_str!("../../../examples/plugin/config.toml");

/// The names in the example plugin that give way to those of the new one.
const EXAMPLE: (&str, &str) = ("drop-sessions", "DropSessions");

/// Words that cargo or rustc take for something else, and packages that a plugin is built from.
const TAKEN: [&str; 60] = [
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "bson-walker",
    "build",
    "const",
    "continue",
    "core",
    "crate",
    "deps",
    "do",
    "dyn",
    "else",
    "enum",
    "examples",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "incremental",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "plugin-sdk",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "serde",
    "serde-json",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "use",
    "wit-bindgen",
];

/// Types that a plugin's source uses under these names.
const TYPES: [&str; 20] = [
    "Action", "Box", "Default", "Doc", "Element", "Err", "Event", "Level", "None", "Ok", "Option", "Output",
    "Path", "Plugin", "Result", "Some", "String", "Value", "Verdict", "Writer",
];

/// A crate that is to be.
#[derive(Debug, Clone)]
pub struct NewPlugin {
    /// The crate's name, which is the plugin's.
    pub name: String,
    /// The folder to create.
    pub folder: PathBuf,
    /// An SDK that is there already; `None`: its sources are written into the folder.
    pub sdk: Option<PathBuf>,
}

impl NewPlugin {
    /// Writes it. Kind Invalid where the name can't be one, the folder exists, or `sdk` is none; nothing is left behind then.
    pub fn create(&self) -> Result<()> {
        check_name(&self.name)?;
        if let Some(sdk) = &self.sdk {
            check_sdk(sdk)?;
        }
        let folder = self.folder.display();
        let failed = |e| Error::invalid(format!("the folder {folder} can't be created")).because(e);
        if let Some(parent) = self.folder.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        fs::create_dir(&self.folder).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => Error::invalid(format!("{folder} exists already"))
                .hint("choose another name, or another folder with --path; nothing was changed"),
            _ => failed(e),
        })?;
        let written = self.write();
        if written.is_err() {
            // It was empty and ours; half a crate would stand in the way of the next try.
            let _ = fs::remove_dir_all(&self.folder);
        }
        written
    }

    fn write(&self) -> Result<()> {
        for (path, text) in self.files()? {
            let path = self.folder.join(path);
            let written =
                path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
            written.map_err(|e| Error::invalid(format!("{} can't be written", path.display())).because(e))?;
        }
        Ok(())
    }

    fn files(&self) -> Result<Vec<(PathBuf, String)>> {
        let sdk = match &self.sdk {
            Some(sdk) => relative(&absolute(&self.folder)?, &absolute(sdk)?),
            None => PathBuf::from("plugin-sdk"),
        };
        let sdk = sdk.to_str().ok_or_else(|| Error::invalid("the SDK's path is not UTF-8"))?;
        let fill = |text: &str| {
            let filled = text.replace(EXAMPLE.0, &self.name).replace(EXAMPLE.1, &type_name(&self.name));
            filled
                .replace("{name}", &self.name)
                .replace("{file}", &self.name.replace('-', "_"))
                .replace("{sdk}", sdk)
        };
        let mut files: Vec<(PathBuf, String)> = vec![
            ("Cargo.toml".into(), fill(MANIFEST)),
            ("Cargo.lock".into(), sdk::lock(&self.name)),
            ("README.md".into(), fill(README)),
            (".gitignore".into(), "/target\n".into()),
            ("src/lib.rs".into(), fill(SOURCE)),
            ("config.toml".into(), CONFIG.into()),
            ("events.jsonl".into(), super::samples::DEFAULT.into()),
        ];
        if self.sdk.is_none() {
            files.extend(sdk::files().map(|(path, text)| (Path::new("plugin-sdk").join(path), text)));
        }
        Ok(files)
    }
}

fn check_name(name: &str) -> Result<()> {
    let is_part = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.bytes().all(is_part) || name.len() > 64 {
        return Err(Error::invalid(format!("this can't be a plugin's name: {name:?}"))
            .hint("a name is a lower-case letter, then lower-case letters, digits, _ or -, at most 64 in all: hide-emails"));
    }
    if TAKEN.contains(&name.replace('_', "-").as_str()) {
        return Err(Error::invalid(format!(
            "this name is taken by Rust or by what plugins are built from: {name}"
        ))
        .hint(format!("for example: my-{name}")));
    }
    Ok(())
}

fn check_sdk(sdk: &Path) -> Result<()> {
    let manifest = fs::read_to_string(sdk.join("Cargo.toml")).unwrap_or_default();
    if manifest.lines().any(|line| line.trim() == "name = \"plugin-sdk\"") {
        return Ok(());
    }
    Err(Error::invalid(format!("there is no plugin-sdk in {}", sdk.display()))
        .hint("name the folder that its Cargo.toml is in, or leave --sdk out: its sources are then written beside the plugin"))
}

/// `hide-emails` is `HideEmails`.
fn type_name(name: &str) -> String {
    let capital = |part: &str| part[..1].to_ascii_uppercase() + &part[1..];
    let name: String = name.split(['-', '_']).filter(|part| !part.is_empty()).map(capital).collect();
    if TYPES.contains(&name.as_str()) { name + "Plugin" } else { name }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|e| Error::invalid(format!("no such folder: {}", path.display())).because(e))
}

/// The way from one folder to another, both absolute.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let common = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn plugin(name: &str, folder: PathBuf) -> NewPlugin {
        NewPlugin { name: name.into(), folder, sdk: None }
    }

    #[test]
    fn a_new_crate_has_its_own_names_everywhere() {
        let folder = tempfile::tempdir().unwrap();
        let new = plugin("hide-emails", folder.path().join("sub/hide-emails"));
        new.create().unwrap();
        let read = |name: &str| fs::read_to_string(new.folder.join(name)).unwrap();
        assert!(read("src/lib.rs").contains("struct HideEmails"));
        assert!(read("src/lib.rs").contains("export!(HideEmails)"));
        assert!(read("Cargo.toml").contains("name = \"hide-emails\""));
        assert!(read("Cargo.lock").contains("name = \"hide-emails\""));
        assert!(read("README.md").contains("hide_emails.wasm"));
        assert!(read("plugin-sdk/wit/plugin.wit").contains("package archiver:plugin@"));
        for file in ["src/lib.rs", "Cargo.toml", "README.md", "config.toml"] {
            let text = read(file).to_lowercase();
            assert!(!text.contains("drop-sessions") && !text.contains("dropsessions"), "{file}:\n{text}");
            assert!(
                !text.contains("{name}") && !text.contains("{file}") && !text.contains("{sdk}"),
                "{file}:\n{text}"
            );
        }
        toml::from_str::<toml::Table>(&read("Cargo.toml")).unwrap();
    }

    #[test]
    fn what_exists_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mine"), "precious").unwrap();
        for existing in [folder.path().to_owned(), folder.path().join("mine")] {
            let error = plugin("mine", existing).create().unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.to_string().contains("exists already"), "{error}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(folder.path().join("mine")).unwrap(), "precious");
    }

    #[test]
    fn bad_names_are_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let long = "a".repeat(65);
        for name in [
            "",
            "Upper",
            "1st",
            "a b",
            "a/b",
            "../x",
            "é",
            "-x",
            "serde",
            "serde_json",
            "plugin_sdk",
            "fn",
            "test",
            &long,
        ] {
            let error = plugin(name, folder.path().join("new")).create().unwrap_err();
            assert!(error.kind() == Kind::Invalid && error.hint_text().is_some(), "{name}: {error}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn another_sdk_is_referred_to_and_not_copied() {
        let folder = tempfile::tempdir().unwrap();
        let sdk = folder.path().join("shared/plugin-sdk");
        let mut new = plugin("mine", folder.path().join("plugins/mine"));
        new.sdk = Some(sdk.clone());
        assert!(new.create().unwrap_err().to_string().contains("there is no plugin-sdk in"));
        fs::create_dir_all(&sdk).unwrap();
        fs::write(sdk.join("Cargo.toml"), "[package]\nname = \"plugin-sdk\"\n").unwrap();
        new.create().unwrap();
        let manifest = fs::read_to_string(new.folder.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("plugin-sdk = { path = \"../../shared/plugin-sdk\" }"), "{manifest}");
        assert!(!new.folder.join("plugin-sdk").exists());
    }

    #[test]
    fn the_type_is_never_one_that_the_source_uses() {
        assert_eq!(type_name("hide-emails"), "HideEmails");
        assert_eq!(type_name("a__b-"), "AB");
        assert_eq!(type_name("plugin"), "PluginPlugin");
        assert_eq!(type_name("x2"), "X2");
    }
}
