//! What plugins cost: nanoseconds an event, in the sandbox that captures use and natively, and their ratios.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, ensure};
use archiver::config::Config;
use archiver::plugin::{Outcome, PluginChain};
use archiver_tests::tools;
use bson::{DateTime, Document, Timestamp, doc, oid::ObjectId};
use plugin_sdk::batch;
use plugin_sdk::prelude::*;
use redact::Redact;

use crate::spread::Spread;

/// Events in one batch: what `archiver` takes by default.
const BATCH: usize = 1_000;

const PATHS: &str = r#"
    { path = "card.pan", action = "remove" }, { path = "card.cvc", action = "remove" },
    { path = "**.ssn", action = "mask", keep_last = 4 }, { path = "customer.email", action = "replace", value = "[redacted]" },
    { path = "customer.phone", action = "mask", keep_last = 2 }, { path = "items.note", action = "remove" },
    { path = "**.password", action = "remove" }, { path = "shipping.address", action = "mask" },
    { path = "meta.*.token", action = "remove" }, { path = "iban", action = "mask", keep_last = 4 }"#;
const KINDS: &str = r#"
    { find = "card", action = "mask", keep_last = 4 }, { find = "email", action = "mask" }, { find = "iban", action = "mask" }"#;
const REGEX: &str = r#"{ find = { regex = '\b\d{3}-\d{2}-\d{4}\b' }, action = "mask" }"#;

/// Keeps every event unseen.
struct Empty;

impl Plugin for Empty {
    const NAME: &'static str = "empty";

    fn configure(_config: &str) -> Result<Self, String> {
        Ok(Empty)
    }

    fn process(&self, _event: Event<'_>, _out: &mut Output<'_>) -> Result<Verdict, String> {
        Ok(Verdict::Keep)
    }
}

/// Measures every chain, so many rounds each.
pub(crate) fn run(rounds: usize) -> Result<()> {
    let events: Vec<Vec<u8>> = (0..BATCH as i64).map(event).collect::<Result<_>>()?;
    let bytes: usize = events.iter().map(Vec::len).sum();
    println!(
        "{BATCH} events of {} bytes in a batch; least / median / most of {rounds} rounds, ns an event",
        bytes / BATCH
    );
    let redact = |parts: &[&str]| ("redact", format!("rules = [{}]", parts.join(",")));
    // Of the plugins for tests, this one keeps what does not ask for mischief.
    let empty = || ("misbehave", String::new());
    let chains = [
        ("empty", vec![empty()]),
        ("redact, ten paths", vec![redact(&[PATHS])]),
        ("redact, card, email, iban", vec![redact(&[KINDS])]),
        ("redact, these and a regex", vec![redact(&[KINDS, REGEX])]),
        ("redact, all of it", vec![redact(&[PATHS, KINDS, REGEX])]),
        ("chain of three", vec![empty(), redact(&[PATHS]), redact(&[KINDS, REGEX])]),
    ];
    let mut nothing = None;
    for (name, plugins) in chains {
        let (chain, configs) = load(&plugins)?;
        let inside = (0..rounds).map(|_| sandboxed(&chain, &events)).collect::<Result<Vec<_>>>()?;
        let outside = (0..rounds).map(|_| native(&configs, &events)).collect::<Result<Vec<_>>>()?;
        let (inside, outside) = (Spread::of(inside), Spread::of(outside));
        let nothing = *nothing.get_or_insert(inside.at(0.0));
        println!(
            "{name:26} sandboxed {inside:.0}, native {outside:.0}; {:.2} times native, {:.1} times empty",
            inside.at(0.0) / outside.at(0.0),
            inside.at(0.0) / nothing,
        );
    }
    Ok(())
}

