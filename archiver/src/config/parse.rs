//! From TOML text to a checked configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::read::{File, Section, Value, integer};
use super::substitute::Outside;
use super::suggest::nearest;
use super::units::{DURATION_FORM, SIZE_FORM, duration, show_duration, show_size, size};
use super::watch::{WATCH_FORM, database, watch};
use super::{
    ArchiveConfig, CaptureConfig, Config, Expected, Grants, OnHistoryLost, OnPluginError, PluginConfig,
    PluginTest, Secret, Snapshot, SourceConfig, TableFormat, Tolerance, Watch,
};
use crate::error::Result;

const NAME_FORM: &str =
    "a name: a lower-case letter, then lower-case letters, digits, _ or -, at most 64 in all";
const URI_FORM: &str = "a connection string: mongodb://… or mongodb+srv://…";
const ARCHIVE_FORM: &str =
    "file:///absolute/path, s3://bucket/prefix, az://container/prefix or gs://bucket/prefix";
const EVENT_FORM: &str = "an event as Extended JSON, in a string";
const EXPECT_FORM: &str = "\"keep\", \"drop\" or an event as Extended JSON, in a string";
const LISTEN_FORM: &str = "an IP address and a port: 127.0.0.1:9464, 0.0.0.0:9464, [::1]:9464";
const SHA256_FORM: &str = "the SHA-256 of the plugin file, 64 hex digits, as `sha256sum FILE` prints it";

/// Reads a configuration; `path` is for messages and for relative plugin paths.
pub(super) fn config(text: &str, path: &Path, outside: &Outside<'_>) -> Result<Config> {
    let file = File::new(path, text, outside);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        file.problem(error.span().map(|s| s.start), format!("invalid TOML: {}", error.message().trim()));
    }
    let config = if errors.is_empty() { top(&file, table.get_ref(), path) } else { None };
    file.finish(config)
}

/// Reads a file that is nothing but a plugin's `config` table: its JSON text, and the values in it that came from outside.
pub(super) fn plugin_config(text: &str, path: &Path, outside: &Outside<'_>) -> Result<(Secret, Vec<Secret>)> {
    let file = File::new(path, text, outside);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        file.problem(error.span().map(|s| s.start), format!("invalid TOML: {}", error.message().trim()));
    }
    let table = DeValue::Table(table.into_inner());
    let json = if errors.is_empty() { Value::top(&file, &table).json() } else { None };
    let (json, secrets) = file.finish(json)?;
    Ok((Secret::new(json), secrets))
}

/// Every part is read before anything is given up, so that all problems are found.
fn top<'a>(file: &'a File<'a>, table: &'a DeTable<'a>, path: &Path) -> Option<Config> {
    let top = Section::top(file, table);
    let development = top.value("development").and_then(|v| v.boolean()).unwrap_or(false);
    let mongodb_uri =
        top.required("mongodb", "a table with a uri").and_then(|v| mongodb(v.section("[mongodb]")?));
    let audit = top.value("audit").and_then(|v| v.section("[audit]")).map(audit).unwrap_or_default();
    let archive =
        top.required("archive", "a table with a url").and_then(|v| archive(v.section("[archive]")?));
    let capture = capture(top.value("capture").and_then(|v| v.section("[capture]")));
    let metrics = top.value("metrics").and_then(|v| metrics(v.section("[metrics]")?));
    let folder = path.parent().unwrap_or(Path::new(""));
    let plugins = tables(&top, "plugin", "plugin", |section| plugin(section, folder, development));
    unique(&plugins, |p| &p.name, "[[plugin]]");
    let audit_database = audit.database.clone().unwrap_or_else(|| "audit".to_owned());
    let names: Vec<&str> = plugins.iter().filter_map(|(_, p)| p.as_ref()).map(|p| p.name.as_str()).collect();
    let broken_plugin = plugins.iter().any(|(_, p)| p.is_none());
    let known = Known { audit_database: &audit_database, plugins: &names, complete: !broken_plugin };
    let sources = tables(&top, "source", "source", |section| source(section, &known));
    unique(&sources, |s| &s.name, "[[source]]");
    if table.get("source").is_none()
        || (sources.is_empty() && matches!(top.value("source")?.raw(), DeValue::Array(_)))
    {
        top.problem("[[source]]: is missing; there must be at least one");
    }
    top.finish();
    Some(Config {
        mongodb_uri: mongodb_uri?,
        audit_uri: audit.uri,
        audit_database,
        record_access: audit.record_access,
        archive: archive?,
        capture,
        metrics,
        plugins: plugins.into_iter().map(|(_, p)| p).collect::<Option<_>>()?,
        sources: sources.into_iter().map(|(_, s)| s).collect::<Option<_>>()?,
        development,
    })
}

