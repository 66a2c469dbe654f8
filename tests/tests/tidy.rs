//! The house rules that no lint knows: sizes, layers, names, and nothing left lying about.

use std::path::{Path, PathBuf};
use std::process::Command;

use archiver_tests::tools::repository;

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;

/// Functions that may be longer, each with its reason: (end of the path, function, reason).
const LONG_FUNCTIONS: [(&str, &str, &str); 3] = [
    ("archiver/src/config/tests.rs", "every_key_is_read", "one configuration with every key"),
    (
        "archiver/src/config/tests.rs",
        "one_bad_line_gives_one_problem_with_its_line_key_and_advice",
        "a table of cases",
    ),
    ("archiver/src/archive/segment/tests.rs", "random_record", "one arm for every type"),
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] =
    ["utils", "util", "common", "helpers", "helper", "manager", "handler", "processor"];

/// Only these folders and files of `archiver/src` may name the word: (words, where, what else to do).
const LAYERS: [(&[&str], &[&str], &str); 5] = [
    (&["wasmtime", "wit_component"], &["plugin/"], "only plugin knows the WASM engine"),
    (&["object_store"], &["archive/", "config/"], "only archive talks to the object store"),
    (&["parquet::", "arrow::"], &["archive/"], "only archive knows the file format"),
    (
        &["mongodb::"],
        &[
            "capture/",
            "audit_log/",
            "deployment",
            "fault.rs",
            "history/restore.rs",
            "history/replay/target.rs",
        ],
        "the driver is for watching, for the log, and for writing what is recovered or replayed",
    ),
    (&[".watch("], &["capture/"], "only capture watches"),
];

/// Words that must not be committed. Written in two parts, so that this file does not hold them.
fn leftovers() -> Vec<String> {
    [("TO", "DO"), ("FIX", "ME"), ("to", "do!("), ("unimple", "mented!("), ("#[ig", "nore"), ("db", "g!(")]
        .iter()
        .map(|(a, b)| format!("{a}{b}"))
        .collect()
}

/// Folders of a developer's machine.
fn machine_paths() -> Vec<String> {
    [("/wo", "rk/"), ("/ro", "ot/"), ("/ho", "me/")].iter().map(|(a, b)| format!("{a}{b}")).collect()
}

/// Every file that is or would be committed, with its text; binary files are left out.
fn files() -> Vec<(PathBuf, String)> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(repository())
        .output()
        .expect("git lists files");
    assert!(listed.status.success(), "git: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).expect("file names are UTF-8");
    let read =
        |name: &str| Some((PathBuf::from(name), std::fs::read_to_string(repository().join(name)).ok()?));
    names.lines().filter_map(read).collect()
}

fn rust_files() -> Vec<(PathBuf, String)> {
    files().into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "rs")).collect()
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

/// Functions with their first line and length, found by indentation, which rustfmt guarantees.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<_> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let end = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
        let length = lines[start..].iter().position(|l| *l == end || l.ends_with(';') && *l == lines[start]);
        found.push((name.to_owned(), start + 1, length.map_or(1, |n| n + 1)));
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut words = line.trim_start();
    if words.ends_with(';') || words.ends_with('}') {
        return None;
    }
    for prefix in ["pub(crate) ", "pub(super) ", "pub(in crate) ", "pub ", "const ", "async ", "unsafe "] {
        words = words.strip_prefix(prefix).unwrap_or(words);
    }
    words.strip_prefix("fn ")?.split(['(', '<']).next()
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut problems = Vec::new();
    for (path, text) in rust_files() {
        let lines = text.lines().count();
        if lines > FILE_LINES {
            problems.push(format!("{}: {lines} lines, {FILE_LINES} are allowed", path.display()));
        }
        if !text.starts_with("//! ") {
            problems.push(format!("{}: must open with a //! sentence", path.display()));
        }
    }
    report(&problems);
}

