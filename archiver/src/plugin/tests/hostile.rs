//! Further attacks on the host: on its memory, on the functions it calls and is called by, and for a long time.

use std::time::Duration;

use bson_walker::{Doc, Writer};

use super::guests::{File, Guest};
use super::{code, event, event_with, only_the_guilty_fail, quick};
use crate::plugin::limits::{Limits, MAX_DOCUMENT};
use crate::plugin::outcome::{FailureCode, Outcome};
use crate::plugin::{PluginChain, check};

/// Every event of a batch fails like this, and a well-behaved plugin works right after.
#[track_caller]
fn all_fail(guest: &Guest, expected: FailureCode) {
    let outcomes = guest.chain().process((0..3).map(|n| event("insert", n)).collect());
    assert!(outcomes.iter().all(|outcome| code(outcome) == Some(expected)), "{outcomes:?}");
    assert!(!format!("{outcomes:?}").contains("canary"));
    let good = event("insert", 7);
    assert_eq!(Guest::default().chain().process(vec![good.clone()]), [Outcome::Keep(good)]);
}

/// On batches of events only, not when it is given its configuration.
const FOR_EVENTS: &str = "(i32.gt_u (local.get $size) (i32.const 64))";

#[test]
fn an_allocator_that_misbehaves_gets_no_events() {
    let alloc = |does: &str| Guest { alloc: format!("(if {FOR_EVENTS} (then {does}))"), ..Guest::default() };
    all_fail(&alloc("unreachable"), FailureCode::Trap);
    all_fail(&alloc("(loop $for_ever (br $for_ever))"), FailureCode::Timeout);
    // Behind the end of memory, and so that the last byte is.
    all_fail(&alloc("(return (i32.const 0x7ffffff8))"), FailureCode::InvalidOutput);
    all_fail(
        &alloc("(return (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 8)))"),
        FailureCode::InvalidOutput,
    );
    // Whoever wants the events on top of its own data gets them there; it spoils nobody else's.
    let outcomes = alloc("(return (i32.const 0))").chain().process(vec![event("insert", 1)]);
    assert!(matches!(&outcomes[0], Outcome::Failed(_)) || outcomes == [Outcome::Keep(event("insert", 1))]);
}