/// The tables of `[[key]]` in the section, each with what was read of it; `path` is the key as the file has it.
fn tables<'a, T>(
    section: &Section<'a>,
    key: &'static str,
    path: &str,
    read: impl Fn(Section<'a>) -> Option<T>,
) -> Vec<(Value<'a>, Option<T>)> {
    let form = format!("tables, each under its own [[{path}]]");
    let items = section.value(key).and_then(|v| v.items(&form)).unwrap_or_default();
    let read_one = |item: Value<'a>| {
        let item = item.named(format!("[[{path}]]"));
        let value = item.section(&format!("[[{path}]]")).and_then(&read);
        (item, value)
    };
    items.into_iter().map(read_one).collect()
}

fn unique<T>(tables: &[(Value<'_>, Option<T>)], name: impl Fn(&T) -> &String, what: &str) {
    let mut seen: Vec<&String> = Vec::new();
    for (value, table) in tables {
        let Some(name) = table.as_ref().map(&name) else { continue };
        if seen.contains(&name) {
            value.problem(format!("is a second {what} named {name:?}; names must differ"));
        }
        seen.push(name);
    }
}

fn mongodb(section: Section<'_>) -> Option<Secret> {
    let value = section.required("uri", URI_FORM).and_then(uri);
    section.finish();
    value
}

/// Never shows the value: it holds the password.
fn uri(value: Value<'_>) -> Option<Secret> {
    let text = value.text(URI_FORM)?.value;
    let rest = text.strip_prefix("mongodb://").or_else(|| text.strip_prefix("mongodb+srv://"));
    if rest.is_none_or(str::is_empty) {
        value.problem(format!("is not a connection string; it must be {URI_FORM}"));
        return None;
    }
    Some(Secret::new(text))
}

#[derive(Default)]
struct Audit {
    uri: Option<Secret>,
    database: Option<String>,
    record_access: bool,
}

fn audit(section: Section<'_>) -> Audit {
    let uri = section.value("uri").and_then(uri);
    let database = section.value("database").and_then(|value| {
        let text = value.text("the name of a database")?;
        match database(&text.value) {
            Ok(()) => Some(text.value),
            Err(what) => {
                value.problem(format!("{} {what}", text.shown));
                None
            }
        }
    });
    let record_access = section.value("record_access").and_then(|v| v.boolean()).unwrap_or(false);
    section.finish();
    Audit { uri, database, record_access }
}

fn archive(section: Section<'_>) -> Option<ArchiveConfig> {
    let url = section.required("url", ARCHIVE_FORM).and_then(|v| v.parse(ARCHIVE_FORM, archive_url));
    let segment_max_bytes = bytes(&section, "segment_max_bytes", 1 << 10, 4 << 30, 128 << 20);
    let segment_max_age = section.value("segment_max_age").and_then(|v| bounded(&v, 1_000..=YEAR * 1_000));
    let hot_retention = time(&section, "hot_retention", 0..=10 * YEAR, 7 * DAY);
    let verify_every = verify_every(&section);
    let retention = section.value("retention").and_then(|v| retention(&v, hot_retention));
    let object_lock = section.value("object_lock").and_then(|v| v.boolean()).unwrap_or(false);
    let table_format = section.value("table_format").and_then(|v| v.one_of(&TABLE_FORMATS));
    let table_format = table_format.unwrap_or(TableFormat::None);
    let options = section.value("options").and_then(|v| v.section("[archive.options]"));
    let options = options.map(|s| s.entries()).unwrap_or_default();
    let options =
        options.into_iter().filter_map(|(key, value)| Some((key, Secret::new(option(&value)?)))).collect();
    section.finish();
    let url = url?;
    Some(ArchiveConfig {
        url,
        segment_max_bytes,
        segment_max_age,
        hot_retention,
        verify_every,
        retention,
        object_lock,
        table_format,
        options,
    })
}

/// `None` for 0: never. Thirty turns of less than a second would be nothing but turns.
fn verify_every(section: &Section<'_>) -> Option<Duration> {
    let time = time(section, "verify_every", 0..=10 * YEAR, 30 * DAY);
    if !time.is_zero() && time < Duration::from_secs(30) {
        let value = section.value("verify_every")?;
        value.problem(format!(
            "{} is out of range; allowed: 30s to 10y, or 0s for never",
            show_duration(time)
        ));
    }
    (!time.is_zero()).then_some(time)
}

/// How long the archive keeps records; `None` where it says nothing that can be.
fn retention(value: &Value<'_>, hot_retention: Duration) -> Option<Duration> {
    let time = bounded(value, 1_000..=100 * YEAR * 1_000)?;
    if time < hot_retention {
        let (time, hot) = (show_duration(time), show_duration(hot_retention));
        value.problem(format!(
            "{time} is shorter than hot_retention, {hot}: MongoDB would keep what the archive no longer has"
        ));
    }
    Some(time)
}

fn archive_url(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let named = match scheme {
        "file" => rest.starts_with('/') && rest.len() > 1,
        "s3" | "az" | "gs" => !rest.is_empty() && !rest.starts_with('/'),
        _ => false,
    };
    // Anything after ? or # would silently be no part of the location.
    (named && !text.contains(['?', '#'])).then(|| text.to_owned())
}

fn option(value: &Value<'_>) -> Option<String> {
    match value.raw() {
        DeValue::Boolean(value) => Some(value.to_string()),
        raw if integer(raw).is_some() => integer(raw).map(|n| n.to_string()),
        _ => value.text("a string, a whole number, true or false").map(|t| t.value),
    }
}

fn capture(section: Option<Section<'_>>) -> CaptureConfig {
    let defaults = CaptureConfig {
        batch_max_events: 1000,
        batch_max_bytes: 8 << 20,
        batch_max_wait: Duration::from_millis(20),
        lease_time: Duration::from_secs(15),
    };
    let Some(section) = section else { return defaults };
    let batch_max_events = section.value("batch_max_events").and_then(|value| {
        let form = "a whole number from 1 to 100000";
        let number = value.integer(form)?;
        if !(1..=100_000).contains(&number) {
            value.problem(format!("{number} is not allowed; it must be {form}"));
        }
        usize::try_from(number).ok()
    });
    let batch_max_bytes = bytes(&section, "batch_max_bytes", 1 << 10, 64 << 20, defaults.batch_max_bytes);
    let batch_max_wait = section.value("batch_max_wait").and_then(|v| bounded(&v, 0..=60_000));
    let lease_time = section.value("lease_time").and_then(|v| bounded(&v, 2_000..=300_000));
    section.finish();
    CaptureConfig {
        batch_max_events: batch_max_events.unwrap_or(defaults.batch_max_events),
        batch_max_bytes,
        batch_max_wait: batch_max_wait.unwrap_or(defaults.batch_max_wait),
        lease_time: lease_time.unwrap_or(defaults.lease_time),
    }
}

fn metrics(section: Section<'_>) -> Option<SocketAddr> {
    let listen =
        section.required("listen", LISTEN_FORM).and_then(|v| v.parse(LISTEN_FORM, |text| text.parse().ok()));
    section.finish();
    listen
}

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 366 * DAY;

fn bytes(section: &Section<'_>, key: &'static str, min: usize, max: usize, default: usize) -> usize {
    let read = |value: Value<'_>| {
        let number = match integer(value.raw()) {
            Some(number) => usize::try_from(number).ok(),
            None => value.parse(SIZE_FORM, size),
        }?;
        if !(min..=max).contains(&number) {
            let (number, min, max) = (show_size(number), show_size(min), show_size(max));
            value.problem(format!("{number} is out of range; allowed: {min} to {max}"));
        }
        Some(number)
    };
    section.value(key).and_then(read).unwrap_or(default)
}

fn time(
    section: &Section<'_>,
    key: &'static str,
    seconds: std::ops::RangeInclusive<u64>,
    default: u64,
) -> Duration {
    let millis = seconds.start() * 1000..=seconds.end() * 1000;
    section.value(key).and_then(|v| bounded(&v, millis)).unwrap_or(Duration::from_secs(default))
}

fn bounded(value: &Value<'_>, millis: std::ops::RangeInclusive<u64>) -> Option<Duration> {
    let time = value.parse(DURATION_FORM, duration)?;
    let (min, max) = (Duration::from_millis(*millis.start()), Duration::from_millis(*millis.end()));
    if !(min..=max).contains(&time) {
        let (time, min, max) = (show_duration(time), show_duration(min), show_duration(max));
        value.problem(format!("{time} is out of range; allowed: {min} to {max}"));
    }
    Some(time)
}

fn plugin(section: Section<'_>, folder: &Path, development: bool) -> Option<PluginConfig> {
    let name = section.required("name", NAME_FORM).and_then(|v| v.parse(NAME_FORM, name));
    let path = section.required("path", "the plugin's .wasm file").and_then(|value| {
        let path =
            value.parse("the plugin's .wasm file", |text| (!text.is_empty()).then(|| PathBuf::from(text)))?;
        Some(folder.join(path))
    });
    let sha256 = match section.value("sha256") {
        Some(value) => value.parse(SHA256_FORM, sha256),
        None => {
            if !development {
                section.problem(&format!(
                    "[[plugin]] sha256: is missing; it must be {SHA256_FORM} (only development = true goes without)"
                ));
            }
            None
        }
    };
    let config_json = match section.value("config") {
        Some(value) => value.json(),
        None => Some(("{}".to_owned(), Vec::new())),
    };
    let allow = section.value("allow").map_or(Some(Grants::ALL), |value| allow(&value));
    let tests = tables(&section, "test", "plugin.test", plugin_test)
        .into_iter()
        .map(|(_, test)| test)
        .collect::<Option<_>>();
    section.finish();
    let (config_json, secrets) = config_json?;
    Some(PluginConfig {
        name: name?,
        path: path?,
        sha256,
        config_json: Secret::new(config_json),
        secrets,
        allow: allow?,
        tests: tests?,
    })
}

fn allow(value: &Value<'_>) -> Option<Grants> {
    let mut allowed = Grants { drop: false, modify: false };
    for item in value.items("an array of \"modify\" and \"drop\"")? {
        match item.one_of(&[("modify", true), ("drop", false)])? {
            true => allowed.modify = true,
            false => allowed.drop = true,
        }
    }
    Some(allowed)
}

fn plugin_test(section: Section<'_>) -> Option<PluginTest> {
    let event = section.required("event", EVENT_FORM).and_then(|value| value.text(EVENT_FORM));
    let expect = section.required("expect", EXPECT_FORM).and_then(|value| value.text(EXPECT_FORM));
    section.finish();
    let expect = match expect?.value {
        word if word == "keep" => Expected::Keep,
        word if word == "drop" => Expected::Drop,
        event => Expected::Event(event),
    };
    Some(PluginTest { event: event?.value, expect })
}

fn name(text: &str) -> Option<String> {
    let valid = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
        && text.len() <= 64;
    valid.then(|| text.to_owned())
}

fn sha256(text: &str) -> Option<String> {
    let valid = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    valid.then(|| text.to_ascii_lowercase())
}

/// What a source is checked against.
struct Known<'a> {
    audit_database: &'a str,
    plugins: &'a [&'a str],
    /// Whether every plugin could be read; if not, an unknown name may be one of the others.
    complete: bool,
}

