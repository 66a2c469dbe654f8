//! What is refused before it sees an event, and what the refusal says.

use std::error::Error as _;

use wit_component::ComponentEncoder;

use super::guests::{File, Guest, core_module, wat_bytes};
use super::{event, quick};
use crate::config::Grants;
use crate::error::{Error, Kind};
use crate::plugin::PluginChain;
use crate::plugin::contract::spoken;
use crate::plugin::limits::Limits;
use crate::plugin::outcome::Outcome;

/// The whole message: sentence, cause, hint.
fn words(error: &Error) -> String {
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    format!("{error} | {cause} | {}", error.hint_text().unwrap_or_default())
}

#[track_caller]
fn refused(bytes: &[u8], expected: &[&str]) {
    let error = File::new(bytes).load(quick()).expect_err("it was loaded");
    assert_eq!(error.kind(), Kind::Plugin);
    for part in expected {
        assert!(words(&error).contains(part), "`{part}` is missing in: {}", words(&error));
    }
}

#[test]
fn a_core_module_and_its_component_load_and_do_the_same() {
    let body = event("insert", 1);
    for bytes in [Guest::default().module(), Guest::default().component()] {
        let chain = File::new(&bytes).load(quick()).unwrap();
        assert_eq!(chain.process(vec![body.clone()]), [Outcome::Keep(body.clone())]);
    }
}

#[test]
fn a_missing_file_is_named() {
    let mut file = File::new(b"");
    file.config.path.set_file_name("nowhere.wasm");
    let error = file.load(quick()).unwrap_err();
    assert!(words(&error).contains("nowhere.wasm") && words(&error).contains("no file"), "{}", words(&error));
    assert_eq!(error.kind(), Kind::Plugin);
}

#[test]
fn another_file_than_the_pinned_one_is_refused_with_both_hashes() {
    let mut file = File::new(&Guest::default().module());
    let actual = file.config.sha256.replace("ab".repeat(32)).unwrap();
    let error = words(&file.load(quick()).unwrap_err());
    assert!(error.contains(&actual) && error.contains(&"ab".repeat(32)), "{error}");
    file.config.sha256 = Some(actual.to_uppercase());
    file.load(quick()).unwrap();
}

#[test]
fn a_pin_is_optional_in_development_only() {
    let mut file = File::new(&Guest::default().module());
    let actual = file.config.sha256.take().unwrap();
    let error = words(&file.load(quick()).unwrap_err());
    assert!(error.contains(&format!("sha256 = \"{actual}\"")), "{error}");
    PluginChain::load(&[&file.config], true).unwrap();
    file.config.sha256 = Some("ab".repeat(32));
    PluginChain::load(&[&file.config], true).unwrap_err();
}

#[test]
fn a_file_that_is_not_webassembly_is_refused() {
    refused(b"", &["not a WebAssembly file"]);
    refused(b"\x7fELF and so on", &["not a WebAssembly file", "wasm32-unknown-unknown"]);
    refused(b"(module)", &["not a WebAssembly file"]);
    let module = Guest::default().module();
    refused(&module[..module.len() / 2], &["guest.wasm"]);
}

#[test]
fn a_module_without_the_contract_is_refused() {
    refused(
        &wat_bytes("(module)"),
        &["does not export `describe`, `configure`, `process-batch`", "plugin-sdk"],
    );
}

#[test]
fn wasi_imports_are_named() {
    let preview1 = r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32))))"#;
    refused(&wat_bytes(preview1), &["wasi_snapshot_preview1", "wasm32-unknown-unknown"]);
    let preview2 = r#"(component (import "wasi:cli/environment@0.2.6" (instance)) (import "wasi:io/poll@0.2.6" (instance)))"#;
    refused(
        &wat_bytes(preview2),
        &["wasi:cli/environment@0.2.6", "wasi:io/poll@0.2.6", "wasm32-unknown-unknown"],
    );
}

#[test]
fn javascript_imports_are_named() {
    let module = r#"(module (import "__wbindgen_placeholder__" "x" (func)))"#;
    refused(&wat_bytes(module), &["__wbindgen_placeholder__", "getrandom"]);
}

