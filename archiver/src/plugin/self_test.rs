//! The self-test of a plugin, before it sees an event: made-up events of every operation and every BSON type, and those that
//! the configuration gives with what is to become of them. Does not judge whether enough is redacted.

use bson::{Bson, DateTime, Document, Timestamp, doc};
use bson_walker::{Doc, Writer, kind};

use super::check::Verdict;
use super::load::faulty;
use super::outcome::FailureCode;
use super::sandbox::Fault;
use super::stage::Stage;
use super::words::cut;
use crate::archive::extjson::{to_relaxed, value_from_text};
use crate::config::{Expected, PluginConfig, PluginTest};
use crate::error::{Error, Result};
use crate::event::FIELDS;

/// How much of an event from the configuration's tests a message shows, in bytes.
const MAX_SHOWN: usize = 1024;

/// Runs a plugin on the built-in events, and on those of its configuration.
///
/// A plugin may refuse a made-up event: withholding what one does not understand is right. But whatever it returns must stand
/// the host's checks, and be the same again, alone or among others. Fails with kind `Plugin`, or `Invalid` for a test that can't be read.
pub(super) fn check(stage: &Stage, plugin: &PluginConfig) -> Result<()> {
    let events = samples()?;
    let mut accepted = Vec::new();
    for (what, event) in &events {
        match judge(stage, &[event]) {
            Ok(verdicts) => accepted.push((what, event.as_slice(), verdicts)),
            Err(fault) if fault.code == FailureCode::Refused => {}
            Err(fault) => return Err(faulty(plugin, &format!("its self-test, on {what}"), fault)),
        }
    }
    let together: Vec<&[u8]> = accepted.iter().map(|(_, event, _)| *event).collect();
    for _ in 0..2 {
        let verdicts = judge(stage, &together);
        let verdicts =
            verdicts.map_err(|fault| faulty(plugin, "its self-test, on several events at once", fault))?;
        for ((what, _, alone), among_others) in accepted.iter().zip(verdicts) {
            if *alone != [among_others] {
                return Err(Error::plugin(format!(
                    "plugin `{}` failed in its self-test: what it makes of {what} depends on the events before it, or on nothing",
                    plugin.name
                ))
                .hint("a plugin's result must follow from its configuration and the one event: look for what it keeps in statics"));
            }
        }
    }
    judge(stage, &[]).map_err(|fault| faulty(plugin, "its self-test, on a batch without events", fault))?;
    for (n, test) in plugin.tests.iter().enumerate() {
        run(stage, plugin, test)
            .map_err(|error| error.hint(format!("this is test {} of [[plugin]] `{}`", n + 1, plugin.name)))?;
    }
    Ok(())
}

/// One verdict per event. A deadline that was missed because the machine is busy gets a second chance.
fn judge(stage: &Stage, events: &[&[u8]]) -> Result<Vec<Verdict>, Fault> {
    let ran = match stage.run(events) {
        Err(fault) if fault.code == FailureCode::Timeout => stage.run(events),
        ran => ran,
    };
    ran.map(|ran| ran.verdicts)
}

/// Runs a test of the configuration.
fn run(stage: &Stage, plugin: &PluginConfig, test: &PluginTest) -> Result<()> {
    let event = event(&test.event)?;
    let expected = match &test.expect {
        Expected::Keep => Some(event.clone()),
        Expected::Drop => None,
        Expected::Event(text) => Some(self::event(text)?),
    };
    let verdicts = judge(stage, &[&event]).map_err(|fault| faulty(plugin, "one of its tests", fault))?;
    let got = match verdicts.into_iter().next() {
        Some(Verdict::Keep) => Some(event),
        Some(Verdict::Replace(body)) => Some(body),
        _ => None,
    };
    if got == expected {
        return Ok(());
    }
    let shown = |event: Option<Vec<u8>>| match event {
        None => "a dropped event".to_owned(),
        Some(event) => {
            let mut text = String::new();
            to_relaxed(Doc::new(&event).unwrap_or(Doc::EMPTY), &mut text);
            plugin.secrets.iter().fold(cut(&text, MAX_SHOWN).to_owned(), |text, secret| secret.hide_in(&text))
        }
    };
    Err(Error::plugin(format!(
        "plugin `{}` fails one of its tests: it should give {}, and gives {}",
        plugin.name,
        shown(expected),
        shown(got)
    )))
}