/// A chain as the archiver loads it, from a configuration file; and what `redact`s in it are configured with.
fn load(plugins: &[(&str, String)]) -> Result<(PluginChain, Vec<Option<String>>)> {
    let mut text =
        String::from("[mongodb]\nuri = \"mongodb://127.0.0.1/\"\n[archive]\nurl = \"file:///nowhere\"\n\n");
    for (i, (plugin, config)) in plugins.iter().enumerate() {
        let file = tools::plugin(plugin);
        let (path, sha256) = (file.display(), tools::sha256(&file));
        text += &format!(
            "[[plugin]]\nname = \"p{i}\"\npath = \"{path}\"\nsha256 = \"{sha256}\"\n[plugin.config]\n{config}\n\n"
        );
    }
    let names: Vec<_> = (0..plugins.len()).map(|i| format!("\"p{i}\"")).collect();
    text += &format!("[[source]]\nname = \"s\"\nwatch = [\"shop.*\"]\nplugins = [{}]\n", names.join(", "));
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("archiver.toml");
    std::fs::write(&file, text)?;
    let loaded = Config::load(&file)?.plugins;
    let configs = loaded.iter().zip(plugins);
    let configs = configs
        .map(|(p, (name, _))| (*name == "redact").then(|| p.config_json.expose().to_owned()))
        .collect();
    Ok((PluginChain::load(&loaded.iter().collect::<Vec<_>>(), false)?, configs))
}

fn sandboxed(chain: &PluginChain, events: &[Vec<u8>]) -> Result<f64> {
    let bodies = events.to_vec();
    let started = Instant::now();
    let outcomes = black_box(chain.process(black_box(bodies)));
    let elapsed = started.elapsed();
    ensure!(outcomes.iter().all(|o| matches!(o, Outcome::Keep(_))), "a plugin failed");
    Ok(elapsed.as_nanos() as f64 / events.len() as f64)
}

/// The same work without a sandbox, and without what the host checks: configured afresh, too, as for every batch.
fn native(configs: &[Option<String>], events: &[Vec<u8>]) -> Result<f64> {
    let mut bytes = events.concat();
    let mut nanoseconds = 0;
    for config in configs {
        let started = Instant::now();
        let done = match config {
            None => batch::process(&Empty, &bytes),
            Some(config) => batch::process(&Redact::configure(config).map_err(anyhow::Error::msg)?, &bytes),
        };
        nanoseconds += started.elapsed().as_nanos();
        let done = done.map_err(|e| anyhow::anyhow!(e.message))?;
        if done.verdicts.iter().all(|verdict| *verdict == Verdict::Replace as u8) {
            bytes = done.docs;
        }
    }
    Ok(nanoseconds as f64 / events.len() as f64)
}

/// An insert of an order with something for every rule.
pub(crate) fn event(i: i64) -> Result<Vec<u8>> {
    let item = |n: i32| doc! {"sku": format!("sku-{n}-{i}"), "qty": n, "price": 12.5 * f64::from(n), "note": "leave at the door"};
    let order: Document = doc! {
        "_id": ObjectId::new(), "number": i, "status": "paid", "currency": "EUR", "total": 129.95, "iban": "DE89370400440532013000",
        "customer": {"id": i * 7, "name": "Ann Example", "email": "ann@example.org", "phone": "+49 170 1234567", "ssn": "123-45-6789"},
        "card": {"brand": "visa", "pan": "4111111111111111", "cvc": "123", "exp": "12/29"},
        "items": [item(1), item(2), item(3), item(4), item(5)],
        "shipping": {"method": "post", "address": {"street": "Main Street 1", "city": "Springfield", "zip": "12345"}},
        "meta": {"web": {"agent": "Mozilla/5.0 (X11; Linux x86_64)", "token": "abcdef"}, "tags": ["new", "gift"]},
        "note": "nothing of interest here, only a text of some length to fill the document", "updatedBy": "service-7",
    };
    let event = doc! {
        "op": "insert", "ns": {"db": "shop", "coll": "orders"}, "key": {"_id": order.get_object_id("_id")?},
        "clusterTime": Timestamp { time: 1_700_000_000, increment: i as u32 }, "wallTime": DateTime::now(), "after": order,
    };
    Ok(event.to_vec()?)
}
