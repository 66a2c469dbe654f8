//! Runs a plugin natively, through the same glue as in the sandbox, for `cargo test`.
//!
//! ```
//! use plugin_sdk::prelude::*;
//! use plugin_sdk::testing::{insert, left};
//!
//! struct Hide;
//!
//! impl Plugin for Hide {
//!     const NAME: &'static str = "hide";
//!     fn configure(_config: &str) -> Result<Self, String> {
//!         Ok(Hide)
//!     }
//!     fn process(&self, event: Event<'_>, out: &mut Output<'_>) -> Result<Verdict, String> {
//!         event.rewrite(out, |path, _value| match path.leaf() {
//!             "email" => Action::Mask { keep_last: 0 },
//!             _ => Action::Keep,
//!         })
//!     }
//! }
//!
//! let event = insert("shop.customers", r#"{"_id": 1, "contacts": [{"email": "ann@example.org"}]}"#);
//! assert_eq!(left(&Hide, &event)["after"]["contacts"][0]["email"], "***");
//! ```

mod json;

use serde_json::Value as Json;

pub use json::to_json;

use crate::batch;
use crate::plugin::Plugin;

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It stays as it is.
    Kept,
    /// This BSON document takes its place.
    Replaced(Vec<u8>),
    /// It is left out.
    Dropped,
}

impl Outcome {
    /// The bytes that go on to the history: the event's own where it was kept, none where it was dropped.
    pub fn into_bytes(self, event: &[u8]) -> Option<Vec<u8>> {
        match self {
            Outcome::Kept => Some(event.to_vec()),
            Outcome::Replaced(bytes) => Some(bytes),
            Outcome::Dropped => None,
        }
    }
}

/// Processes one event, given as BSON bytes.
pub fn run<P: Plugin>(plugin: &P, event: impl AsRef<[u8]>) -> Result<Outcome, String> {
    let batch = batch::process(plugin, event.as_ref()).map_err(|e| e.message)?;
    match batch.verdicts[..] {
        [0] => Ok(Outcome::Kept),
        [1] => Ok(Outcome::Replaced(batch.docs)),
        [2] => Ok(Outcome::Dropped),
        _ => Err(format!("expected one event, got {}", batch.verdicts.len())),
    }
}

/// An event from JSON text, in the layout that plugins get: `{"op": …, "ns": {"db": …, "coll": …}, …}`. Fields come in the
/// text's order.
///
/// Extended JSON's `$oid`, `$numberInt`, `$numberLong`, `$numberDouble`, `$date` (milliseconds), `$timestamp` and `$uuid` are
/// understood; whole numbers are Int32 where they fit. Build values of other types with [`bson_walker::Writer`].
///
/// # Panics
///
/// Where the text is not such a document.
#[track_caller]
pub fn event(text: &str) -> Vec<u8> {
    match json::to_bson(text) {
        Ok(bytes) => bytes,
        Err(what) => panic!("this is no event: {what}: {text}"),
    }
}

/// The event of a document that was inserted into `"database.collection"`. The document is JSON text as in [`event`].
///
/// # Panics
///
/// Where the namespace has no dot or the text is not a document.
#[track_caller]
pub fn insert(ns: &str, document: &str) -> Vec<u8> {
    let after = parse(document);
    let key = after.get("_id").map(|id| serde_json::json!({"_id": id})).unwrap_or_default();
    build("insert", ns, key, ("after", after))
}

/// The event of an update of the document with this key by this delta, such as
/// `{"updatedFields": {"items.0.sku": "x"}, "removedFields": []}`, both JSON text as in [`event`].
///
/// # Panics
///
/// Where the namespace has no dot or the texts are not documents.
#[track_caller]
pub fn update(ns: &str, key: &str, delta: &str) -> Vec<u8> {
    build("update", ns, parse(key), ("delta", parse(delta)))
}

#[track_caller]
fn build(op: &str, ns: &str, key: Json, (name, part): (&str, Json)) -> Vec<u8> {
    let Some((db, coll)) = ns.split_once('.') else { panic!("not database.collection: {ns}") };
    let mut fields = serde_json::json!({"op": op, "ns": {"db": db, "coll": coll}});
    if !key.is_null() {
        fields["key"] = key;
    }
    fields["clusterTime"] = serde_json::json!({"$timestamp": {"t": 1_700_000_000, "i": 1}});
    fields["wallTime"] = serde_json::json!({"$date": {"$numberLong": "1700000000000"}});
    fields[name] = part;
    event(&fields.to_string())
}