fn source(section: Section<'_>, known: &Known<'_>) -> Option<SourceConfig> {
    let name = section.required("name", NAME_FORM).and_then(|v| v.parse(NAME_FORM, name));
    let form = format!("an array of {WATCH_FORM}");
    let watch = section.required("watch", &form).and_then(|v| watches(&v, &form, known));
    let plugins = section.value("plugins").map(|v| plugin_names(&v, known));
    let snapshot = section.value("snapshot").and_then(|v| v.one_of(&SNAPSHOTS));
    let on_plugin_error = section.value("on_plugin_error").and_then(|v| v.one_of(&ON_PLUGIN_ERRORS));
    let quarantine_limit = section.value("quarantine_limit").and_then(|value| {
        let form = "a whole number from 0 to 10000: of 10000 events, how many may be quarantined";
        let number = value.integer(form)?;
        if !(0..=10_000).contains(&number) {
            value.problem(format!("{number} is not allowed; it must be {form}"));
        }
        u32::try_from(number).ok()
    });
    let actor_field = section.value("actor_field").and_then(|v| {
        let form = "a field name, dotted for a nested one";
        v.parse(form, |text| (!text.split('.').any(str::is_empty)).then(|| text.to_owned()))
    });
    let context = section.value("actor_context");
    let actor_context = context.as_ref().and_then(|v| collection(v, known));
    let on_history_lost = section.value("on_history_lost").and_then(|v| v.one_of(&ON_HISTORY_LOST));
    let enable_images = section.value("enable_images").and_then(|v| v.boolean());
    let partitions = section.value("partitions").and_then(|value| {
        let form = "a whole number from 1 to 64";
        let number = value.integer(form)?;
        if !(1..=64).contains(&number) {
            value.problem(format!("{number} is not allowed; it must be {form}"));
        }
        u32::try_from(number).ok()
    });
    if let (Some(context), Some((db, coll)), Some(watch), Some(2..)) =
        (context, &actor_context, &watch, partitions)
        && watch.iter().any(|w| w.covers(db, coll))
    {
        context.problem(
            "is watched by this source, which has several partitions; let it lie outside of what is watched, \
             such as in a database of its own",
        );
    }
    section.finish();
    Some(SourceConfig {
        name: name?,
        watch: watch?,
        plugins: plugins.unwrap_or_default(),
        snapshot: snapshot.unwrap_or(Snapshot::Initial),
        tolerance: Tolerance {
            on_plugin_error: on_plugin_error.unwrap_or(OnPluginError::Quarantine),
            quarantine_limit: quarantine_limit.unwrap_or(100),
        },
        actor_field,
        actor_context,
        on_history_lost: on_history_lost.unwrap_or(OnHistoryLost::Resync),
        enable_images: enable_images.unwrap_or(false),
        partitions: partitions.unwrap_or(1),
    })
}