/// An event that a person wrote as Extended JSON, in any order of fields and without times if they don't matter.
fn event(text: &str) -> Result<Vec<u8>> {
    let wrapped = value_from_text("event", text)?;
    let event = Doc::new(&wrapped).ok().and_then(|doc| doc.get("event")?.as_doc());
    let event = event.ok_or_else(|| Error::invalid("this event is not a document"))?;
    for element in event.elements().map_while(Result::ok) {
        if !FIELDS.iter().any(|name| name.as_bytes() == element.name()) {
            let name = String::from_utf8_lossy(element.name()).into_owned();
            return Err(Error::invalid(format!(
                "an event has no field {name:?}; it has {}",
                FIELDS.join(", ")
            )));
        }
    }
    Ok(Writer::build(|writer| {
        for name in FIELDS {
            match event.get(name) {
                Some(element) => writer.append(&element),
                None if name == "clusterTime" => writer.timestamp(name, 1, 1),
                None if name == "wallTime" => writer.date_millis(name, 1000),
                None => {}
            }
        }
    }))
}

/// Made-up events, each with what it is.
fn samples() -> Result<Vec<(String, Vec<u8>)>> {
    let mut samples = Vec::new();
    for (op, rest) in operations() {
        samples.push((format!("an event of operation `{op}`"), sample(op, rest)?));
    }
    for (kind, value) in values() {
        let what = format!("an update with a value of BSON type 0x{kind:02x}");
        samples.push((what, sample("update", with_value(kind, &value)?)?));
    }
    Ok(samples)
}

/// An event's bytes, its fields in order.
fn sample(op: &str, rest: Document) -> Result<Vec<u8>> {
    let mut all = doc! {
        "op": op, "ns": {"db": "shop", "coll": "orders"},
        "clusterTime": Timestamp { time: 1_700_000_000, increment: 1 },
        "wallTime": DateTime::from_millis(1_700_000_000_000),
    };
    all.extend(rest);
    let mut event = Document::new();
    for name in FIELDS {
        event.extend(all.remove(name).map(|value| (name.to_owned(), value)));
    }
    bson::serialize_to_vec(&event)
        .map_err(|e| Error::internal("a made-up event does not become BSON").because(e))
}

/// Every operation with what its events have beside the identity.
fn operations() -> Vec<(&'static str, Document)> {
    let document = || doc! {"_id": 1, "name": "Ann", "card": {"pan": "4111111111111111"}, "items": [{"sku": "a", "n": 1}, 2, [3]]};
    let delta = doc! {
        "updatedFields": {"name": "Bob", "card": {"pan": "5105105105105100"}, "items.0.sku": "b"},
        "removedFields": ["address.street"], "truncatedArrays": [{"field": "items", "newSize": 2}],
        "disambiguatedPaths": {"items.0.sku": ["items", 0, "sku"]},
    };
    let index = doc! {"operationDescription": {"indexes": [{"v": 2, "key": {"card.pan": 1}, "name": "pan"}]}};
    let options = doc! {"operationDescription": {"validator": {"name": {"$type": "string"}}}};
    vec![
        ("insert", doc! {"key": {"_id": 1}, "after": document(), "images": {"after": "present"}}),
        (
            "update",
            doc! {
                "key": {"_id": 1}, "before": document(), "after": document(), "delta": delta,
                "txn": {"lsid": {"id": Bson::Null}, "number": 1_i64}, "actor": {"id": "shop@app", "from": "session"},
            },
        ),
        ("replace", doc! {"key": {"_id": 1}, "before": document(), "after": document()}),
        ("delete", doc! {"key": {"_id": 1}, "before": document(), "images": {"before": "present"}}),
        ("snapshot", doc! {"key": {"_id": 1}, "after": document()}),
        ("gap", doc! {"key": {"_id": 1}, "detail": {"reason": "event too large", "op": "update"}}),
        ("drop", doc! {}),
        (
            "rename",
            doc! {"detail": {"to": {"db": "shop", "coll": "old"}, "operationDescription": {"to": {"db": "shop", "coll": "old"}}}},
        ),
        ("dropDatabase", doc! {}),
        ("invalidate", doc! {}),
        ("create", doc! {"detail": options.clone()}),
        ("modify", doc! {"detail": options}),
        ("createIndexes", doc! {"detail": index.clone()}),
        ("dropIndexes", doc! {"detail": index}),
        (
            "shardCollection",
            doc! {"detail": {"operationDescription": {"shardKey": {"_id": "hashed"}, "unique": false}}},
        ),
        (
            "refineCollectionShardKey",
            doc! {"detail": {"operationDescription": {"shardKey": {"_id": 1, "name": 1}}}},
        ),
        (
            "reshardCollection",
            doc! {"detail": {"operationDescription": {"shardKey": {"name": 1}, "unique": false}}},
        ),
    ]
}