#[test]
fn functions_fit_on_a_screen() {
    let mut problems = Vec::new();
    for (path, text) in rust_files() {
        for (name, line, length) in functions(&text) {
            let allowed =
                LONG_FUNCTIONS.iter().any(|(file, function, _)| path.ends_with(file) && name == *function);
            if length > FUNCTION_LINES && !allowed {
                problems.push(format!(
                    "{}:{line}: {name} has {length} lines, {FUNCTION_LINES} are allowed",
                    path.display()
                ));
            }
        }
    }
    report(&problems);
}

#[test]
fn names_say_what_is_inside() {
    let problems: Vec<_> = rust_files()
        .into_iter()
        .flat_map(|(path, _)| path.iter().map(|p| p.to_string_lossy().into_owned()).collect::<Vec<_>>())
        .filter(|part| EMPTY_NAMES.contains(&part.trim_end_matches(".rs")))
        .collect();
    report(&problems);
}

#[test]
fn layers_are_kept() {
    let mut problems = Vec::new();
    for (path, text) in rust_files() {
        let Ok(inside) = path.strip_prefix("archiver/src") else { continue };
        let inside = inside.to_str().expect("UTF-8");
        if inside.ends_with("tests.rs") || inside.ends_with("testing.rs") {
            continue; // What only tests see may look anywhere.
        }
        for (words, places, why) in LAYERS {
            if places.iter().any(|place| inside.starts_with(place)) {
                continue;
            }
            for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//"))
            {
                if let Some(word) = words.iter().find(|word| line.contains(*word)) {
                    problems.push(format!("archiver/src/{inside}:{}: {word}: {why}", number + 1));
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn nothing_is_left_lying_about() {
    let mut problems = Vec::new();
    for (path, text) in files() {
        let rust = path.extension().is_some_and(|e| e == "rs");
        for (number, line) in text.lines().enumerate() {
            let words = if rust { leftovers() } else { Vec::new() };
            for word in words.iter().chain(&machine_paths()).filter(|word| line.contains(word.as_str())) {
                problems.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    report(&problems);
}

#[test]
fn every_crate_is_a_member_of_the_workspace_and_under_its_lints() {
    let mut problems = Vec::new();
    for (path, text) in files() {
        if path.file_name().is_none_or(|name| name != "Cargo.toml") || path == Path::new("Cargo.toml") {
            continue;
        }
        if !text.contains("[lints]\nworkspace = true") {
            problems.push(format!("{}: lacks [lints] workspace = true", path.display()));
        }
    }
    report(&problems);
}

#[test]
fn the_tidy_test_finds_long_functions() {
    let body = "    x();\n".repeat(80);
    let text = format!(
        "//! x\nimpl X {{\n    pub async fn long<T>(\n        a: T,\n    ) {{\n{body}    }}\n}}\nfn short() {{\n}}\n"
    );
    let found = functions(&text);
    assert_eq!(found[0], ("long".to_owned(), 3, 84));
    assert_eq!(found[1].2, 2);
}

/// Every test that docs/guarantees.md and docs/traps.md name as `module::name`, `*` standing for any end, is there.
#[test]
fn every_promise_names_tests_that_exist() {
    let sources: String = rust_files().into_iter().map(|(_, text)| text).collect();
    let is_name =
        |text: &str| text.contains("::") && text.chars().all(|c| c.is_alphanumeric() || "_:*".contains(c));
    let exists = |name: &str| {
        let function = name.rsplit("::").next().unwrap();
        match function.strip_suffix('*') {
            Some(start) => sources.contains(&format!("fn {start}")),
            None => sources.contains(&format!("fn {function}(")),
        }
    };
    let mut problems = Vec::new();
    for page in ["docs/guarantees.md", "docs/traps.md"] {
        let text = std::fs::read_to_string(repository().join(page)).unwrap();
        let named: Vec<&str> = text.split('`').skip(1).step_by(2).filter(|text| is_name(text)).collect();
        assert!(named.len() > 20, "{page} is written in another way now: {named:?}");
        let missing = named.into_iter().filter(|name| !exists(name));
        problems.extend(missing.map(|name| format!("{page}: no such test: {name}")));
    }
    report(&problems);
}
