//! Hostile guests, written in WebAssembly text, and what the host makes of them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fixtures;
mod guests;
mod hostile;
mod loading;
mod lying;
mod running;
mod self_test;
mod words;
mod workbench;

use std::time::Duration;

use bson_walker::Writer;

use super::limits::Limits;
use super::outcome::{FailureCode, Outcome};
use super::{PluginChain, check};

/// Limits with which a guest that hangs takes no time worth speaking of.
fn quick() -> Limits {
    Limits { time: Duration::from_millis(60), timeouts: 4, memory: 4 << 20, ..Limits::default() }
}

/// An event with this operation and this number.
fn event(op: &str, number: i32) -> Vec<u8> {
    event_with(op, number, |_| {})
}

/// The same, with more fields in its document.
fn event_with(op: &str, number: i32, fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    Writer::build(|body| {
        body.str("op", op);
        let mut ns = body.begin_doc(b"ns");
        ns.str("db", "shop");
        ns.str("coll", "orders");
        ns.end();
        let mut key = body.begin_doc(b"key");
        key.i32("_id", number);
        key.end();
        body.timestamp("clusterTime", 1_700_000_000, 1);
        body.date_millis("wallTime", 1_700_000_000_000);
        let mut after = body.begin_doc(b"after");
        after.i32("_id", number);
        after.str("ssn", "canary-123-45-6789");
        fill(&mut after);
        after.end();
    })
}

fn code(outcome: &Outcome) -> Option<FailureCode> {
    match outcome {
        Outcome::Failed(failure) => Some(failure.code),
        _ => None,
    }
}

/// The chain fails on an `x` event with this code, and only on that one, in this batch and in the next.
#[track_caller]
fn only_the_guilty_fail(chain: &PluginChain, expected: FailureCode) {
    for number in 0..2 {
        let innocent = [event("insert", number), event("update", number), event("delete", number)];
        let [a, b, c] = innocent.clone();
        let outcomes = chain.process(vec![a, event("x", number), b, c]);
        assert_eq!(code(&outcomes[1]), Some(expected));
        for (outcome, body) in [&outcomes[0], &outcomes[2], &outcomes[3]].into_iter().zip(innocent) {
            assert_eq!(outcome, &Outcome::Keep(body));
        }
    }
    let good = event("insert", 7);
    assert_eq!(chain.process(vec![good.clone()]), [Outcome::Keep(good)]);
}
