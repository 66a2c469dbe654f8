//! What a plugin says reaches the operator, and nothing of an event with it.

use std::error::Error as _;
use std::io::Write;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::guests::{File, Guest, wat_bytes};
use super::{event, quick};
use crate::config::Secret;
use crate::plugin::limits::MAX_WORDS;
use crate::plugin::outcome::Outcome;
use crate::plugin::words::{Literals, untrusted};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What reaches the log at trace level while this works.
fn logged(work: impl FnOnce()) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
}

/// The texts of a module with these in its data.
fn literals(texts: &[&str]) -> Literals {
    let data: Vec<_> = texts.iter().map(|text| format!("(data {text:?})")).collect();
    Literals::of(&wat_bytes(&format!("(module (memory 1) {})", data.concat())))
}

#[test]
fn literals_are_shown_and_what_stands_between_them_is_not() {
    let own =
        literals(&["no rule for ", "plugin panicked at src/lib.rs", "card number of person ", "0123456789"]);
    let shown = |said: &str| own.shown(said);
    assert_eq!(shown("no rule for customer.ssn"), "no rule for …");
    assert_eq!(shown("card number of person Ann: 5105"), "card number of person …");
    assert_eq!(shown("plugin panicked at src/lib.rs:42: canary"), "plugin panicked at src/lib.rs:42: …");
    assert_eq!(shown("plugin panicked at src/lib.rs:4242424242: x"), "plugin panicked at src/lib.rs…");
    // A number elsewhere is a value, also one that happens to stand in a table of digits.
    assert_eq!(shown("no rule for 6789 :42:"), "no rule for …");
    assert_eq!(shown("rul"), "…");
    assert_eq!(shown(""), "");
    assert_eq!(shown("no rule for \u{1b}[31m\n"), "no rule for …");
}

#[test]
fn what_is_shown_is_bounded() {
    let long = "all that a plugin says is its own ".repeat(40);
    let own = literals(&[&long]);
    assert!(own.shown(&long).starts_with("all that") && own.shown(&long).ends_with('…'));
    for shown in [own.shown(&long), untrusted(&long), untrusted(&"\u{1b}".repeat(300))] {
        assert!(shown.len() <= MAX_WORDS + '…'.len_utf8(), "{}", shown.len());
    }
    let nothing = Literals::of(b"no file at all");
    assert_eq!(nothing.shown(&long), "…");
}

/// Whether this is one part of the text after the other, none of less than four characters.
fn is_made_of(run: &str, text: &str) -> bool {
    let ends = run.char_indices().map(|(at, c)| at + c.len_utf8()).skip(3);
    run.is_empty() || ends.into_iter().any(|end| text.contains(&run[..end]) && is_made_of(&run[end..], text))
}

proptest! {
    /// Whatever is said, every run that is shown stands in the file.
    #[test]
    fn nothing_is_shown_that_is_not_in_the_file(parts in prop::collection::vec("(no rule for |Grüße |[a-e ]{1,6}|[0-9]{1,5}|\\PC{0,3})", 0..8)) {
        let text = "no rule for Grüße abcde edcba";
        let shown = literals(&[text]).shown(&parts.concat());
        for run in shown.split('…').filter(|run| !run.is_empty()) {
            prop_assert!(is_made_of(run, text), "{run:?} of {shown:?}");
        }
    }
}

/// Logs a text, a thousand times, as an error.
fn chatterbox(judge: &str) -> Guest {
    Guest {
        fields: "(func $chat (param $at i32) (param $len i32) (local $n i32)
            (loop $again (call $log (i32.const 3) (local.get $at) (local.get $len))
              (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1000)))))
            (data (i32.const 2048) \"own words: \")"
            .into(),
        judge: judge.into(),
        ..Guest::default()
    }
}