/// One collection by its full name.
fn collection(value: &Value<'_>, known: &Known<'_>) -> Option<(String, String)> {
    let text = value.text("one collection, as \"database.collection\"")?;
    match watch(&text.value, known.audit_database) {
        Ok(Watch::Collection(db, coll)) => Some((db, coll)),
        Ok(_) => {
            value.problem(format!("{} names more than one collection", text.shown));
            None
        }
        Err(what) => {
            value.problem(format!("{} {what}", text.shown));
            None
        }
    }
}

const TABLE_FORMATS: [(&str, TableFormat); 2] = [("none", TableFormat::None), ("delta", TableFormat::Delta)];
const SNAPSHOTS: [(&str, Snapshot); 2] = [("initial", Snapshot::Initial), ("never", Snapshot::Never)];
const ON_HISTORY_LOST: [(&str, OnHistoryLost); 2] =
    [("resync", OnHistoryLost::Resync), ("halt", OnHistoryLost::Halt)];
const ON_PLUGIN_ERRORS: [(&str, OnPluginError); 2] =
    [("quarantine", OnPluginError::Quarantine), ("halt", OnPluginError::Halt)];

fn watches(value: &Value<'_>, form: &str, known: &Known<'_>) -> Option<Vec<Watch>> {
    let items = value.items(form)?;
    if items.is_empty() {
        value.problem(format!("is empty; it must be {form}, with at least one"));
    }
    let mut watched: Vec<Watch> = Vec::new();
    for item in &items {
        let Some(text) = item.text(WATCH_FORM) else { continue };
        match watch(&text.value, known.audit_database) {
            Ok(entry) if watched.contains(&entry) => {
                item.problem(format!("{} stands there twice", text.shown))
            }
            Ok(entry) => watched.push(entry),
            Err(what) => item.problem(format!("{} {what}", text.shown)),
        }
    }
    Some(watched)
}

fn plugin_names(value: &Value<'_>, known: &Known<'_>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for item in value.items("an array of plugin names").unwrap_or_default() {
        let Some(text) = item.text("a plugin's name") else { continue };
        if names.contains(&text.value) {
            item.problem(format!("{} stands there twice", text.shown));
        } else if known.complete && !known.plugins.contains(&text.value.as_str()) {
            let advice = match nearest(&text.value, known.plugins.iter().copied()) {
                Some(word) => format!("did you mean {word:?}?"),
                None if known.plugins.is_empty() => "there is no [[plugin]]".to_owned(),
                None => format!("the plugins are {}", known.plugins.join(", ")),
            };
            item.problem(format!("{} is not the name of a [[plugin]]; {advice}", text.shown));
        }
        names.push(text.value);
    }
    names
}
