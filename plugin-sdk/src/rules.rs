//! Path rules: patterns with wildcards, each with an action, compiled into one machine that all values of an event are
//! run through.

mod inspect;
mod machine;
mod pattern;

pub(crate) use inspect::Inspecting;
pub use inspect::{Found, Inspect};
pub use machine::{Machine, State};
pub use pattern::Pattern;

use crate::guide::{Guide, Name, Step};
use crate::value::Action;
use machine::{Bits, UNNAMED, Wide};

/// Compiled rules. [`crate::event::Event::redact`] applies them.
#[derive(Debug)]
pub enum Rules {
    /// Up to 64 path names in all.
    Small(Box<Machine<u64>>),
    /// Up to 1024.
    Large(Box<Machine<Wide>>),
}

/// What happens to a value that no rule covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// It stays.
    Keep,
    /// It is removed: only what a rule with [`Action::Keep`] covers stays.
    Remove,
    /// It is masked, leaf by leaf: documents and arrays, and all names, stay.
    Mask,
}

/// Why rules can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleError {
    /// Which rule, where it is one.
    pub rule: Option<usize>,
    /// What is wrong and what is allowed.
    pub what: String,
}

impl Rules {
    /// Compiles rules.
    ///
    /// A redacting rule (any action but Keep) covers its path and everything below. Where several cover a value, the
    /// outermost path decides, and of rules that reach the same place the first. Keep covers its path and everything below, except what a
    /// redacting rule covers.
    pub fn new(rules: Vec<(Pattern, Action<'static>)>, default: Default) -> Result<Rules, RuleError> {
        Rules::with_marks(rules, &[], default)
    }

    /// Compiles rules, and paths that do nothing but mark what they cover with a number, less than 64, for an
    /// [`Inspect`].
    pub fn with_marks(
        rules: Vec<(Pattern, Action<'static>)>,
        marks: &[(Pattern, u8)],
        default: Default,
    ) -> Result<Rules, RuleError> {
        let patterns = rules.iter().map(|(pattern, _)| pattern).chain(marks.iter().map(|(p, _)| p));
        let names: usize = patterns.map(Pattern::len).sum();
        let rules = if names <= u64::COUNT {
            Rules::Small(Box::new(Machine::new(rules, marks, default)))
        } else if names <= Wide::COUNT {
            Rules::Large(Box::new(Machine::new(rules, marks, default)))
        } else {
            let what =
                format!("all rules' paths together have {names} names; at most {} are possible", Wide::COUNT);
            return Err(RuleError { rule: None, what });
        };
        match &rules {
            Rules::Small(machine) => keeps_documents_apart(machine)?,
            Rules::Large(machine) => keeps_documents_apart(machine)?,
        }
        Ok(rules)
    }
}

/// Without its `_id` a document has no history: all documents of a collection would become one.
fn keeps_documents_apart<S: Bits>(mut machine: &Machine<S>) -> Result<(), RuleError> {
    let root = machine.root();
    let (state, step) = machine.field(&root, Name { bytes: b"_id", has_dot: false }, None);
    let use_instead = "use mask with keep_last, or pseudonymise it";
    let nothing = "nothing keeps `_id`, which tells documents apart; add a rule with path `_id` and action keep, or mask";
    let (rule, what) = match step {
        Step::Hollow | Step::Act(UNNAMED) => (None, nothing.into()),
        Step::Enter if !state.is_kept() => (None, nothing.into()),
        Step::Act(rule) => match machine.action(rule) {
            Action::Remove => {
                (Some(rule as usize), format!("removes `_id`, which tells documents apart; {use_instead}"))
            }
            Action::Replace(_) => {
                (Some(rule as usize), format!("gives every document the same `_id`; {use_instead}"))
            }
            _ => return Ok(()),
        },
        _ => return Ok(()),
    };
    Err(RuleError { rule, what })
}
