//! What a plugin's author is shown: all that the plugin says, and what exactly the host does not accept.

use super::guests::{File, Guest};
use super::{FailureCode, event};
use crate::config::Secret;
use crate::error::Kind;
use crate::plugin::workbench::{Judged, Workbench, inspect};

fn workbench(guest: &Guest) -> Workbench {
    let file = File::new(&guest.module());
    Workbench::load(&file.config.path, Secret::new("{}"), Vec::new()).unwrap()
}

/// Set `ARCHIVER_WRITE_FIXTURES` to make the file anew.
#[test]
fn the_empty_plugin_keeps_everything() {
    let guest =
        Guest { judge: "(i32.const 0)".into(), may_drop: false, may_modify: false, ..Guest::default() };
    if std::env::var_os("ARCHIVER_WRITE_FIXTURES").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/plugin/empty.wasm");
        std::fs::write(path, guest.component()).unwrap();
    }
    let empty = Workbench::empty().unwrap();
    assert_eq!(empty.judge(&event("insert", 1)).verdict, Judged::Kept);
    assert_eq!(empty.time(&[&event("insert", 1)], 3).unwrap().len(), 3);
}

#[test]
fn an_author_hears_more_lines_than_an_operator() {
    let line = "(call $log (i32.const 1) (i32.const 1024) (i32.const 5))";
    let guest = Guest::on_x(&line.repeat(50));
    assert_eq!(workbench(&guest).judge(&event("x", 1)).log.len(), 50);
}

#[test]
fn an_inspection_says_what_is_declared_and_what_is_reached() {
    let guest = Guest { may_modify: false, ..Guest::default() };
    let file = File::new(&guest.module());
    let found = inspect(&file.config.path).unwrap();
    assert_eq!((found.name.as_str(), found.version.as_str()), ("guest", "0.1.0"));
    assert_eq!((found.may_drop, found.may_modify), (true, false));
    assert_eq!(found.contract, "archiver:plugin@1.0.0");
    assert!(found.imports.contains(&"archiver:plugin/host@1.0.0".to_owned()), "{:?}", found.imports);
    assert_eq!(found.exports, ["describe", "configure", "process-batch"]);
    assert_eq!(found.config_schema, "{}");
    assert_eq!(Some(&found.sha256), file.config.sha256.as_ref());
    assert_eq!(found.bytes, guest.module().len());
}

#[test]
fn what_the_service_would_refuse_is_refused_with_the_reason() {
    let file = File::new(&Guest::default().module_for("9.0.0"));
    let error = inspect(&file.config.path).unwrap_err();
    assert_eq!(error.kind(), Kind::Plugin);
    assert!(error.explain().contains("9.0.0"), "{}", error.explain());
}

#[test]
fn the_author_hears_every_word_and_learns_of_every_trap() {
    let say = "(i32.store (i32.const 2048) (i32.const 1633903992)) \
               (call $log (i32.const 2) (i32.const 2048) (i32.const 4))";
    let guest = Guest::on_x(&format!("{say} {say} (unreachable)"));
    let trial = workbench(&guest).judge(&event("x", 1));
    assert_eq!(trial.log, [("warn", "xeca".to_owned()), ("warn", "xeca".to_owned())]);
    assert!(matches!(trial.verdict, Judged::Failed { code: FailureCode::Trap, .. }), "{:?}", trial.verdict);
    let trial = workbench(&guest).judge(&event("insert", 1));
    assert_eq!((trial.verdict, trial.log.len()), (Judged::Replaced(event("insert", 1)), 0));
}

#[test]
fn what_the_host_does_not_accept_is_explained() {
    // The event's bytes: length, type, "op", zero, length of the text, the text.
    let change_op = "(i32.store8 offset=12 (local.get $at) (i32.const 121))";
    let rename_op = "(i32.store8 offset=5 (local.get $at) (i32.const 121))";
    let cut = "(i32.store (local.get $at) (i32.const 4000))";
    for (deed, code, words) in [
        (change_op, FailureCode::IdentityChanged, "it changed `op`"),
        (rename_op, FailureCode::IdentityChanged, "it left out `op`"),
        (cut, FailureCode::InvalidOutput, "not one document"),
        ("(return (i32.const 9))", FailureCode::InvalidOutput, "no verdict 9"),
    ] {
        let trial = workbench(&Guest::on_x(deed)).judge(&event("x", 1));
        let Judged::Failed { code: found, detail: Some(detail) } = trial.verdict else {
            panic!("{deed}: {:?}", trial.verdict)
        };
        assert_eq!(found, code, "{deed}");
        assert!(detail.contains(words), "{deed}: {detail}");
    }
}