/// What an update has beside the identity, with this value wherever a value can stand.
fn with_value(kind: u8, value: &[u8]) -> Result<Document> {
    let holder = |names: &[&str]| {
        let doc = Writer::build(|w| names.iter().for_each(|name| w.raw(kind, name.as_bytes(), value)));
        bson::deserialize_from_slice::<Document>(&doc)
            .map_err(|e| Error::internal("a made-up value is not valid BSON").because(e))
    };
    let inner = holder(&["value"])?;
    let mut document = doc! {"_id": 1, "list": [inner.clone()], "inner": inner};
    document.extend(holder(&["value"])?);
    let mut updated = holder(&["value", "list.0.value", "list.1"])?;
    updated.insert("inner", document.clone());
    Ok(doc! {
        "key": {"_id": 1}, "before": document.clone(), "after": document,
        "delta": {"updatedFields": updated, "removedFields": ["gone.0.value"]},
    })
}

/// One value of every BSON type, some with something odd in it.
fn values() -> Vec<(u8, Vec<u8>)> {
    let text = |text: &[u8]| [&(text.len() as i32 + 1).to_le_bytes(), text, &[0]].concat();
    let empty = || vec![5, 0, 0, 0, 0];
    vec![
        (kind::DOUBLE, f64::NAN.to_le_bytes().to_vec()),
        (kind::STRING, text("gr\u{fc}\u{df}e \u{0} \u{1f980}".as_bytes())),
        (kind::DOCUMENT, Writer::build(|w| ["a.b", "$c", "", "0"].iter().for_each(|name| w.i32(name, 1)))),
        (kind::ARRAY, Writer::build(|w| w.doc("0", &empty()))),
        (kind::BINARY, vec![2, 0, 0, 0, 0, 0, 255]),
        (kind::UNDEFINED, Vec::new()),
        (kind::OBJECT_ID, vec![1; 12]),
        (kind::BOOLEAN, vec![1]),
        (kind::DATE, (-1_i64).to_le_bytes().to_vec()),
        (kind::NULL, Vec::new()),
        (kind::REGEX, b"^a.*\0im\0".to_vec()),
        (kind::DB_POINTER, [text(b"shop.orders"), vec![1; 12]].concat()),
        (kind::CODE, text(b"f()")),
        (kind::SYMBOL, text(b"s")),
        (kind::CODE_WITH_SCOPE, [(17_i32).to_le_bytes().to_vec(), text(b"f()"), empty()].concat()),
        (kind::INT32, i32::MIN.to_le_bytes().to_vec()),
        (kind::TIMESTAMP, vec![255; 8]),
        (kind::INT64, i64::MIN.to_le_bytes().to_vec()),
        (kind::DECIMAL128, vec![0x30; 16]),
        (kind::MIN_KEY, Vec::new()),
        (kind::MAX_KEY, Vec::new()),
    ]
}
