//! Guests that misbehave while they run: the host survives, the innocent events go on, nothing of the guilty one does.

use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::guests::{File, Guest};
use super::{code, event, event_with, only_the_guilty_fail, quick};
use crate::plugin::PluginChain;
use crate::plugin::limits::Limits;
use crate::plugin::outcome::{FailureCode, Outcome};
use crate::plugin::sandbox::tick;
use crate::plugin::stage::batches;

const HANG: &str = "(loop $for_ever (br $for_ever))";

#[test]
fn an_empty_chain_keeps_everything_without_copying() {
    let chain = PluginChain::load(&[], false).unwrap();
    let body = event("insert", 1);
    let address = body.as_ptr();
    let outcomes = chain.process(vec![body]);
    assert!(matches!(&outcomes[0], Outcome::Keep(body) if body.as_ptr() == address));
    assert_eq!(chain.process(vec![]), []);
}

#[test]
fn a_chain_can_be_shared_between_threads() {
    let chain = Guest::default().chain();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let chain = &chain;
            scope.spawn(move || {
                for _ in 0..20 {
                    assert_eq!(chain.process(vec![event("insert", n)]), [Outcome::Keep(event("insert", n))]);
                }
            });
        }
    });
}

#[test]
fn a_trap_fails_that_event_alone() {
    only_the_guilty_fail(&Guest::on_x("unreachable").chain(), FailureCode::Trap);
    let out_of_bounds = Guest::on_x("(drop (i32.load (i32.const -4)))");
    only_the_guilty_fail(&out_of_bounds.chain(), FailureCode::Trap);
    let division = Guest::on_x("(drop (i32.div_u (i32.const 1) (i32.const 0)))");
    only_the_guilty_fail(&division.chain(), FailureCode::Trap);
}

#[test]
fn a_deep_recursion_fails_that_event_alone() {
    let mut guest = Guest::on_x("(call $deeper (i32.const 1) (i64.const 2))");
    guest.fields = "(func $deeper (param i32 i64) (call $deeper (local.get 0) (local.get 1)) (call $deeper (local.get 0) (local.get 1)))".into();
    only_the_guilty_fail(&guest.chain(), FailureCode::Trap);
}

#[test]
fn a_hang_fails_that_event_alone() {
    let started = Instant::now();
    only_the_guilty_fail(&Guest::on_x(HANG).chain(), FailureCode::Timeout);
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

#[test]
fn a_plugin_that_hangs_on_everything_does_not_hold_up_its_source_for_ever() {
    let chain = Guest { judge: format!("{HANG} (i32.const 0)"), ..Guest::default() }.chain();
    let started = Instant::now();
    let outcomes = chain.process((0..500).map(|n| event("insert", n)).collect());
    assert!(outcomes.iter().all(|o| code(o) == Some(FailureCode::Timeout)));
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

#[test]
fn a_memory_bomb_fails_that_event_alone() {
    let bomb = Guest::on_x("(loop $more (drop (memory.grow (i32.const 16))) (br $more))");
    only_the_guilty_fail(&bomb.chain(), FailureCode::Memory);
    let table = Guest {
        fields: "(table $t 1 funcref)".into(),
        ..Guest::on_x("(drop (table.grow $t (ref.null func) (i32.const 1000000)))")
    };
    only_the_guilty_fail(&table.chain(), FailureCode::Memory);
}

#[test]
fn an_error_for_an_event_fails_that_event_alone() {
    let guest = Guest {
        fields: "(global $bad (mut i32) (i32.const -1)) (global $n (mut i32) (i32.const 0))".into(),
        result: "(if (i32.ge_s (global.get $bad) (i32.const 0)) (then
            (i32.store8 (local.get $out) (i32.const 1)) (i32.store offset=4 (local.get $out) (global.get $bad))
            (i32.store offset=8 (local.get $out) (i32.const 1024)) (i32.store offset=12 (local.get $out) (i32.const 5))))"
            .into(),
        ..Guest::on_x("(global.set $bad (i32.const 4000000))")
    };
    // It even names a place that does not exist.
    only_the_guilty_fail(&guest.chain(), FailureCode::Refused);
}