#[test]
fn another_version_of_the_contract_is_refused() {
    let newer =
        ["was built for archiver:plugin@2.0.0", "this archiver speaks archiver:plugin@1.0.0", "plugin-sdk"];
    refused(&Guest::default().module_for("2.0.0"), &newer);
    // A minor version may have more than this host knows of, so it is not taken for the one that is known.
    refused(
        &Guest::default().module_for("1.1.0"),
        &["was built for archiver:plugin@1.1.0", "speaks archiver:plugin@1.0.0"],
    );
    refused(&Guest::default().module_for("0.9.0"), &["was built for archiver:plugin@0.9.0"]);
    let component =
        ComponentEncoder::default().module(&Guest::default().module_for("3.0.0")).unwrap().encode().unwrap();
    refused(&component, &["was built for archiver:plugin@3.0.0"]);
}

#[test]
fn a_missing_export_is_named() {
    let wit = "package a:b; world w { export describe: func() -> string; }";
    let module =
        r#"(module (memory (export "memory") 1) (func (export "describe") (result i32) (i32.const 0)))"#;
    refused(&core_module(module, wit), &["does not export `configure`, `process-batch`"]);
}

#[test]
fn an_export_of_another_type_is_refused_before_the_first_batch() {
    let wit = "package a:b; world w { export describe: func(); export configure: func(); export process-batch: func(); }";
    let module =
        r#"(module (func (export "describe")) (func (export "configure")) (func (export "process-batch")))"#;
    refused(&core_module(module, wit), &["`process-batch` has other parameters or results"]);
}

#[test]
fn what_hangs_while_it_is_loaded_is_interrupted() {
    let hang = "(loop $for_ever (br $for_ever))";
    let start = Guest { fields: format!("(func $hang {hang}) (start $hang)"), ..Guest::default() };
    refused(&start.module(), &["failed in `describe`", "did not finish in time"]);
    refused(&Guest { describe: hang.into(), ..Guest::default() }.module(), &["`describe`", "in time"]);
    refused(&Guest { configure: hang.into(), ..Guest::default() }.module(), &["`configure`", "in time"]);
    Guest::default().chain();
}

#[test]
fn what_wants_too_much_is_refused() {
    refused(&Guest { pages: 32768, ..Guest::default() }.module(), &["can't be compiled", "memory"]);
    refused(&Guest { pages: 128, ..Guest::default() }.module(), &["failed in `describe`", "more memory"]);
    let table = Guest { fields: "(table 10000000 funcref)".into(), ..Guest::default() };
    refused(&table.module(), &["guest.wasm", "table"]);
    let grown = Guest { describe: "(drop (memory.grow (i32.const 4096)))".into(), ..Guest::default() };
    refused(&grown.module(), &["failed in `describe`", "more memory"]);
}

#[test]
fn an_interface_of_another_shape_is_refused() {
    let wit = super::guests::WIT.replace(
        "log: func(level: level, message: string)",
        "read-file: func(level: level, message: string)",
    );
    let wat = Guest::default().wat().replace("\"log\"", "\"read-file\"");
    refused(&core_module(&wat, &wit), &["imports don't fit"]);
    let wit =
        super::guests::WIT.replace("interface host {", "interface clock { now: func(); } interface host {");
    let wit = wit.replace("import host;", "import host; import clock;");
    let wat = Guest::default().wat().replacen(
        "(memory",
        "(import \"archiver:plugin/clock@1.0.0\" \"now\" (func))\n(memory",
        1,
    );
    refused(
        &core_module(&wat, &wit),
        &["imports what no plugin gets: archiver:plugin/clock@1.0.0", "no such interface"],
    );
}

#[test]
fn what_a_plugin_declares_needs_the_operators_grant() {
    let load = |guest: Guest, allow: Grants| {
        let mut file = File::new(&guest.module());
        file.config.allow = allow;
        file.load(quick()).map(|_| ()).map_err(|error| words(&error))
    };
    let (none, all) = (Grants { drop: false, modify: false }, Grants::ALL);
    let guest = |may_drop, may_modify| Guest { may_drop, may_modify, ..Guest::default() };
    load(guest(true, true), all).unwrap();
    load(guest(false, false), none).unwrap();
    load(guest(false, true), Grants { drop: false, modify: true }).unwrap();
    let refused = load(guest(true, false), Grants { drop: false, modify: true }).unwrap_err();
    assert!(refused.contains("may drop events") && refused.contains("add \"drop\" to `allow`"), "{refused}");
    let refused = load(guest(true, true), Grants { drop: true, modify: false }).unwrap_err();
    assert!(
        refused.contains("may change events") && refused.contains("add \"modify\" to `allow`"),
        "{refused}"
    );
}