#[track_caller]
fn parse(text: &str) -> Json {
    match serde_json::from_str(text) {
        Ok(json @ Json::Object(_)) => json,
        Ok(_) => panic!("not a document: {text}"),
        Err(e) => panic!("not JSON: {e}: {text}"),
    }
}

/// What the plugin leaves of an event, as JSON: the event itself where it is kept. Types that JSON does not have are written as in
/// Extended JSON.
///
/// # Panics
///
/// Where the plugin drops the event or fails on it.
#[track_caller]
pub fn left<P: Plugin>(plugin: &P, event: impl AsRef<[u8]>) -> Json {
    let event = event.as_ref();
    match run(plugin, event) {
        Ok(outcome) => match outcome.into_bytes(event) {
            Some(bytes) => to_json(&bytes),
            None => panic!("the plugin dropped the event: {}", to_json(event)),
        },
        Err(what) => panic!("the plugin failed on the event: {what}: {}", to_json(event)),
    }
}

/// Panics unless the plugin keeps the event as it is.
#[track_caller]
pub fn assert_kept<P: Plugin>(plugin: &P, event: impl AsRef<[u8]>) {
    expect(plugin, event.as_ref(), &Outcome::Kept);
}

/// Panics unless the plugin drops the event.
#[track_caller]
pub fn assert_dropped<P: Plugin>(plugin: &P, event: impl AsRef<[u8]>) {
    expect(plugin, event.as_ref(), &Outcome::Dropped);
}

/// Panics unless the plugin replaces the event by this one, byte for byte.
#[track_caller]
pub fn assert_replaced<P: Plugin>(plugin: &P, event: impl AsRef<[u8]>, by: impl AsRef<[u8]>) {
    expect(plugin, event.as_ref(), &Outcome::Replaced(by.as_ref().to_vec()));
}

/// Panics unless the plugin fails on the event; gives its message.
#[track_caller]
pub fn assert_fails<P: Plugin>(plugin: &P, event: impl AsRef<[u8]>) -> String {
    match run(plugin, event.as_ref()) {
        Err(message) => message,
        Ok(outcome) => panic!("the plugin should fail; instead: {}", show(&outcome)),
    }
}

#[track_caller]
fn expect<P: Plugin>(plugin: &P, event: &[u8], wanted: &Outcome) {
    let got = run(plugin, event);
    if got.as_ref() == Ok(wanted) {
        return;
    }
    let got = got.map_or_else(|what| format!("failed: {what}"), |outcome| show(&outcome));
    panic!("wrong outcome\n   event: {}\n  wanted: {}\n     got: {got}", to_json(event), show(wanted));
}

fn show(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Kept => "kept".into(),
        Outcome::Dropped => "dropped".into(),
        Outcome::Replaced(bytes) => format!("replaced by {}", to_json(bytes)),
    }
}

/// How long the plugin takes natively, in nanoseconds per event, once for each round: as in the sandbox, it is
/// configured anew for every batch of 256. `events` are concatenated BSON documents. For `archiver plugin bench`.
#[cfg(not(target_arch = "wasm32"))]
pub fn bench<P: Plugin>(config: &str, events: &[u8], rounds: usize) -> Result<Vec<f64>, String> {
    use std::hint::black_box;
    use std::time::Instant;

    const BATCH: usize = 256;
    let mut batches = vec![(0, 0..0)];
    let mut rest = events;
    while !rest.is_empty() {
        let (_, after) = bson_walker::Doc::split(rest).map_err(|e| e.to_string())?;
        let end = events.len() - after.len();
        match batches.last_mut() {
            Some((count, bytes)) if *count < BATCH => (*count, bytes.end) = (*count + 1, end),
            _ => batches.push((1, events.len() - rest.len()..end)),
        }
        rest = after;
    }
    let count: usize = batches.iter().map(|(count, _)| count).sum();
    let round = || {
        let start = Instant::now();
        for (_, bytes) in &batches {
            let plugin = P::configure(black_box(config))?;
            let batch = batch::process(&plugin, black_box(&events[bytes.clone()]));
            black_box(batch.map_err(|e| e.message)?);
        }
        Ok(start.elapsed().as_nanos() as f64 / count.max(1) as f64)
    };
    (0..rounds).map(|_| round()).collect()
}
