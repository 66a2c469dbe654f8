//! Plugins that are refused by their self-test, before they see an event.

use std::error::Error as _;

use super::guests::{File, Guest};
use crate::config::{Expected, PluginTest, Secret};
use crate::error::{Error, Kind};
use crate::plugin::PluginChain;

/// Loads a guest as a service does.
fn load(guest: &Guest, tests: &[(&str, Expected)]) -> Result<PluginChain, Error> {
    let mut file = File::new(&guest.module());
    let test = |(event, expect): &(&str, Expected)| PluginTest {
        event: (*event).to_owned(),
        expect: expect.clone(),
    };
    file.config.tests = tests.iter().map(test).collect();
    file.config.secrets = vec![Secret::new("hidden-key")];
    PluginChain::load(&[&file.config], false)
}

#[track_caller]
fn refused(guest: &Guest, expected: &[&str]) {
    let error = load(guest, &[]).expect_err("it was loaded");
    assert_eq!(error.kind(), Kind::Plugin);
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    let text = format!("{error} | {cause} | {}", error.hint_text().unwrap_or_default());
    for part in expected {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

/// Does this on events of an operation that begins like this.
fn on(first_letter: char, instructions: &str) -> Guest {
    let judge = Guest::on_x(instructions)
        .judge
        .replace("(i32.const 120)", &format!("(i32.const {})", first_letter as u32));
    Guest { judge, ..Guest::default() }
}

#[test]
fn a_plugin_that_passes_is_loaded() {
    load(&Guest::default(), &[]).unwrap();
    load(&Guest { judge: "(i32.const 0)".into(), ..Guest::default() }, &[]).unwrap();
    load(&Guest { judge: "(i32.const 2)".into(), ..Guest::default() }, &[]).unwrap();
}

#[test]
fn a_failure_on_any_operation_is_found_and_the_event_named() {
    refused(&on('r', "unreachable"), &["its self-test, on an event of operation `replace`", "trapped"]);
    refused(&on('s', "unreachable"), &["operation `snapshot`"]);
    refused(&on('c', "(return (i32.const 9))"), &["operation `create`", "not a valid event"]);
    refused(
        &on('d', "(i32.store8 offset=12 (local.get $at) (i32.const 121))"),
        &["operation `delete`", "changed one of the fields"],
    );
    let undeclared = Guest { may_drop: false, ..on('g', "(return (i32.const 2))") };
    refused(&undeclared, &["operation `gap`", "does not declare `may-drop`"]);
}

#[test]
fn every_operation_that_mongodb_and_the_host_have_is_tried() {
    for op in [
        "insert",
        "update",
        "replace",
        "delete",
        "snapshot",
        "gap",
        "drop",
        "rename",
        "dropDatabase",
        "invalidate",
        "create",
        "modify",
        "createIndexes",
        "dropIndexes",
        "shardCollection",
        "refineCollectionShardKey",
        "reshardCollection",
    ] {
        let first = u32::from_le_bytes(std::array::from_fn(|n| op.as_bytes().get(n).copied().unwrap_or(0)));
        let is_op = format!(
            "(i32.and (i32.eq (i32.load offset=8 (local.get $at)) (i32.const {})) (i32.eq (i32.load offset=12 (local.get $at)) (i32.const {first})))",
            op.len() + 1
        );
        let guest =
            Guest { judge: format!("(if {is_op} (then unreachable)) (i32.const 0)"), ..Guest::default() };
        refused(&guest, &[&format!("its self-test, on an event of operation `{op}`"), "trapped"]);
    }
}

#[test]
fn a_failure_on_any_type_of_value_is_found() {
    // Looks for the type byte of Decimal128 behind a NUL, before a name that begins with `v`.
    let scan = |byte: u32| {
        format!(
        "(local $i i32)
        (loop $next
          (if (i32.and (i32.and (i32.eqz (i32.load8_u (i32.add (local.get $at) (local.get $i))))
                (i32.eq (i32.load8_u offset=1 (i32.add (local.get $at) (local.get $i))) (i32.const {byte})))
              (i32.eq (i32.load offset=2 (i32.add (local.get $at) (local.get $i))) (i32.const 0x756c6176)))
            (then unreachable))
          (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.sub (local.get $len) (i32.const 8)))))
        (i32.const 0)"
    )
    };
    for byte in (0x02..=0x13).chain([0x7f, 0xff]) {
        let guest = Guest { judge: scan(byte), ..Guest::default() };
        refused(&guest, &[&format!("BSON type 0x{byte:02x}"), "trapped"]);
    }
}

