//! Results that are not what the contract asks for: none is believed.

use bson_walker::{Doc, Writer, validate};
use proptest::collection::vec;
use proptest::prelude::*;

use super::check::{Grants, Verdict, verdicts};
use super::guests::Guest;
use super::{code, event, only_the_guilty_fail};
use crate::plugin::contract::BatchResult;
use crate::plugin::limits::MAX_DEPTH;
use crate::plugin::outcome::{FailureCode, Outcome};

const ALL: Grants = Grants { drop: true, modify: true };

fn judged(doc: Vec<u8>) -> Result<Vec<Verdict>, FailureCode> {
    verdicts(&[&event("update", 1)], &BatchResult { verdicts: vec![1], docs: doc }, ALL)
}

/// The fields of an event, each as the test wants it.
fn body(fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let original = event("update", 1);
    let original = Doc::new(&original).unwrap();
    Writer::build(|w| {
        for name in ["op", "ns", "key", "clusterTime", "wallTime"] {
            w.append(&original.get(name).unwrap());
        }
        fill(w);
    })
}

#[test]
fn a_redacted_event_is_believed() {
    let redacted = body(|w| {
        w.doc("after", &Writer::build(|after| after.str("ssn", "*****6789")));
        w.doc(
            "delta",
            &Writer::build(|delta| {
                delta.doc("updatedFields", &[5, 0, 0, 0, 0]);
                delta.begin_array(b"removedFields").end();
            }),
        );
    });
    assert_eq!(judged(redacted.clone()), Ok(vec![Verdict::Replace(redacted)]));
}

#[test]
fn a_part_may_be_taken_away_and_the_key_redacted() {
    let original = event("update", 1);
    let original = Doc::new(&original).unwrap();
    let redacted = Writer::build(|w| {
        for name in ["op", "ns", "clusterTime", "wallTime"] {
            w.append(&original.get(name).unwrap());
        }
    });
    judged(redacted).unwrap();
    let redacted = Writer::build(|w| {
        w.append(&original.get("op").unwrap());
        w.append(&original.get("ns").unwrap());
        w.doc("key", &Writer::build(|key| key.str("_id", "[redacted]")));
        w.append(&original.get("clusterTime").unwrap());
        w.append(&original.get("wallTime").unwrap());
    });
    judged(redacted).unwrap();
}

#[test]
fn the_identity_can_t_be_changed_added_to_or_taken_away() {
    let original = event("update", 1);
    let original = Doc::new(&original).unwrap();
    for changed in ["op", "ns", "clusterTime", "wallTime"] {
        let with = |replace: &dyn Fn(&mut Writer<'_>)| {
            Writer::build(|w| {
                for element in original.elements().map(Result::unwrap) {
                    if element.name() == changed.as_bytes() { replace(w) } else { w.append(&element) }
                }
            })
        };
        assert_eq!(
            judged(with(&|w| w.str(changed, "other"))),
            Err(FailureCode::IdentityChanged),
            "{changed}"
        );
        assert_eq!(judged(with(&|_| {})), Err(FailureCode::IdentityChanged), "{changed}");
    }
    let bare = Writer::build(|w| w.str("op", "policy"));
    let added = Writer::build(|w| {
        w.str("op", "policy");
        w.date_millis("wallTime", 1);
    });
    let result = BatchResult { verdicts: vec![1], docs: added };
    assert_eq!(verdicts(&[&bare], &result, ALL), Err(FailureCode::IdentityChanged));
}

#[test]
fn fields_that_no_event_has_are_refused() {
    assert_eq!(judged(body(|w| w.i64("policy", 1))), Err(FailureCode::InvalidOutput));
    assert_eq!(judged(body(|w| w.i64("_id", 1))), Err(FailureCode::InvalidOutput));
    assert_eq!(judged(body(|w| w.doc("", &[5, 0, 0, 0, 0]))), Err(FailureCode::InvalidOutput));
}

