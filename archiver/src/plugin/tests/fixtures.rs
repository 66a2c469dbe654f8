//! Plugins as they were compiled once, against each version of the contract that was ever released: every later host loads
//! them. The files are never built again; `fixtures/README.md` says how they were made.

use super::guests::File;
use super::{code, event, event_with};
use crate::plugin::PluginChain;
use crate::plugin::outcome::{FailureCode, Outcome};

fn load(file: &[u8]) -> PluginChain {
    PluginChain::load(&[&File::new(file).config], false).unwrap()
}

#[test]
fn a_plugin_made_with_the_first_sdk_is_loaded_for_ever() {
    let chain = load(include_bytes!("fixtures/sdk-1.0.0.wasm"));
    let told = |deed: &str| {
        event_with("insert", 1, |after| {
            after.str("do", deed);
            after.str("secret", "canary");
        })
    };
    let outcomes = chain.process(["nothing", "panic", "drop", "refuse", "identity"].map(told).to_vec());
    assert_eq!(outcomes[0], Outcome::Keep(told("nothing")));
    let Outcome::Failed(panic) = &outcomes[1] else { panic!("{outcomes:?}") };
    let words = panic.words.as_deref().unwrap();
    let at = words.strip_prefix("plugin panicked at tests/misbehave/src/lib.rs:").unwrap();
    assert_eq!(at.trim_start_matches(char::is_numeric), ": panic about …");
    assert!(matches!(outcomes[2], Outcome::Dropped { .. }));
    let Outcome::Failed(refusal) = &outcomes[3] else { panic!("{outcomes:?}") };
    assert_eq!(refusal.words.as_deref(), Some("I refuse …"));
    assert_eq!(code(&outcomes[4]), Some(FailureCode::IdentityChanged));
}

#[test]
fn a_plugin_made_without_an_sdk_is_loaded_for_ever() {
    for file in
        [&include_bytes!("fixtures/wat-1.0.0.wasm")[..], include_bytes!("fixtures/wat-1.0.0.component.wasm")]
    {
        let chain = load(file);
        assert_eq!(chain.process(vec![event("insert", 1)]), [Outcome::Keep(event("insert", 1))]);
    }
}