#[test]
fn results_that_depend_on_other_events_are_refused() {
    let counts = Guest {
        fields: "(global $seen (mut i32) (i32.const 0))".into(),
        judge: "(if (i32.gt_u (global.get $seen) (i32.const 7)) (then (return (i32.const 2))))
            (global.set $seen (i32.add (global.get $seen) (i32.const 1))) (i32.const 0)"
            .into(),
        ..Guest::default()
    };
    refused(&counts, &["depends on the events before it", "statics"]);
    let batches = Guest {
        result: "(if (i32.gt_u (local.get $count) (i32.const 2)) (then unreachable))".into(),
        ..Guest::default()
    };
    refused(&batches, &["on several events at once", "trapped"]);
    let empty =
        Guest { result: "(if (i32.eqz (local.get $count)) (then unreachable))".into(), ..Guest::default() };
    refused(&empty, &["on a batch without events"]);
}

#[test]
fn a_plugin_may_refuse_what_it_does_not_understand() {
    let guest = Guest {
        fields: "(global $bad (mut i32) (i32.const 0))".into(),
        result: "(if (global.get $bad) (then (i32.store8 (local.get $out) (i32.const 1))
            (i32.store offset=8 (local.get $out) (i32.const 1024)) (i32.store offset=12 (local.get $out) (i32.const 5))))"
            .into(),
        ..on('d', "(global.set $bad (i32.const 1))")
    };
    load(&guest, &[]).unwrap();
}

#[test]
fn the_configurations_own_tests_decide() {
    let insert = r#"{"op": "insert", "after": {"_id": 1, "ssn": "hidden-key"}}"#;
    let delete = r#"{"key": {"_id": {"$oid": "656565656565656565656565"}}, "op": "delete"}"#;
    let drops_deletes = on('d', "(return (i32.const 2))");
    let event = |text: &str| Expected::Event(text.to_owned());
    load(&drops_deletes, &[(insert, Expected::Keep), (delete, Expected::Drop), (insert, event(insert))])
        .unwrap();
    let fails = |test| load(&drops_deletes, &[(insert, Expected::Keep), test]).unwrap_err();
    let error = fails((delete, Expected::Keep));
    assert!(error.to_string().contains("gives a dropped event"), "{error}");
    assert_eq!(
        (error.kind(), error.hint_text()),
        (Kind::Plugin, Some("this is test 2 of [[plugin]] `guest`"))
    );
    let error = fails((insert, event(r#"{"op": "insert", "after": {"_id": 1, "ssn": "***"}}"#))).to_string();
    assert!(
        error.contains("\"***\"") && error.contains("[secret]") && !error.contains("hidden-key"),
        "{error}"
    );
    assert!(
        fails((
            insert,
            event(r#"{"op": "insert", "after": {"_id": {"$numberLong": "1"}, "ssn": "hidden-key"}}"#)
        ))
        .to_string()
        .contains("fails one of its tests")
    );
    for (odd, says) in [
        ("{", "not Extended JSON"),
        ("5", "not a document"),
        (r#"{"op": "insert", "fullDocument": {}}"#, "no field \"fullDocument\""),
    ] {
        let error = fails((odd, Expected::Keep));
        assert!(error.explain().contains(says), "{}", error.explain());
        assert_eq!(error.kind(), Kind::Invalid);
    }
}
