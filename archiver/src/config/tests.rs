//! Good files become a configuration; bad ones are refused with every problem, its line and what is allowed.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::archive::store::Archive;
use crate::error::Kind;

const PIN: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn read(text: &str) -> Result<Config> {
    let env = |name: &str| match name {
        "MONGODB_URI" => Some("mongodb://archiver:s3cret@db/".to_owned()),
        "NAME" => Some("from-env".to_owned()),
        "INJECTED" => Some("x\"\n[archive]\nurl = \"s3://other".to_owned()),
        _ => None,
    };
    let file = |path: &Path| match path.to_str() {
        Some("conf/key") => Ok("s3cret-from-a-file".to_owned()),
        Some(path) => Err(format!("the file {path} can't be read: it is not there")),
        None => Err("?".to_owned()),
    };
    parse::config(text, Path::new("conf/archiver.toml"), &Outside { env: &env, file: &file })
}

/// A file that is right, with `lines` after it.
fn with(lines: &str) -> String {
    format!(
        "[mongodb]\nuri = \"${{MONGODB_URI}}\"\n[archive]\nurl = \"file:///archive\"\n\
         [[source]]\nname = \"payments\"\nwatch = [\"shop.payments\"]\n{lines}"
    )
}

/// The problems of a bad file, one a line, without the file's name.
fn problems(text: &str) -> Vec<String> {
    let error = read(text).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    let text = error.to_string();
    assert!(!text.contains("s3cret"), "{text}");
    text.lines().skip(1).map(|l| l.trim().strip_prefix("conf/archiver.toml:").unwrap().to_owned()).collect()
}

#[test]
fn a_table_format_is_none_or_delta() {
    let text =
        |format: &str| with("").replace("[archive]\n", &format!("[archive]\ntable_format = {format}\n"));
    assert_eq!(read(&text("\"none\"")).unwrap().archive.table_format, TableFormat::None);
    let problem = "4: [archive] table_format: \"iceberg\" is not allowed; it must be \"none\" or \"delta\"";
    assert_eq!(problems(&text("\"iceberg\"")), [problem]);
    let problem = &problems(&text("true"))[0];
    assert!(problem.starts_with("4: [archive] table_format: is "), "{problem}");
}

#[test]
fn a_small_file_gets_the_defaults() {
    let config = read(&with("")).unwrap();
    assert_eq!(config.mongodb_uri.expose(), "mongodb://archiver:s3cret@db/");
    assert_eq!((config.audit_uri, config.audit_database.as_str()), (None, "audit"));
    assert!(!config.record_access);
    assert_eq!(
        (config.archive.segment_max_bytes, config.archive.table_format),
        (128 << 20, TableFormat::None)
    );
    assert_eq!(config.archive.segment_max_age, None);
    assert_eq!(config.archive.hot_retention, Duration::from_secs(7 * 86_400));
    assert_eq!(config.archive.verify_every, Some(Duration::from_secs(30 * 86_400)));
    assert_eq!((config.archive.retention, config.archive.object_lock), (None, false));
    assert_eq!(config.capture.batch_max_events, 1000);
    assert_eq!(config.capture.batch_max_bytes, 8 << 20);
    assert_eq!(config.capture.batch_max_wait, Duration::from_millis(20));
    let source = &config.sources[0];
    assert_eq!(source.watch, [Watch::Collection("shop".into(), "payments".into())]);
    assert_eq!(
        (source.snapshot, source.tolerance.on_plugin_error),
        (Snapshot::Initial, OnPluginError::Quarantine)
    );
    assert!(source.plugins.is_empty() && source.actor_field.is_none() && !config.development);
}