#[test]
fn an_export_that_traps_is_refused() {
    refused(
        &Guest { describe: "unreachable".into(), ..Guest::default() }.module(),
        &["`describe`", "trapped"],
    );
    refused(
        &Guest { configure: "unreachable".into(), ..Guest::default() }.module(),
        &["`configure`", "trapped"],
    );
}

#[test]
fn a_refused_configuration_shows_the_plugins_own_words_and_not_more_than_is_good() {
    let refuse = |ptr: u32, len: u32| Guest {
        pages: 40,
        fields: r#"(data (i32.const 2048) "no \u{1b}[31mrule")"#.into(),
        configure: format!(
            "(i32.store8 (i32.const 512) (i32.const 1)) (i32.store (i32.const 516) (i32.const {ptr}))
             (i32.store (i32.const 520) (i32.const {len}))"
        ),
        ..Guest::default()
    };
    refused(
        &refuse(2048, 12).module(),
        &["does not accept its configuration", r#"own words: "no \u{1b}[31mrule""#],
    );
    let long = words(&refuse(4096, 2_000_000).load().unwrap_err());
    assert!(long.len() < 3000, "{}", long.len());
    refused(&refuse(4096, 1 << 30).module(), &["failed in `configure`"]);
    let not_text = Guest { fields: r#"(data (i32.const 2048) "\ff")"#.into(), ..refuse(2048, 1) };
    refused(&not_text.module(), &["failed in `configure`"]);
}

#[test]
fn the_contract_of_a_plugin_is_the_one_that_its_imports_name() {
    assert_eq!(spoken(["other:thing/host@3.0.0", "archiver:plugin/types@1.2.0"]), "archiver:plugin@1.2.0");
    assert_eq!(spoken([]), "archiver:plugin@1.0.0");
}

#[test]
fn the_digest_changes_with_file_name_configuration_and_order() {
    let file = File::new(&Guest::default().module());
    let other = File::new(&Guest::on_x("unreachable").module());
    let mut renamed = file.config.clone();
    renamed.name = "other".into();
    let mut configured = file.config.clone();
    configured.config_json = crate::config::Secret::new(r#"{"a":1}"#);
    let chains = [
        vec![],
        vec![&file.config],
        vec![&other.config],
        vec![&renamed],
        vec![&configured],
        vec![&file.config, &other.config],
        vec![&other.config, &file.config],
    ];
    let digest =
        |plugins: &Vec<_>| PluginChain::load_within(plugins, false, quick()).unwrap().digest().to_owned();
    let digests: std::collections::HashSet<_> = chains.iter().map(digest).collect();
    assert_eq!(digests.len(), chains.len());
    assert_eq!(digest(&chains[5]), digest(&chains[5]));
}

#[test]
fn the_policy_names_every_plugin_with_its_hashes_and_never_its_configuration() {
    let mut file = File::new(&Guest::default().module());
    file.config.config_json = crate::config::Secret::new(r#"{"key":"canary"}"#);
    let chain = file.load(Limits::default()).unwrap();
    let policy: bson::Document = bson::deserialize_from_slice(&chain.policy()).unwrap();
    let plugin = policy.get_array("plugins").unwrap()[0].as_document().unwrap();
    assert_eq!(plugin.get_str("name").unwrap(), "guest");
    assert_eq!(plugin.get_str("version").unwrap(), "0.1.0");
    assert_eq!(plugin.get_str("sha256").unwrap(), file.config.sha256.as_deref().unwrap());
    assert_eq!(plugin.get_str("config_sha256").unwrap().len(), 64);
    assert_eq!(plugin.get_str("contract").unwrap(), "archiver:plugin@1.0.0");
    assert_eq!(policy.get_str("contract").unwrap(), "archiver:plugin@1.0.0");
    assert!(!format!("{policy} {chain:?}").contains("canary"));
}