#[test]
fn duplicate_fields_and_another_order_are_refused() {
    let doc = |w: &mut Writer<'_>, name| w.doc(name, &[5, 0, 0, 0, 0]);
    let twice = body(|w| {
        doc(w, "after");
        doc(w, "after");
    });
    assert_eq!(judged(twice), Err(FailureCode::InvalidOutput));
    let swapped = body(|w| {
        doc(w, "after");
        doc(w, "before");
    });
    assert_eq!(judged(swapped), Err(FailureCode::InvalidOutput));
    let operation_twice = body(|w| w.str("op", "delete"));
    assert_eq!(judged(operation_twice), Err(FailureCode::InvalidOutput));
}

#[test]
fn parts_must_be_documents() {
    for name in ["before", "after", "delta", "images", "txn", "actor", "detail"] {
        judged(body(|w| w.doc(name, &[5, 0, 0, 0, 0]))).unwrap();
        assert_eq!(judged(body(|w| w.str(name, "gone"))), Err(FailureCode::InvalidOutput), "{name}");
        assert_eq!(judged(body(|w| w.null(name))), Err(FailureCode::InvalidOutput), "{name}");
    }
    for name in ["updatedFields", "removedFields", "truncatedArrays", "disambiguatedPaths"] {
        let delta = Writer::build(|w| w.str(name, "[redacted]"));
        assert_eq!(judged(body(|w| w.doc("delta", &delta))), Err(FailureCode::InvalidOutput), "{name}");
    }
}

#[test]
fn nesting_is_bounded() {
    let nested = |levels: usize| {
        (1..levels).fold(vec![5, 0, 0, 0, 0], |inner, _| Writer::build(|w| w.doc("a", &inner)))
    };
    judged(body(|w| w.doc("after", &nested(180)))).unwrap();
    assert_eq!(judged(body(|w| w.doc("after", &nested(200)))), Err(FailureCode::InvalidOutput));
    assert_eq!(judged(body(|w| w.doc("after", &nested(20_000)))), Err(FailureCode::InvalidOutput));
    assert!(validate(&nested(MAX_DEPTH), MAX_DEPTH).is_ok());
    // The event itself is the first level.
    judged(body(|w| w.doc("after", &nested(MAX_DEPTH - 1)))).unwrap();
    assert_eq!(judged(body(|w| w.doc("after", &nested(MAX_DEPTH)))), Err(FailureCode::InvalidOutput));
}

#[test]
fn invalid_bson_is_refused_at_every_cut_and_with_every_length() {
    let good = event("update", 1);
    judged(good.clone()).unwrap();
    for cut in 0..good.len() {
        assert_eq!(judged(good[..cut].to_vec()), Err(FailureCode::InvalidOutput), "cut at {cut}");
    }
    assert_eq!(judged([good.clone(), vec![0]].concat()), Err(FailureCode::InvalidOutput));
    assert_eq!(judged([good.clone(), good.clone()].concat()), Err(FailureCode::InvalidOutput));
}

proptest! {
    /// Whatever is wrong with a document, reading it does not panic, and what is believed is valid and the same event.
    #[test]
    fn what_is_believed_is_valid(changes in vec((0usize..200, any::<u8>()), 1..6)) {
        let original = event("update", 1);
        let mut doc = original.clone();
        for (at, byte) in changes {
            let at = at % doc.len();
            doc[at] = byte;
        }
        if let Ok(believed) = judged(doc.clone()) {
            validate(&doc, MAX_DEPTH).unwrap();
            prop_assert_eq!(believed, vec![Verdict::Replace(doc.clone())]);
            let (original, doc) = (Doc::new(&original).unwrap(), Doc::new(&doc).unwrap());
            for name in ["op", "ns", "clusterTime", "wallTime"] {
                prop_assert_eq!(original.get(name), doc.get(name));
            }
        }
    }
}

#[test]
fn the_verdicts_are_counted() {
    let events = [event("insert", 1), event("insert", 2)];
    let events: Vec<&[u8]> = events.iter().map(Vec::as_slice).collect();
    for list in [Vec::new(), vec![0], vec![0, 0, 0]] {
        let result = BatchResult { verdicts: list, docs: vec![] };
        assert_eq!(verdicts(&events, &result, ALL), Err(FailureCode::InvalidOutput));
    }
    for wrong in 3..=u8::MAX {
        let result = BatchResult { verdicts: vec![0, wrong], docs: vec![] };
        assert_eq!(verdicts(&events, &result, ALL), Err(FailureCode::InvalidOutput));
    }
    let result = BatchResult { verdicts: vec![0, 2], docs: vec![] };
    assert_eq!(verdicts(&events, &result, ALL), Ok(vec![Verdict::Keep, Verdict::Drop]));
}

