//! All rules as one machine: a set of bits says how far each rule has come, and a name moves all of them at once.

use bson_walker::Element;

use super::{Default, Pattern};
use crate::guide::{Guide, Name, Step};
use crate::value::Action;

/// A set of positions.
pub trait Bits: Copy + std::fmt::Debug + PartialEq {
    /// How many positions there are.
    const COUNT: usize;
    /// No position.
    const NONE: Self;
    /// Adds one.
    fn insert(&mut self, position: usize);
    /// Those in both.
    fn and(self, other: Self) -> Self;
    /// Those in either.
    fn or(self, other: Self) -> Self;
    /// Those in `self` only.
    fn without(self, other: Self) -> Self;
    /// Each moved to the next.
    fn next(self) -> Self;
    /// The lowest.
    fn first(self) -> Option<usize>;
    /// Whether there is one.
    fn any(self) -> bool {
        self != Self::NONE
    }
}

impl Bits for u64 {
    const COUNT: usize = 64;
    const NONE: Self = 0;
    fn insert(&mut self, position: usize) {
        *self |= 1 << position;
    }
    fn and(self, other: Self) -> Self {
        self & other
    }
    fn or(self, other: Self) -> Self {
        self | other
    }
    fn without(self, other: Self) -> Self {
        self & !other
    }
    fn next(self) -> Self {
        self << 1
    }
    fn first(self) -> Option<usize> {
        (self != 0).then(|| self.trailing_zeros() as usize)
    }
}

/// A set for many rules.
pub(super) type Wide = [u64; 16];

impl Bits for Wide {
    const COUNT: usize = 1024;
    const NONE: Self = [0; 16];
    fn insert(&mut self, position: usize) {
        self[position / 64] |= 1 << (position % 64);
    }
    fn and(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] & other[i])
    }
    fn or(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] | other[i])
    }
    fn without(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] & !other[i])
    }
    fn next(self) -> Self {
        std::array::from_fn(|i| self[i] << 1 | if i == 0 { 0 } else { self[i - 1] >> 63 })
    }
    fn first(self) -> Option<usize> {
        let word = self.iter().position(|w| *w != 0)?;
        Some(word * 64 + self[word].trailing_zeros() as usize)
    }
}

/// The number of no rule: what becomes of a value that no rule names.
pub(super) const UNNAMED: u32 = u32::MAX;

const BUCKETS: usize = 256;

/// The compiled rules. A position stands before one name of one rule; positions are in file order.
#[derive(Debug)]
pub struct Machine<S> {
    /// Before the rules' first names.
    start: S,
    /// Before a `*`.
    any_name: S,
    /// After a `**`: stays where it is, whatever the name.
    far: S,
    /// Before a rule's last name.
    last: S,
    /// Of redacting rules.
    redact: S,
    /// Of rules that keep.
    keep: S,
    /// Names, the positions before them, and the next name in the bucket, counted from 1.
    names: Vec<(Box<str>, S, u16)>,
    buckets: [u16; BUCKETS],
    rule_at: Vec<u16>,
    actions: Vec<Action<'static>>,
    default: Default,
}

/// How far the rules have come, and whether a rule that keeps covers the place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct State<S> {
    at: S,
    kept: bool,
}

