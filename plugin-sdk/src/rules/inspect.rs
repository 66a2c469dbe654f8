//! Rules that look at values and not only at where they stand, beside path rules and through the same walk.

use bson_walker::{Element, kind};

use super::machine::{Bits, By, Machine, State};
use crate::guide::{Guide, Name, Step, is_leaf};
use crate::value::{Action, Value};

/// What an inspection makes of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The field is to go.
    Remove,
    /// This takes its place; it may be the same for many values.
    Replace(String),
    /// This takes its place: the value, masked in part or whole.
    Mask(String),
}

/// Looks into values. Marks are bits: those of paths that cover the place ([`super::Rules::with_marks`]), and those
/// that are everywhere.
///
/// What it says may depend on nothing but the marks and the value or name: then redaction commutes with updates.
pub trait Inspect {
    /// The marks that need no path.
    fn everywhere(&self) -> u64;

    /// Whether nothing is found in a value, as is quickly seen of most, nor in its name. `false` says nothing.
    fn spares(&mut self, _marks: u64, _name: &[u8], _value: &Element<'_>) -> bool {
        false
    }

    /// What becomes of a value that is no document or array, and that no path rule redacts; `None`: it stays.
    fn value(&mut self, marks: u64, value: &Element<'_>) -> Option<Found>;

    /// The masked form of a value that a path rule masks, where that must show less than [`crate::value::mask`] would.
    fn masked(&mut self, marks: u64, value: &Element<'_>, keep_last: usize) -> Option<String>;

    /// Whether a text is to be hidden for what it contains. A field of such a name is erased, with all below.
    fn text(&mut self, marks: u64, text: &[u8]) -> bool;
}

/// The number of the edit that an inspection asked for, as the number of an action.
const EDIT: u32 = u32::MAX - 1;

/// Path rules and an inspection as one guide.
pub(crate) struct Inspecting<'m, S, I> {
    machine: &'m Machine<S>,
    inspect: I,
    /// What the last value inspected becomes.
    edit: String,
    /// The marks at the last place where a path rule acted.
    acting: u64,
    /// Whether an `_id` would no longer tell documents apart.
    lost_id: bool,
}

impl<'m, S: Bits, I: Inspect> Inspecting<'m, S, I> {
    pub(crate) fn new(machine: &'m Machine<S>, inspect: I) -> Self {
        Inspecting { machine, inspect, edit: String::new(), acting: 0, lost_id: false }
    }

    #[inline(always)]
    fn step(&mut self, from: &Place<S>, by: By<'_>, value: Option<&Element<'_>>) -> (Place<S>, Step) {
        let (state, ended, step) = self.machine.advance(&from.state, by, value);
        let place = Place { state, marks: from.marks | self.machine.marks(ended), is_root: false };
        let name = match by {
            By::Field(name) | By::Detail(name) => name.bytes,
            By::Index(_) => b"",
        };
        if place.marks != 0 && !name.is_empty() && self.inspect.text(place.marks, name) {
            return (place, Step::Erase);
        }
        let is_id = from.is_root && name == b"_id";
        let step = self.look(&place, step, is_id, value);
        (place, step)
    }

    #[inline(always)]
    fn look(&mut self, place: &Place<S>, step: Step, is_id: bool, value: Option<&Element<'_>>) -> Step {
        match step {
            Step::Hollow | Step::Erase => return step,
            Step::Act(_) => {
                self.acting = place.marks;
                return step;
            }
            Step::Skip if place.marks == 0 && !self.machine.marks_below(&place.state) => return step,
            Step::Skip | Step::Enter => {}
        }
        let Some(value) = value.filter(|v| is_leaf(v) && place.marks != 0) else { return Step::Enter };
        let found = self.inspect.value(place.marks, value);
        self.lost_id |= is_id && matches!(found, Some(Found::Remove | Found::Replace(_)));
        match found {
            // The scope of code.
            None if value.kind() == kind::CODE_WITH_SCOPE => Step::Enter,
            None => Step::Skip,
            // Not `Act`: a delta must remove here what was there before.
            Some(Found::Remove) => Step::Hollow,
            Some(Found::Replace(text) | Found::Mask(text)) => {
                self.edit = text;
                Step::Act(EDIT)
            }
        }
    }
}

/// Where the walk stands, and what is marked there.
#[derive(Clone)]
pub(crate) struct Place<S> {
    state: State<S>,
    marks: u64,
    is_root: bool,
}

impl<'m, S: Bits, I: Inspect> Guide<'m> for Inspecting<'m, S, I> {
    type State = Place<S>;

    fn root(&mut self) -> Place<S> {
        let mut machine = self.machine;
        Place { state: machine.root(), marks: self.inspect.everywhere(), is_root: true }
    }

    #[inline(always)]
    fn spares(&mut self, from: &Place<S>, name: Name<'_>, value: &Element<'_>) -> bool {
        self.machine.passes(&from.state, name)
            && value.kind() != kind::CODE_WITH_SCOPE
            && (from.marks == 0 || self.inspect.spares(from.marks, name.bytes, value))
    }

    #[inline(always)]
    fn field(&mut self, from: &Place<S>, name: Name<'_>, value: Option<&Element<'_>>) -> (Place<S>, Step) {
        self.step(from, By::Field(name), value)
    }

    fn index(&mut self, from: &Place<S>, digits: &[u8], value: Option<&Element<'_>>) -> (Place<S>, Step) {
        self.step(from, By::Index(digits), value)
    }

    fn action(&mut self, number: u32) -> Action<'m> {
        let mut machine = self.machine;
        match number {
            EDIT => Action::Replace(Value::from(std::mem::take(&mut self.edit))),
            _ => machine.action(number),
        }
    }

    fn detail(&mut self, from: &Place<S>, name: Name<'_>, value: Option<&Element<'_>>) -> (Place<S>, Step) {
        self.step(from, By::Detail(name), value)
    }

    fn mentions(&mut self, text: &[u8]) -> bool {
        let mut machine = self.machine;
        machine.mentions(text)
    }

    fn closed(&self) -> bool {
        self.machine.closed()
    }

    fn straddle(&mut self, plain: &Place<S>, path: &[u8], value: &Element<'_>) -> Option<(Place<S>, Step)> {
        let (state, ended, step) = self.machine.straddle(&plain.state, path);
        let place = Place { state, marks: plain.marks | self.machine.marks(ended), is_root: false };
        let step = self.look(&place, step, false, Some(value));
        Some((place, step))
    }

    fn hides_path(&mut self, path: &[u8]) -> bool {
        let root = self.root();
        let (_, ended, _) = self.machine.straddle(&root.state, path);
        let marks = root.marks | self.machine.marks(ended);
        // As one name, and each part alone: a dot beside a text may change what it is taken for.
        marks != 0
            && (self.inspect.text(marks, path)
                || path.split(|b| *b == b'.').any(|name| self.inspect.text(marks, name)))
    }

    fn hides_text(&mut self, text: &[u8]) -> bool {
        let marks = self.inspect.everywhere();
        marks != 0 && self.inspect.text(marks, text)
    }

    fn masked(&mut self, value: &Element<'_>, keep_last: usize) -> Option<String> {
        if keep_last == 0 || self.acting == 0 {
            None
        } else {
            self.inspect.masked(self.acting, value, keep_last)
        }
    }

    fn refusal(&self) -> Option<String> {
        self.lost_id.then(|| {
            "a value rule would remove or replace an `_id`, which tells documents apart; use mask, or pseudonymise it before"
                .into()
        })
    }
}