#[test]
fn a_flood_of_log_lines_is_cut_off_and_marked() {
    let chain = chatterbox("(call $chat (i32.const 2048) (i32.const 11)) (i32.const 1)").chain();
    let text = logged(|| {
        chain.process(vec![event("insert", 1), event("insert", 2)]);
    });
    let lines = text.lines().filter(|line| line.contains("untrusted=\"own words: \"")).count();
    assert_eq!(lines, quick().log_lines, "{text}");
    // The plugin calls them errors; it does not decide what wakes a human.
    assert!(text.lines().all(|line| line.contains(" WARN ") && line.contains("plugin=\"guest\"")), "{text}");
}

/// The event ends with the canary, its terminator, and those of two documents: the plugin's own words are put before it.
const QUOTE: &str = "(memory.copy (i32.const 4096) (i32.const 2048) (i32.const 11))
    (memory.copy (i32.const 4107) (i32.sub (i32.add (local.get $at) (local.get $len)) (i32.const 21)) (i32.const 18))
    (call $chat (i32.const 4096) (i32.const 29))";

#[test]
fn nothing_of_an_event_reaches_the_log_at_any_level() {
    let events = || vec![event("insert", 1), event("x", 2), event("insert", 3)];
    let mut outcomes = Vec::new();
    let kept = chatterbox(&format!("{QUOTE} (i32.const 0)")).chain();
    let text = logged(|| outcomes = kept.process(events()));
    assert!(text.contains("own words: …") && !text.contains("canary"), "{text}");
    let traps = chatterbox(&format!("{QUOTE} {}", Guest::on_x("unreachable").judge)).chain();
    let text = logged(|| outcomes = traps.process(events()));
    assert!(!text.contains("canary"), "{text}");
    let Outcome::Failed(failure) = &outcomes[1] else { panic!("{outcomes:?}") };
    assert_eq!(failure.words.as_deref(), Some("own words: …"));
    assert!(failure.to_string().contains("in its own words: \"own words: …\""), "{failure}");
    assert!(!format!("{failure:?}").contains("canary"));
}

#[test]
fn the_words_of_a_refusal_are_told_with_the_event_that_was_refused() {
    let guest = Guest {
        fields: r#"(global $bad (mut i32) (i32.const 0)) (data (i32.const 2048) "no such thing: canary")"#.into(),
        result: "(if (global.get $bad) (then (i32.store8 (local.get $out) (i32.const 1))
            (i32.store offset=8 (local.get $out) (i32.const 2048)) (i32.store offset=12 (local.get $out) (i32.const 21))))"
            .into(),
        ..Guest::on_x("(global.set $bad (i32.const 1))")
    };
    let outcomes = guest.chain().process(vec![event("insert", 1), event("x", 2)]);
    assert_eq!(outcomes[0], Outcome::Keep(event("insert", 1)));
    let Outcome::Failed(failure) = &outcomes[1] else { panic!("{outcomes:?}") };
    assert_eq!((failure.code.as_str(), failure.words.as_deref()), ("refused", Some("no such thing: canary")));
}

#[test]
fn while_it_is_loaded_a_plugin_is_heard_whole_but_for_secrets() {
    let configure = "(call $log (i32.const 1) (local.get $at) (local.get $len))";
    let load = |end: &str| {
        let guest = Guest { configure: format!("{configure} {end}"), ..Guest::default() };
        let mut file = File::new(&guest.module());
        file.config.config_json = Secret::new(r#"{"a":"visible","key":"hidden-key"}"#);
        file.config.secrets = vec![Secret::new("hidden-key")];
        file
    };
    let text = logged(|| drop(load("").load(quick()).unwrap()));
    assert!(text.contains("visible") && text.contains("[secret]") && !text.contains("hidden-key"), "{text}");
    let error = load(&format!("{} unreachable", configure.replacen("1", "3", 1))).load(quick()).unwrap_err();
    assert!(
        error.to_string().contains("in its own words") && error.to_string().contains("visible"),
        "{error}"
    );
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    assert!(!format!("{error} {cause}").contains("hidden-key"), "{error} {cause}");
}