#[test]
fn a_plugin_that_changes_the_operation_fails_on_that_event_alone() {
    let guest = Guest::on_x("(i32.store8 offset=12 (local.get $at) (i32.const 121))");
    only_the_guilty_fail(&guest.chain(), FailureCode::IdentityChanged);
}

#[test]
fn a_plugin_that_breaks_an_event_fails_on_that_event_alone() {
    // The type byte of `op`, and the length of the document.
    let guest = Guest::on_x("(i32.store8 offset=4 (local.get $at) (i32.const 99))");
    only_the_guilty_fail(&guest.chain(), FailureCode::InvalidOutput);
    let guest = Guest::on_x("(i32.store (local.get $at) (i32.sub (local.get $len) (i32.const 1)))");
    only_the_guilty_fail(&guest.chain(), FailureCode::InvalidOutput);
}

#[test]
fn an_unknown_verdict_fails_on_that_event_alone() {
    only_the_guilty_fail(&Guest::on_x("(return (i32.const 7))").chain(), FailureCode::InvalidOutput);
}

#[test]
fn dropping_needs_the_grant() {
    let guest = Guest { may_drop: false, ..Guest::on_x("(return (i32.const 2))") };
    only_the_guilty_fail(&guest.chain(), FailureCode::DropNotGranted);
    let outcomes =
        Guest::on_x("(return (i32.const 2))").chain().process(vec![event("x", 1), event("insert", 2)]);
    assert_eq!(outcomes, [Outcome::Dropped { plugin: "guest".into() }, Outcome::Keep(event("insert", 2))]);
}

#[test]
fn modifying_needs_the_grant() {
    let judge = Guest::on_x("(return (i32.const 1))").judge.replace("(i32.const 1)", "(i32.const 0)");
    let judge = judge.replacen("(i32.const 0)", "(i32.const 1)", 1);
    let guest = Guest { may_modify: false, judge, ..Guest::default() };
    only_the_guilty_fail(&guest.chain(), FailureCode::ModifyNotGranted);
}

#[test]
fn a_plugin_that_lies_about_every_batch_gets_nothing_through() {
    let lies = [
        // One verdict fewer, one more, bytes after the last document, a document cut short, lists outside the memory.
        "(i32.store offset=8 (local.get $out) (i32.sub (local.get $count) (i32.const 1)))",
        "(i32.store offset=8 (local.get $out) (i32.add (local.get $count) (i32.const 1)))",
        "(i32.store offset=16 (local.get $out) (i32.add (local.get $size) (i32.const 1)))",
        "(i32.store offset=16 (local.get $out) (i32.sub (local.get $size) (i32.const 1)))",
        "(i32.store offset=12 (local.get $out) (i32.const -8))",
        "(i32.store offset=16 (local.get $out) (i32.const -1))",
        "(i32.store8 (local.get $out) (i32.const 9))",
        "(local.set $out (i32.const -4))",
        "(local.set $out (i32.const 769))",
    ];
    for lie in lies {
        let chain = Guest { result: lie.into(), ..Guest::default() }.chain();
        for outcome in chain.process((0..5).map(|n| event("insert", n)).collect()) {
            assert_eq!(code(&outcome), Some(FailureCode::InvalidOutput), "{lie}");
        }
    }
}

#[test]
fn a_plugin_that_wants_its_events_outside_its_memory_gets_none() {
    let alloc = "(if (i32.gt_u (local.get $size) (i32.const 64)) (then (return (i32.const -64))))";
    let chain = Guest { alloc: alloc.into(), ..Guest::default() }.chain();
    let outcomes = chain.process(vec![event("insert", 1)]);
    assert_eq!(code(&outcomes[0]), Some(FailureCode::InvalidOutput));
}