#[test]
fn several_guilty_events_are_all_found() {
    let chain = Guest::on_x("unreachable").chain();
    let guilty = |n: i32| n % 7 == 3 || n == 99;
    let bodies = (0..100).map(|n| event(if guilty(n) { "x" } else { "insert" }, n)).collect();
    for (n, outcome) in (0..).zip(chain.process(bodies)) {
        if guilty(n) {
            assert_eq!(code(&outcome), Some(FailureCode::Trap));
        } else {
            assert_eq!(outcome, Outcome::Keep(event("insert", n)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever stands beside an event, what becomes of it is its own doing.
    #[test]
    fn every_event_gets_what_it_deserves(ops in vec(select(vec!["insert", "insert", "insert", "x", "delete"]), 0..60)) {
        let mut guest = Guest::on_x("unreachable");
        let drops_d = "(if (i32.eq (i32.load8_u offset=12 (local.get $at)) (i32.const 100)) (then (return (i32.const 2))))";
        guest.judge.insert_str(0, drops_d);
        let limits = Limits { batch_events: 16, call_bytes: 3 * event("insert", 0).len(), ..quick() };
        let chain = File::new(&guest.module()).load(limits).unwrap();
        let bodies: Vec<_> = ops.iter().zip(0..).map(|(op, n)| event(op, n)).collect();
        let outcomes = chain.process(bodies.clone());
        prop_assert_eq!(outcomes.len(), ops.len());
        for ((op, body), outcome) in ops.iter().zip(bodies).zip(outcomes) {
            match *op {
                "x" => prop_assert_eq!(code(&outcome), Some(FailureCode::Trap)),
                "delete" => prop_assert_eq!(outcome, Outcome::Dropped { plugin: "guest".into() }),
                _ => prop_assert_eq!(outcome, Outcome::Keep(body)),
            }
        }
    }
}

#[test]
fn the_clock_ends_with_its_engine() {
    let engine = wasmtime::Engine::default();
    let weak = engine.weak();
    let clock = std::thread::spawn(move || tick(&weak));
    drop(engine);
    clock.join().unwrap();
}

#[test]
fn what_a_plugin_remembers_is_gone_with_the_next_batch() {
    // The second event that an instance sees is dropped.
    let guest = Guest {
        fields: "(global $seen (mut i32) (i32.const 0))".into(),
        judge: "(if (i32.ne (global.get $seen) (i32.const 0)) (then (return (i32.const 2))))
            (global.set $seen (i32.const 1)) (i32.const 0)"
            .into(),
        ..Guest::default()
    };
    let chain = guest.chain();
    for n in 0..5 {
        assert_eq!(chain.process(vec![event("insert", n)]), [Outcome::Keep(event("insert", n))]);
    }
    assert!(matches!(
        chain.process(vec![event("insert", 0), event("insert", 1)])[1],
        Outcome::Dropped { .. }
    ));
}

#[test]
fn memory_is_zeroed_between_batches() {
    let guest = Guest::on_x("(drop (i32.const 0))");
    let judge = "(if (i32.ne (i32.load (i32.const 4096)) (i32.const 0)) (then unreachable))
        (i32.store (i32.const 4096) (i32.const 1)) (i32.const 0)";
    let chain = Guest { judge: judge.into(), ..guest }.chain();
    for n in 0..5 {
        assert_eq!(chain.process(vec![event("insert", n)]), [Outcome::Keep(event("insert", n))]);
    }
}

#[test]
fn a_batch_that_fails_while_its_parts_pass_has_failed() {
    let guest = Guest {
        result: "(if (i32.gt_u (local.get $count) (i32.const 2)) (then unreachable))".into(),
        ..Guest::default()
    };
    let chain = guest.chain();
    let outcomes = chain.process((0..4).map(|n| event("insert", n)).collect());
    assert!(outcomes.iter().all(|o| code(o) == Some(FailureCode::Unstable)));
    assert_eq!(chain.process(vec![event("insert", 1)]), [Outcome::Keep(event("insert", 1))]);
}

#[test]
fn a_batch_is_handed_over_in_parts() {
    // Fails where it gets more than two events at once, and drops all behind the third that an instance sees.
    let guest = Guest {
        fields: "(global $seen (mut i32) (i32.const 0))".into(),
        judge: "(global.set $seen (i32.add (global.get $seen) (i32.const 1)))
            (select (i32.const 2) (i32.const 0) (i32.gt_u (global.get $seen) (i32.const 3)))"
            .into(),
        result: "(if (i32.gt_u (local.get $count) (i32.const 2)) (then unreachable))".into(),
        ..Guest::default()
    };
    let limits = Limits { call_bytes: 2 * event("insert", 0).len(), batch_events: 5, ..quick() };
    let chain = File::new(&guest.module()).load(limits).unwrap();
    let outcomes = chain.process((0..10).map(|n| event("insert", n)).collect());
    let kept: Vec<bool> = outcomes.iter().map(|outcome| matches!(outcome, Outcome::Keep(_))).collect();
    assert_eq!(kept, [[true, true, true, false, false]; 2].concat());
}

#[test]
fn a_plugin_sees_only_what_the_one_before_kept() {
    let first = File::new(&Guest::on_x("(return (i32.const 2))").module());
    let second = File::new(&Guest::on_x("unreachable").module());
    let fails_on_d = Guest::on_x("unreachable").judge.replace("(i32.const 120)", "(i32.const 100)");
    let third = File::new(&Guest { judge: fails_on_d, ..Guest::default() }.module());
    let plugins = [&first.config, &second.config, &third.config];
    let chain = PluginChain::load_within(&plugins, false, quick()).unwrap();
    let outcomes = chain.process(vec![event("x", 1), event("delete", 2), event("insert", 3)]);
    assert!(matches!(outcomes[0], Outcome::Dropped { .. }));
    assert_eq!(code(&outcomes[1]), Some(FailureCode::Trap));
    assert_eq!(outcomes[2], Outcome::Keep(event("insert", 3)));
}

#[test]
fn the_largest_events_work() {
    let chain = File::new(&Guest::default().module()).load(Limits::default()).unwrap();
    for megabytes in [16, 48] {
        let bulk = vec![7; megabytes << 20];
        let body = event_with("insert", 1, |after| after.binary("bulk", 0, &bulk));
        let outcomes = chain.process(vec![event("insert", 0), body.clone(), event("insert", 2)]);
        assert!(outcomes[1] == Outcome::Keep(body), "{megabytes} MB: {:?}", code(&outcomes[1]));
        assert_eq!(outcomes[2], Outcome::Keep(event("insert", 2)));
    }
}

#[test]
fn batches_keep_within_count_and_bytes() {
    let sizes = [10, 10, 10, 10, 95, 10, 200, 50, 50, 1];
    let bodies: Vec<Vec<u8>> = sizes.iter().map(|n| vec![0; *n]).collect();
    let events: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    let cut: Vec<Vec<usize>> =
        batches(&events, 100, 3).map(|b| b.iter().map(|e| e.len()).collect()).collect();
    assert_eq!(cut, [vec![10, 10, 10], vec![10], vec![95], vec![10], vec![200], vec![50, 50], vec![1]]);
    assert_eq!(batches(&[], 100, 3).count(), 0);
}