#[test]
fn every_key_is_read() {
    let text = format!(
        r#"
        [mongodb]
        uri = "mongodb+srv://a"
        [audit]
        uri = "mongodb://b"
        database = "trail"
        record_access = true
        [capture]
        batch_max_events = 500
        batch_max_bytes = "1MiB"
        batch_max_wait = "5ms"
        [metrics]
        listen = "[::1]:9464"
        [archive]
        url = "s3://bucket/prefix"
        segment_max_bytes = 65536
        segment_max_age = "90s"
        hot_retention = "0s"
        verify_every = "0s"
        retention = "7y"
        object_lock = true
        table_format = "delta"
        [archive.options]
        region = "eu-${{NAME}}"
        allow_http = true
        timeout = 30
        [[plugin]]
        name = "redact-pii"
        path = "plugins/redact.wasm"
        sha256 = "{upper}"
        config = {{ rules = [{{ path = "b.a", action = "mask", keep_last = 4 }}], a = "${{NAME}}", z = 1.5, m = false }}
        [[plugin]]
        name = "filter"
        path = "/opt/filter.wasm"
        sha256 = "{PIN}"
        [plugin.config]
        z = "$${{NAME}}"
        [plugin.config.b]
        y = 1
        x = [[1], []]
        [[source]]
        name = "a1_-"
        watch = ["shop.*", "crm.people.eu"]
        plugins = ["filter", "redact-pii"]
        snapshot = "never"
        on_plugin_error = "halt"
        actor_field = "audit.updatedBy"
        partitions = 1
        [[source]]
        name = "everything"
        watch = ["*"]
        "#,
        upper = PIN.to_uppercase(),
    );
    let config = read(&text).unwrap();
    assert_eq!(config.audit_uri.unwrap().expose(), "mongodb://b");
    assert!(config.audit_database == "trail" && config.record_access);
    assert_eq!(config.metrics.unwrap().to_string(), "[::1]:9464");
    let (archive, capture) = (config.archive, config.capture);
    assert_eq!((archive.segment_max_bytes, archive.segment_max_age), (65536, Some(Duration::from_secs(90))));
    assert_eq!((archive.hot_retention, archive.table_format), (Duration::ZERO, TableFormat::Delta));
    assert_eq!(archive.verify_every, None);
    assert_eq!((archive.retention, archive.object_lock), (Some(Duration::from_secs(7 * 366 * 86_400)), true));
    let options: Vec<_> = archive.options.iter().map(|(k, v)| (k.as_str(), v.expose())).collect();
    assert_eq!(options, [("region", "eu-from-env"), ("allow_http", "true"), ("timeout", "30")]);
    assert_eq!((capture.batch_max_events, capture.batch_max_bytes), (500, 1 << 20));
    assert_eq!(capture.batch_max_wait, Duration::from_millis(5));
    let [redact, filter] = &config.plugins[..] else { panic!("two plugins") };
    assert_eq!(redact.path, PathBuf::from("conf/plugins/redact.wasm"));
    assert_eq!(filter.path, PathBuf::from("/opt/filter.wasm"));
    assert_eq!(redact.sha256.as_deref(), Some(PIN));
    assert_eq!(
        redact.config_json.expose(),
        r#"{"rules":[{"path":"b.a","action":"mask","keep_last":4}],"a":"from-env","z":1.5,"m":false}"#
    );
    assert_eq!(filter.config_json.expose(), r#"{"z":"${NAME}","b":{"y":1,"x":[[1],[]]}}"#);
    let [first, second] = &config.sources[..] else { panic!("two sources") };
    assert_eq!(first.plugins, ["filter", "redact-pii"]);
    assert_eq!((first.snapshot, first.tolerance.on_plugin_error), (Snapshot::Never, OnPluginError::Halt));
    assert_eq!(first.actor_field.as_deref(), Some("audit.updatedBy"));
    assert_eq!(second.watch, [Watch::Everything]);
}

#[test]
fn one_bad_line_gives_one_problem_with_its_line_key_and_advice() {
    let pinned = format!("[[plugin]]\nname = \"p\"\npath = \"p.wasm\"\nsha256 = \"{PIN}\"\n");
    for (lines, problem) in [
        ("colour = 1", "8: [[source]] colour: unknown key; allowed: name, watch, plugins, snapshot, "),
        ("snapshots = 1", "8: [[source]] snapshots: unknown key; did you mean snapshot?"),
        ("[archve]", "8: archve: unknown key; did you mean archive?"),
        (
            "partitions = 0",
            "8: [[source]] partitions: 0 is not allowed; it must be a whole number from 1 to 64",
        ),
        ("partitions = \"1\"", "8: [[source]] partitions: is a string; it must be a whole number"),
        (
            "snapshot = \"always\"",
            "8: [[source]] snapshot: \"always\" is not allowed; it must be \"initial\" or",
        ),
        ("on_plugin_error = \"pass\"", "8: [[source]] on_plugin_error: \"pass\" is not allowed; it must be"),
        (
            "actor_field = \"a..b\"",
            "8: [[source]] actor_field: \"a..b\" is not allowed; it must be a field name",
        ),
        (
            "actor_context = \"shop.*\"",
            "8: [[source]] actor_context: \"shop.*\" names more than one collection",
        ),
        (
            "partitions = 2\nactor_context = \"shop.payments\"",
            "9: [[source]] actor_context: is watched by this source, which has several partitions",
        ),
        (
            "plugins = [\"redact\"]",
            "8: [[source]] plugins[0]: \"redact\" is not the name of a [[plugin]]; there is",
        ),
        ("plugins = \"redact\"", "8: [[source]] plugins: is a string; it must be an array of plugin names"),
        (
            "[[source]]\nname = \"payments\"\nwatch = [\"a.b\"]",
            "8: [[source]]: is a second [[source]] named \"payments\"; names must differ",
        ),
        (
            "[[source]]\nname = \"Pay\"\nwatch = [\"a.b\"]",
            "9: [[source]] name: \"Pay\" is not allowed; it must be a",
        ),
        ("[[source]]\nname = \"a.b\"\nwatch = [\"a.b\"]", "9: [[source]] name: \"a.b\" is not allowed"),
        ("[[source]]\nwatch = [\"a.b\"]", "8: [[source]] name: is missing; it must be a name"),
        (
            "[[source]]\nname = \"b\"",
            "8: [[source]] watch: is missing; it must be an array of \"db.collection\"",
        ),
        ("[[source]]\nname = \"b\"\nwatch = []", "10: [[source]] watch: is empty; it must be an array of"),
        (
            "[[source]]\nname = \"b\"\nwatch = [\"a.b\",\n\"audit.x\"]",
            "11: [[source]] watch[1]: \"audit.x\" is inside",
        ),
        (
            "[[source]]\nname = \"b\"\nwatch = [\"a.b\", \"a.b\"]",
            "10: [[source]] watch[1]: \"a.b\" stands there twice",
        ),
        (
            "[[source]]\nname = \"b\"\nwatch = [7]",
            "10: [[source]] watch[0]: is a number; it must be \"db.coll",
        ),
        (
            "[audit]\ndatabase = \"shop\"",
            "7: [[source]] watch[0]: \"shop.payments\" is inside the audit database",
        ),
        ("[audit]\ndatabase = \"admin\"", "9: [audit] database: \"admin\" is inside MongoDB's own database"),
        (
            "[audit]\nuri = \"http://x\"",
            "9: [audit] uri: is not a connection string; it must be a connection",
        ),
        ("[audit]\nuri = \"${AUDIT_URI}\"", "9: [audit] uri: the environment variable AUDIT_URI is not set"),
        (
            "[capture]\nbatch_max_events = 0",
            "9: [capture] batch_max_events: 0 is not allowed; it must be a whole",
        ),
        (
            "[capture]\nbatch_max_events = 1.5",
            "9: [capture] batch_max_events: is a fraction; it must be a whole",
        ),
        (
            "[capture]\nbatch_max_bytes = \"1GiB\"",
            "9: [capture] batch_max_bytes: 1GiB is out of range; allowed: 1KiB",
        ),
        (
            "[capture]\nbatch_max_wait = \"2h\"",
            "9: [capture] batch_max_wait: 2h is out of range; allowed: 0ms to 1m",
        ),
        (
            "[capture]\nbatch_max_wait = 20",
            "9: [capture] batch_max_wait: is a number; it must be a whole number w",
        ),
        ("development = 1979-05-27", "8: [[source]] development: unknown key"),
        (
            "[[plugin]]\npath = \"p\"\nsha256 = \"12\"",
            "10: [[plugin]] sha256: \"12\" is not allowed; it must be the SHA",
        ),
        (
            "[[plugin]]\nname = \"p\"\npath = \"p\"",
            "8: [[plugin]] sha256: is missing; it must be the SHA-256",
        ),
        ("[plugin]\nname = \"p\"", "8: plugin: is a table; it must be tables, each under its own [[plugin]]"),
        (&format!("{pinned}config = 1"), "12: [[plugin]] config: is a number; it must be a table"),
        (
            &format!("{pinned}config = {{ a = [1979-05-27] }}"),
            "12: [[plugin]] config.a[0]: is a date or time, which",
        ),
        (&format!("{pinned}config = {{ a = inf }}"), "12: [[plugin]] config.a: is not finite"),
        (
            &format!("{pinned}config = {{ a = \"${{GONE}}\" }}"),
            "12: [[plugin]] config.a: the environment variable GONE",
        ),
        (
            &format!("{pinned}config = {{ a = [{{ b = \"${{file:/gone}}\" }}] }}"),
            "12: [[plugin]] config.a[0].b: the file /gone can't be read: it is not there",
        ),
        ("[audit]\nuri = \"${file:}\"", "9: [audit] uri: ${file:} names no file"),
        ("[audit]\nuri = \"${file:key}\"", "9: [audit] uri: is not a connection string"),
        ("snapshot = \"${file:key}\"", "8: [[source]] snapshot: \"${file:key}\" is not allowed"),
        (
            &format!("{pinned}{pinned}"),
            "12: [[plugin]]: is a second [[plugin]] named \"p\"; names must differ",
        ),
        ("watch = [", "8: invalid TOML: "),
        ("x = 1\nx = 2", "9: invalid TOML: duplicate key"),
    ] {
        let found = problems(&with(lines));
        assert!(
            found.iter().any(|p| p.starts_with(problem)),
            "{lines}\n  expected {problem}\n  found {found:#?}"
        );
    }
}

#[test]
fn what_is_missing_is_named() {
    let found = problems("");
    assert_eq!(found[0], " mongodb: is missing; it must be a table with a uri");
    assert_eq!(found[1], " archive: is missing; it must be a table with a url");
    assert_eq!(found[2], " [[source]]: is missing; there must be at least one");
    let found = problems("source = []\n[mongodb]\n[archive]\n");
    assert_eq!(found[0], " [[source]]: is missing; there must be at least one");
    assert!(found[1].starts_with("2: [mongodb] uri: is missing"), "{found:?}");
    assert!(found[2].starts_with("3: [archive] url: is missing"), "{found:?}");
}

#[test]
fn the_archive_keeps_nothing_shorter_than_mongodb() {
    let url = "url = \"file:///archive\"";
    let kept = |time: &str| with("").replace(url, &format!("{url}\nretention = \"{time}\""));
    assert_eq!(read(&kept("1w")).unwrap().archive.retention, Some(Duration::from_secs(7 * 86_400)));
    for (time, problem) in [
        ("6d", "5: [archive] retention: 6d is shorter than hot_retention, 7d"),
        ("101y", "5: [archive] retention: 101y is out of range; allowed: 1s to 100y"),
        (
            "7 years",
            "5: [archive] retention: \"7 years\" is not allowed; it must be a whole number with ms, s",
        ),
    ] {
        let found = problems(&kept(time));
        assert!(found.len() == 1 && found[0].starts_with(problem), "{time}: {found:?}");
    }
}

#[test]
fn an_archive_url_is_absolute_and_of_a_known_kind() {
    for url in [
        "archive",
        "/archive",
        "file://archive",
        "file:///",
        "http://x/y",
        "s3://",
        "s3:///a",
        "s3://a?b",
        "",
    ] {
        let text = with("").replace("file:///archive", url);
        let found = problems(&text);
        assert!(found[0].starts_with("4: [archive] url: "), "{url}: {found:?}");
    }
    for url in ["file:///a b", "s3://bucket", "az://container/prefix", "gs://bucket/prefix/deeper"] {
        assert_eq!(read(&with("").replace("file:///archive", url)).unwrap().archive.url, url);
    }
}

#[test]
fn all_problems_are_reported_at_once_in_the_files_order() {
    let text = "[mongodb]\nuri = \"${GONE}\"\nuser = \"me\"\n[archive]\nurl = \"ftp://x\"\nsegment_max_byte = 1\n\
                [[source]]\nname = \"1\"\nwatch = [\"local.x\", \"nothing\"]\nplugins = [\"p\"]\n";
    let found = problems(text);
    let lines: Vec<&str> = found.iter().map(|p| p.split(':').next().unwrap()).collect();
    assert_eq!(lines, ["2", "3", "5", "6", "8", "9", "9", "10"], "{found:#?}");
    assert!(
        read(text)
            .unwrap_err()
            .to_string()
            .starts_with("the configuration has 8 problems:\n  conf/archiver.toml:2")
    );
}

#[test]
fn a_plugin_may_go_without_a_pin_in_development_only() {
    let plugin = "[[plugin]]\nname = \"p\"\npath = \"p.wasm\"\n";
    let config = read(&format!("development = true\n{}", with(plugin))).unwrap();
    assert!(config.development && config.plugins[0].sha256.is_none());
    assert_eq!(config.plugins[0].config_json.expose(), "{}");
    assert_eq!(problems(&with(plugin)).len(), 1);
}

#[test]
fn an_unknown_plugin_is_answered_with_the_one_that_was_meant() {
    let plugin = format!("[[plugin]]\nname = \"redact-pii\"\npath = \"p\"\nsha256 = \"{PIN}\"\n");
    let found = problems(&with(&format!("plugins = [\"redact-pi\"]\n{plugin}")));
    assert_eq!(
        found[0],
        "8: [[source]] plugins[0]: \"redact-pi\" is not the name of a [[plugin]]; did you mean \"redact-pii\"?"
    );
}

#[test]
fn a_value_from_the_environment_can_not_add_keys_and_is_not_shown() {
    let config = read(&with("").replace("file:///archive", "file:///${INJECTED}"));
    assert_eq!(config.unwrap().archive.url, "file:///x\"\n[archive]\nurl = \"s3://other");
    let found = problems(&with("snapshot = \"${MONGODB_URI}\""));
    assert!(found[0].starts_with("8: [[source]] snapshot: \"${MONGODB_URI}\" is not allowed"), "{found:?}");
}

#[test]
fn what_comes_from_a_file_is_a_secret_like_what_comes_from_the_environment() {
    let plugin = format!(
        "[[plugin]]\nname = \"p\"\npath = \"p\"\nsha256 = \"{PIN}\"\n\
         config = {{ keys = [{{ id = \"1\", key = \"${{file:key}}\" }}], a = \"${{NAME}}\" }}\n"
    );
    let config = read(&with(&plugin)).unwrap();
    let plugin = &config.plugins[0];
    assert_eq!(
        plugin.config_json.expose(),
        r#"{"keys":[{"id":"1","key":"s3cret-from-a-file"}],"a":"from-env"}"#
    );
    let secrets: Vec<_> = plugin.secrets.iter().map(Secret::expose).collect();
    assert_eq!(secrets, ["s3cret-from-a-file", "from-env"]);
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let text = format!("{:?}", read(&with("[archive.options]\nsecret_access_key = \"s3cret\"")).unwrap());
    assert!(!text.contains("s3cret"), "{text}");
}

#[test]
fn a_file_that_can_not_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("archiver.toml");
    let error = Config::load(&path).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("archiver.toml") && error.hint_text().unwrap().contains("--config"));
    std::fs::write(&path, b"a = 1\nb = \"\xff\"").unwrap();
    assert!(Config::load(&path).unwrap_err().to_string().ends_with("archiver.toml:2"));
    std::fs::write(&path, with("").replace("${MONGODB_URI}", "mongodb://localhost")).unwrap();
    assert_eq!(Config::load(&path).unwrap().source("payments").unwrap().name, "payments");
    let unknown = Config::load(&path).unwrap().source("refunds").unwrap_err();
    assert_eq!(unknown.kind(), Kind::NotFound);
    assert!(unknown.hint_text().unwrap().contains("payments"));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[\\[\\]={}\"'${}a-z0-9.,#\n -]{0,200}") {
        let _ = read(&text);
        let _ = read(&with(&text));
    }

    #[test]
    fn no_string_makes_it_panic(text in any::<String>()) {
        let quoted = serde_json::to_string(&text).unwrap();
        let _ = read(&with(&format!("actor_field = {quoted}\nwatch = [{quoted}]\nsnapshot = {quoted}")));
        let _ = read(&with(&format!("[capture]\nbatch_max_wait = {quoted}")));
    }
}