#[test]
fn the_log_function_believes_nothing_either() {
    let log = |level: &str, at: &str, len: &str| {
        Guest::on_x(&format!("(call $log (i32.const {level}) (i32.const {at}) (i32.const {len}))"))
    };
    for guest in [
        log("1", "-8", "64"),
        log("1", "1024", "0x7fffffff"),
        log("9", "1024", "5"),
        Guest { fields: r#"(data (i32.const 2048) "\ff\fe")"#.into(), ..log("1", "2048", "2") },
    ] {
        let chain = guest.chain();
        let outcomes = chain.process(vec![event("insert", 1), event("x", 2), event("insert", 3)]);
        assert!(
            matches!(code(&outcomes[1]), Some(FailureCode::Trap | FailureCode::InvalidOutput)),
            "{outcomes:?}"
        );
        assert_eq!(outcomes[2], Outcome::Keep(event("insert", 3)));
    }
    // A megabyte is looked at as far as anybody wants to know.
    let guest = Guest { pages: 20, ..log("3", "200000", "1000000") };
    assert_eq!(guest.chain().process(vec![event("x", 1)]), [Outcome::Keep(event("x", 1))]);
}

#[test]
fn huge_and_aliased_results_are_bounded() {
    let memory = "(i32.mul (memory.size) (i32.const 65536))";
    // Both lists are the whole memory: together more than crosses in one call.
    let aliased = format!(
        "(drop (memory.grow (i32.const 40)))
        (i32.store offset=4 (local.get $out) (i32.const 0)) (i32.store offset=8 (local.get $out) {memory})
        (i32.store offset=12 (local.get $out) (i32.const 0)) (i32.store offset=16 (local.get $out) {memory})"
    );
    let aliased = Guest { result: aliased, ..Guest::default() };
    all_fail(&aliased, FailureCode::InvalidOutput);
    // Not because of what they hold: they are not copied.
    let fault = aliased.chain().stages[0].run(&[&event("insert", 1)]).unwrap_err();
    assert!(fault.detail.contains("too much data"), "{}", fault.detail);
    let refusal = |at: &str, len: &str| {
        Guest {
        result: format!(
            "(i32.store8 (local.get $out) (i32.const 1))
            (i32.store offset=8 (local.get $out) (i32.const {at})) (i32.store offset=12 (local.get $out) (i32.const {len}))"
        ),
        ..Guest::default()
    }
    };
    // An error message of a gigabyte, one outside of memory, one that is no text.
    all_fail(&refusal("0", "0x40000000"), FailureCode::InvalidOutput);
    all_fail(&refusal("-16", "8"), FailureCode::InvalidOutput);
    let not_text = Guest { fields: r#"(data (i32.const 2048) "\c3\28")"#.into(), ..refusal("2048", "2") };
    all_fail(&not_text, FailureCode::InvalidOutput);
    all_fail(&Guest { pages: 20, ..refusal("200000", "1000000") }, FailureCode::Refused);
}

#[test]
fn a_table_may_not_grow_without_end() {
    let grown = |by: u32| Guest {
        fields: "(table $table 1 funcref)".into(),
        ..Guest::on_x(&format!("(drop (table.grow $table (ref.null func) (i32.const {by})))"))
    };
    let x = || vec![event("x", 1)];
    assert_eq!(grown(19_000).chain().process(x()), [Outcome::Keep(event("x", 1))]);
    assert_eq!(code(&grown(20_000).chain().process(x())[0]), Some(FailureCode::Memory));
}

#[test]
fn a_document_may_not_outgrow_what_mongodb_stores() {
    let small = event("insert", 1);
    let grown = |bytes: usize| event_with("insert", 1, |after| after.binary("bulk", 0, &vec![7; bytes]));
    let overhead = {
        let event: Vec<u8> = grown(0);
        Doc::new(&event).unwrap().get("after").unwrap().value().len()
    };
    let judged = |event: &[u8], docs: Vec<u8>| {
        let result = crate::plugin::contract::BatchResult { verdicts: vec![1], docs };
        check::verdicts(&[event], &result, check::Grants::ALL).map(|_| ())
    };
    let largest = grown(MAX_DOCUMENT - overhead);
    assert_eq!(judged(&small, largest), Ok(()));
    let too_large = grown(MAX_DOCUMENT - overhead + 1);
    assert_eq!(judged(&small, too_large.clone()), Err(FailureCode::InvalidOutput));
    // One that came so large may stay so.
    assert_eq!(judged(&too_large, too_large.clone()), Ok(()));
}

#[test]
fn a_component_with_more_parts_than_a_plugin_has_is_refused() {
    let instances = "(core instance (instantiate $m))".repeat(100);
    let wat = format!("(component (core module $m (memory 1)) {instances})");
    let error = File::new(&super::guests::wat_bytes(&wat)).load(quick()).unwrap_err();
    assert!(error.explain().contains("guest"), "{}", error.explain());
    Guest::default().chain();
}

/// The resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn memory_does_not_grow_with_faults() {
    let limits = Limits { time: Duration::from_millis(20), ..quick() };
    let load = |guest: Guest| File::new(&guest.module()).load(limits).unwrap();
    let chains: Vec<PluginChain> = vec![
        load(Guest::on_x("unreachable")),
        load(Guest::on_x("(drop (i32.load (i32.const -4)))")),
        load(Guest::on_x("(loop $more (drop (memory.grow (i32.const 16))) (br $more))")),
        load(Guest::on_x("(return (i32.const 7))")),
        load(Guest::on_x("(call $log (i32.const 3) (local.get $at) (i32.const 200)) unreachable")),
        load(Guest {
            result: "(i32.store offset=16 (local.get $out) (i32.const -1))".into(),
            ..Guest::default()
        }),
    ];
    let round = |times: usize| {
        for _ in 0..times {
            for chain in &chains {
                let outcomes = chain.process(vec![event("x", 1), event("insert", 2)]);
                assert!(code(&outcomes[0]).is_some());
            }
        }
    };
    round(50);
    let before = resident();
    round(400);
    let grown = resident().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more after 2,400 faults");
    let body = Writer::build(|w| w.str("op", "insert"));
    assert_eq!(chains[0].process(vec![body.clone()]), [Outcome::Keep(body)]);
}

#[test]
fn only_the_event_with_the_bomb_in_it_is_lost_among_many() {
    let guest = Guest::on_x("(loop $more (drop (memory.grow (i32.const 16))) (br $more))");
    only_the_guilty_fail(&guest.chain(), FailureCode::Memory);
    let chain = guest.chain();
    let guilty = [3, 499, 999];
    let bodies = (0..1000).map(|n| event(if guilty.contains(&n) { "x" } else { "insert" }, n)).collect();
    for (n, outcome) in (0..).zip(chain.process(bodies)) {
        match guilty.contains(&n) {
            true => assert_eq!(code(&outcome), Some(FailureCode::Memory)),
            false => assert_eq!(outcome, Outcome::Keep(event("insert", n))),
        }
    }
}

#[test]
fn what_each_plugin_did_is_counted() {
    let drops = File::new(&Guest::on_x("(return (i32.const 2))").module());
    let mut fails = File::new(
        &Guest {
            judge: Guest::on_x("unreachable").judge.replace("(i32.const 120)", "(i32.const 100)"),
            ..Guest::default()
        }
        .module(),
    );
    fails.config.name = "second".into();
    let chain = PluginChain::load_within(&[&drops.config, &fails.config], false, quick()).unwrap();
    let events = ["x", "x", "delete", "insert", "update", "update"];
    let (_, counters) = chain.process_counting(events.iter().zip(0..).map(|(op, n)| event(op, n)).collect());
    let (first, second) = (counters["guest"], counters["second"]);
    assert_eq!((first.kept, first.replaced, first.dropped, first.failed), (0, 4, 2, 0));
    assert_eq!((second.kept, second.replaced, second.dropped, second.failed), (0, 3, 0, 1));
    assert!(first.micros > 0 && first.events() == 6 && second.events() == 4);
}