impl<S: Bits> Machine<S> {
    pub(super) fn new(rules: Vec<(Pattern, Action<'static>)>, default: Default) -> Self {
        let mut machine = Machine {
            start: S::NONE,
            any_name: S::NONE,
            far: S::NONE,
            last: S::NONE,
            redact: S::NONE,
            keep: S::NONE,
            names: Vec::new(),
            buckets: [0; BUCKETS],
            rule_at: Vec::new(),
            actions: Vec::with_capacity(rules.len()),
            default,
        };
        for (pattern, action) in rules {
            let begin = machine.rule_at.len();
            machine.start.insert(begin);
            machine.last.insert(begin + pattern.steps.len() - 1);
            for (i, step) in pattern.steps.iter().enumerate() {
                machine.step(begin + i, step.far, step.name.as_deref(), action == Action::Keep);
            }
            machine.actions.push(action);
        }
        machine
    }

    fn step(&mut self, position: usize, far: bool, name: Option<&str>, keep: bool) {
        self.rule_at.push(self.actions.len() as u16);
        if keep {
            self.keep.insert(position)
        } else {
            self.redact.insert(position)
        }
        if far {
            self.far.insert(position);
        }
        let Some(name) = name else { return self.any_name.insert(position) };
        if let Some((_, positions, _)) = self.names.iter_mut().find(|(n, ..)| **n == *name) {
            return positions.insert(position);
        }
        let mut positions = S::NONE;
        positions.insert(position);
        let bucket = &mut self.buckets[bucket(name.as_bytes())];
        self.names.push((name.into(), positions, *bucket));
        *bucket = self.names.len() as u16;
    }

    /// The positions that this name satisfies.
    #[inline]
    fn lookup(&self, name: &[u8]) -> S {
        let mut entry = self.buckets[bucket(name)];
        while let Some((candidate, positions, next)) = self.names.get(usize::from(entry).wrapping_sub(1)) {
            if candidate.as_bytes() == name {
                return positions.or(self.any_name);
            }
            entry = *next;
        }
        self.any_name
    }

    /// Moves over one name without dots: where the rules stand then, and those that end here. A number may be an index,
    /// which no rule needs to name.
    #[inline]
    fn name(&self, at: S, name: &[u8]) -> (S, S) {
        let hit = at.and(self.lookup(name));
        let next = hit.without(self.last).next().or(at.and(self.far));
        let next = if is_number(name) { next.or(at) } else { next };
        (next, hit.and(self.last))
    }

    /// Moves over a path of names; rules that end on the way cover what is below, too.
    fn names(&self, mut at: S, path: &[u8]) -> (S, S) {
        let mut ended = S::NONE;
        for name in path.split(|b| *b == b'.') {
            let (next, end) = self.name(at, name);
            at = next;
            ended = ended.or(end);
        }
        (at, ended)
    }

    /// Moves over a field's name, which may contain dots: as a path, and as one name that only `*` can stand for.
    fn dotted(&self, at: S, name: &[u8]) -> (S, S) {
        let (next, ended) = self.names(at, name);
        let hit = at.and(self.any_name);
        (next.or(hit.without(self.last).next()).or(at.and(self.far)), ended.or(hit.and(self.last)))
    }

    #[inline]
    fn decide(&self, from: &State<S>, (at, ended): (S, S)) -> (State<S>, Step) {
        if let Some(position) = ended.and(self.redact).first() {
            return (State { at, kept: from.kept }, Step::Act(u32::from(self.rule_at[position])));
        }
        let kept = from.kept || ended.any();
        let step = if kept {
            if at.and(self.redact).any() { Step::Enter } else { Step::Skip }
        } else if at.and(self.keep).any() {
            Step::Hollow
        } else {
            Step::Act(UNNAMED)
        };
        (State { at, kept }, step)
    }
}

#[inline]
fn bucket(name: &[u8]) -> usize {
    match name {
        [first, .., last] => (usize::from(*first) ^ usize::from(*last) << 3 ^ name.len() << 5) % BUCKETS,
        [only] => usize::from(*only),
        [] => 0,
    }
}

#[inline]
fn is_number(name: &[u8]) -> bool {
    matches!(name, [b'0'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit))
}

impl<'m, S: Bits> Guide<'m> for &'m Machine<S> {
    type State = State<S>;

    fn root(&mut self) -> State<S> {
        State { at: self.start, kept: self.default == Default::Keep }
    }

    fn field(&mut self, from: &State<S>, name: Name<'_>, _: Option<&Element<'_>>) -> (State<S>, Step) {
        let step =
            if name.has_dot { self.dotted(from.at, name.bytes) } else { self.name(from.at, name.bytes) };
        self.decide(from, step)
    }

    fn index(&mut self, from: &State<S>, digits: &[u8], _: Option<&Element<'_>>) -> (State<S>, Step) {
        let (next, ended) = self.name(from.at, digits);
        self.decide(from, (next.or(from.at), ended))
    }

    fn action(&mut self, number: u32) -> Action<'m> {
        self.actions.get(number as usize).map_or(Action::Remove, Action::borrow)
    }

    /// Any names may stand before, between and after those of a rule.
    fn detail(&mut self, from: &State<S>, name: Name<'_>, _: Option<&Element<'_>>) -> (State<S>, Step) {
        let mut at = from.at;
        let mut ended = S::NONE;
        for part in name.bytes.split(|b| *b == b'.') {
            let (next, end) = self.name(at, part);
            at = at.or(next);
            ended = ended.or(end);
        }
        // What is kept is for `closed` to say.
        self.decide(&State { at: from.at, kept: true }, (at, ended.and(self.redact)))
    }

    /// `"$card.pan"` and `"$card"` for a rule `card.pan`; `"$$this.pan"` too, since nobody knows what `$$this` is.
    fn mentions(&mut self, text: &[u8]) -> bool {
        let (at, path) = match text {
            [b'$', b'$', rest @ ..] => {
                let Some(dot) = rest.iter().position(|b| *b == b'.') else { return false };
                (self.redact, &rest[dot + 1..])
            }
            [b'$', rest @ ..] => (self.start, rest),
            _ => return false,
        };
        let (at, ended) = self.names(at, path);
        ended.or(at.without(self.start)).and(self.redact).any()
    }

    fn closed(&self) -> bool {
        self.default == Default::Remove
    }

    /// Lets a `*` stand for several names in a row.
    fn straddle(&mut self, plain: &State<S>, path: &[u8]) -> Option<(State<S>, Step)> {
        let mut at = self.start;
        let mut ended = S::NONE;
        for name in path.split(|b| *b == b'.') {
            let (next, end) = self.name(at, name);
            at = next.or(at.and(self.any_name));
            ended = ended.or(end);
        }
        let at = plain.at.or(at.and(self.redact));
        Some(self.decide(plain, (at, ended.and(self.redact))))
    }
}