#[test]
fn the_example_configuration_is_valid_and_shows_the_defaults() {
    let text = include_str!("../../../examples/configs/archiver.toml");
    let env = |name: &str| Some(format!("mongodb://{name}"));
    let outside = Outside { env: &env, file: &|path| Ok(format!("contents of {}", path.display())) };
    let config = parse::config(text, Path::new("archiver.toml"), &outside).unwrap();
    let small = read(&with("")).unwrap();
    assert_eq!(format!("{:?}", config.capture), format!("{:?}", small.capture));
    assert_eq!(config.archive.segment_max_bytes, small.archive.segment_max_bytes);
    assert_eq!(config.archive.segment_max_age, small.archive.segment_max_age);
    assert_eq!(config.archive.hot_retention, small.archive.hot_retention);
    assert_eq!((config.archive.retention, config.archive.object_lock), (None, false));
    assert_eq!(config.audit_database, small.audit_database);
    let shipped = include_str!("../../../deploy/archiver.toml");
    assert_eq!(parse::config(shipped, Path::new("archiver.toml"), &outside).unwrap().sources.len(), 1);
}

#[test]
fn the_examples_of_object_stores_are_valid_with_all_their_options() {
    let env = |name: &str| Some(format!("mongodb://{name}"));
    let outside = Outside { env: &env, file: &|path| Ok(format!("contents of {}", path.display())) };
    for (text, store) in [
        (include_str!("../../../examples/configs/archiver.toml"), "region eu-central-1"),
        (include_str!("../../../examples/configs/s3-role.toml"), "region eu-central-1"),
        (include_str!("../../../examples/configs/azure.toml"), "account exampleaudit"),
        (include_str!("../../../examples/configs/gcs.toml"), "Google Cloud Storage"),
    ] {
        let config = parse::config(text, Path::new("archiver.toml"), &outside).unwrap();
        let archive = Archive::open(&config.archive).unwrap();
        assert!(archive.access().unwrap().0.contains(store), "{:?}", archive.access());
    }
}

