//! Prints what redaction costs natively, in nanoseconds an event: `cargo run --release -p redact --example speed`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Instant;

use bson::{Document, doc, oid::ObjectId};
use plugin_sdk::batch::process;
use plugin_sdk::prelude::*;
use redact::Redact;

const TEN: &str = r#"{"rules":[
 {"path":"card.pan","action":"remove"},{"path":"card.cvc","action":"remove"},{"path":"**.ssn","action":"mask","keep_last":4},
 {"path":"customer.email","action":"replace","value":"[redacted]"},{"path":"customer.phone","action":"mask","keep_last":2},
 {"path":"items.note","action":"remove"},{"path":"**.password","action":"remove"},{"path":"shipping.address","action":"mask"},
 {"path":"meta.*.token","action":"remove"},{"path":"iban","action":"mask","keep_last":4}]}"#;

fn order(i: i64) -> Document {
    let item = |n: i32| doc! {"sku": format!("sku-{n}-{i}"), "qty": n, "price": 12.5 * f64::from(n), "note": "leave at the door"};
    doc! {
        "_id": ObjectId::new(), "number": i, "status": "paid", "currency": "EUR", "total": 129.95, "iban": "DE89370400440532013000",
        "customer": {"id": i * 7, "name": "Ann Example", "email": "ann@example.org", "phone": "+49 170 1234567", "ssn": "123-45-6789"},
        "card": {"brand": "visa", "pan": "4111111111111111", "cvc": "123", "exp": "12/29"},
        "items": [item(1), item(2), item(3)],
        "shipping": {"method": "post", "address": {"street": "Main Street 1", "city": "Springfield", "zip": "12345"}},
        "meta": {"web": {"agent": "Mozilla/5.0 (X11; Linux x86_64)", "token": "abcdef"}, "tags": ["new", "gift"]},
        "note": "nothing of interest here, only a text of some length to fill the document", "updatedBy": "service-7",
    }
}

fn batch(events: usize, filler: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for i in 0..events as i64 {
        let key = doc! {"_id": ObjectId::new()};
        let mut after = order(i);
        if filler {
            for name in ["iban", "customer", "card", "items", "shipping", "meta"] {
                after.remove(name);
            }
            after.insert(
                "lines",
                (0..12)
                    .map(|n| doc! {"sku": format!("sku-{n}"), "qty": n, "at": "shelf 12"})
                    .collect::<Vec<_>>(),
            );
        }
        let event = doc! {"op": "insert", "ns": {"db": "shop", "coll": "orders"}, "key": key,
        "clusterTime": bson::Timestamp { time: 1_700_000_000, increment: 1 }, "wallTime": bson::DateTime::now(), "after": after};
        bytes.extend(event.to_vec().unwrap());
    }
    bytes
}

fn main() {
    let plugin = Redact::configure(TEN).unwrap();
    for (name, filler) in [("ten rules, all match", false), ("ten rules, none matches", true)] {
        let events = 256;
        let bytes = batch(events, filler);
        if let Some(path) = std::env::args().nth(1) {
            std::fs::write(format!("{path}.{filler}"), &bytes).unwrap();
        }
        let best = (0..300)
            .map(|_| {
                let started = Instant::now();
                std::hint::black_box(process(&plugin, std::hint::black_box(&bytes)).unwrap());
                started.elapsed().as_nanos() / events as u128
            })
            .min();
        println!("{name}: {} ns an event of {} bytes", best.unwrap_or(0), bytes.len() / events);
    }
    let started = Instant::now();
    for _ in 0..1000 {
        std::hint::black_box(Redact::configure(TEN).unwrap());
    }
    println!("configure: {} ns", started.elapsed().as_nanos() / 1000);
}