#[test]
fn grants_tests_and_the_quarantine_limit_are_read() {
    let plugin = |lines: &str| {
        with(&format!("[[plugin]]\nname = \"p\"\npath = \"p.wasm\"\nsha256 = \"{PIN}\"\n{lines}"))
    };
    let config = read(&plugin("")).unwrap();
    assert_eq!((config.plugins[0].allow, config.sources[0].tolerance.quarantine_limit), (Grants::ALL, 100));
    assert!(config.plugins[0].tests.is_empty());
    let config = read(&plugin(
        "allow = [\"drop\"]\n[[plugin.test]]\nevent = '{}'\nexpect = \"keep\"\n[[plugin.test]]\nevent = '{}'\nexpect = '{\"op\": \"x\"}'",
    ))
    .unwrap();
    assert_eq!(config.plugins[0].allow, Grants { drop: true, modify: false });
    let expected: Vec<_> = config.plugins[0].tests.iter().map(|test| test.expect.clone()).collect();
    assert_eq!(expected, [Expected::Keep, Expected::Event("{\"op\": \"x\"}".into())]);
    assert_eq!(read(&with("quarantine_limit = 0")).unwrap().sources[0].tolerance.quarantine_limit, 0);
    for (text, problem) in [
        (with("quarantine_limit = -1"), "8: [[source]] quarantine_limit: -1 is not allowed"),
        (with("quarantine_limit = 10001"), "8: [[source]] quarantine_limit: 10001 is not allowed"),
        (plugin("allow = [\"read\"]"), "12: [[plugin]] allow[0]: \"read\" is not allowed"),
        (plugin("[[plugin.test]]\nevent = '{}'"), "12: [[plugin.test]] expect: is missing"),
        (
            plugin("[[plugin.test]]\nevnt = '{}'\nexpect = \"keep\"\nevent = ''"),
            "13: [[plugin.test]] evnt: unknown key",
        ),
    ] {
        let found = problems(&text);
        assert!(found.iter().any(|found| found.starts_with(problem)), "{problem}: {found:?}");
    }
}
