//! All rules as one machine: a set of bits says how far each rule has come, and a name moves all of them at once.

use bson_walker::{Element, kind};

use super::{Default, Pattern};
use crate::guide::{Guide, Name, Step, is_leaf};
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
    /// Of marks.
    mark: S,
    /// Names, the positions before them, and the next name in the bucket, counted from 1.
    names: Vec<(Box<str>, S, u16)>,
    buckets: [u16; BUCKETS],
    /// The rule at each position; the number of the mark at each of a mark.
    rule_at: Vec<u16>,
    actions: Vec<Action<'static>>,
    default: Default,
}

/// How far the rules and marks have come, and whether a rule that keeps covers the place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct State<S> {
    at: S,
    kept: bool,
}

impl<S> State<S> {
    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }
}

/// What a position's rule is for.
#[derive(Clone, Copy)]
enum Purpose {
    Redact,
    Keep,
    Mark,
}

impl<S: Bits> Machine<S> {
    pub(super) fn new(
        rules: Vec<(Pattern, Action<'static>)>,
        marks: &[(Pattern, u8)],
        default: Default,
    ) -> Self {
        let mut machine = Machine {
            start: S::NONE,
            any_name: S::NONE,
            far: S::NONE,
            last: S::NONE,
            redact: S::NONE,
            keep: S::NONE,
            mark: S::NONE,
            names: Vec::new(),
            buckets: [0; BUCKETS],
            rule_at: Vec::new(),
            actions: Vec::with_capacity(rules.len()),
            default,
        };
        for (pattern, action) in rules {
            let purpose = if action == Action::Keep { Purpose::Keep } else { Purpose::Redact };
            machine.pattern(&pattern, machine.actions.len() as u16, purpose);
            machine.actions.push(action);
        }
        for (pattern, mark) in marks {
            machine.pattern(pattern, u16::from(*mark), Purpose::Mark);
        }
        machine
    }

    fn pattern(&mut self, pattern: &Pattern, number: u16, purpose: Purpose) {
        let begin = self.rule_at.len();
        self.start.insert(begin);
        self.last.insert(begin + pattern.steps.len() - 1);
        for step in &pattern.steps {
            self.step(step.far, step.name.as_deref(), purpose);
            self.rule_at.push(number);
        }
    }

    fn step(&mut self, far: bool, name: Option<&str>, purpose: Purpose) {
        let position = self.rule_at.len();
        match purpose {
            Purpose::Redact => self.redact.insert(position),
            Purpose::Keep => self.keep.insert(position),
            Purpose::Mark => self.mark.insert(position),
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
    #[inline(always)]
    fn lookup(&self, name: &[u8]) -> S {
        let mut entry = self.buckets[bucket(name)];
        while let Some((candidate, positions, next)) = self.names.get(usize::from(entry).wrapping_sub(1)) {
            if is_same(candidate.as_bytes(), name) {
                return positions.or(self.any_name);
            }
            entry = *next;
        }
        self.any_name
    }

    /// Whether no rule says anything about a leaf of this name, as is quickly seen of most.
    #[inline(always)]
    pub(super) fn passes(&self, from: &State<S>, name: Name<'_>) -> bool {
        from.kept
            && !name.has_dot
            && self.buckets[bucket(name.bytes)] == 0
            && !from.at.and(self.any_name).any()
    }

    /// Moves over one name without dots: where the rules stand then, and those that end here. A number may be an index,
    /// which no rule needs to name.
    // Always, like all that every field goes through: results handed over in memory took longer than the work itself.
    #[inline(always)]
    fn name(&self, at: S, name: &[u8]) -> (S, S) {
        let hit = at.and(self.lookup(name));
        let next = hit.without(self.last).next().or(at.and(self.far));
        let next = if is_number(name) { next.or(at) } else { next };
        (next, hit.and(self.last))
    }

    /// Moves over a path of names; rules that end on the way cover what is below, too.
    #[inline(never)]
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
    #[inline(never)]
    fn dotted(&self, at: S, name: &[u8]) -> (S, S) {
        let (next, ended) = self.names(at, name);
        let hit = at.and(self.any_name);
        (next.or(hit.without(self.last).next()).or(at.and(self.far)), ended.or(hit.and(self.last)))
    }

    #[inline(always)]
    fn decide(&self, from: &State<S>, (at, ended): (S, S), value: Option<&Element<'_>>) -> (State<S>, Step) {
        if let Some(position) = ended.and(self.redact).first() {
            return (State { at, kept: from.kept }, Step::Act(u32::from(self.rule_at[position])));
        }
        let kept = from.kept || ended.and(self.keep).any();
        let step = if kept {
            if at.and(self.redact).any() { Step::Enter } else { Step::Skip }
        } else if self.default == Default::Mask {
            if value.is_some_and(is_leaf) { Step::Act(UNNAMED) } else { Step::Enter }
        } else if at.and(self.keep).any() {
            Step::Hollow
        } else {
            Step::Act(UNNAMED)
        };
        (State { at, kept }, step)
    }

    /// One step of a path, whatever it is a step of: where the rules stand then, those that end here, and what they say.
    #[inline(always)]
    pub(super) fn advance(
        &self,
        from: &State<S>,
        by: By<'_>,
        value: Option<&Element<'_>>,
    ) -> (State<S>, S, Step) {
        let (at, ended) = match by {
            By::Field(name) if name.has_dot => self.dotted(from.at, name.bytes),
            By::Field(name) => self.name(from.at, name.bytes),
            By::Index(digits) => {
                let (next, ended) = self.name(from.at, digits);
                (next.or(from.at), ended)
            }
            By::Detail(name) => return self.detail(from, name, value),
        };
        let (state, step) = self.decide(from, (at, ended), value);
        (state, ended, step)
    }

    /// Any names may stand before, between and after those of a rule.
    #[inline(never)]
    fn detail(&self, from: &State<S>, name: Name<'_>, value: Option<&Element<'_>>) -> (State<S>, S, Step) {
        let mut at = from.at;
        let mut ended = S::NONE;
        for part in name.bytes.split(|b| *b == b'.') {
            let (next, end) = self.name(at, part);
            at = at.or(next);
            ended = ended.or(end);
        }
        // What is kept is for `closed` to say.
        let ended = ended.without(self.keep);
        let (state, step) = self.decide(&State { at: from.at, kept: true }, (at, ended), value);
        (state, ended, step)
    }

    /// Lets a `*` stand for several names in a row.
    #[inline(never)]
    pub(super) fn straddle(&self, plain: &State<S>, path: &[u8]) -> (State<S>, S, Step) {
        let mut at = self.start;
        let mut ended = S::NONE;
        for name in path.split(|b| *b == b'.') {
            let (next, end) = self.name(at, name);
            at = next.or(at.and(self.any_name));
            ended = ended.or(end);
        }
        let ended = ended.without(self.keep);
        let at = plain.at.or(at.without(self.keep));
        // The value is not asked: what is unnamed in the plain reading was masked already.
        let (state, step) = self.decide(plain, (at, ended), None);
        (state, ended, step)
    }

    /// The numbers of the marks that end here, as bits.
    #[inline]
    pub(super) fn marks(&self, ended: S) -> u64 {
        let mut rest = ended.and(self.mark);
        let mut marks = 0;
        while let Some(position) = rest.first() {
            marks |= 1 << self.rule_at[position];
            let mut seen = S::NONE;
            seen.insert(position);
            rest = rest.without(seen);
        }
        marks
    }

    /// Whether a mark may end below.
    #[inline]
    pub(super) fn marks_below(&self, state: &State<S>) -> bool {
        state.at.and(self.mark).any()
    }
}

/// One step of a path.
#[derive(Clone, Copy)]
pub(super) enum By<'n> {
    Field(Name<'n>),
    Index(&'n [u8]),
    Detail(Name<'n>),
}

#[inline]
fn bucket(name: &[u8]) -> usize {
    match name {
        [first, .., last] => (usize::from(*first) ^ usize::from(*last) << 3 ^ name.len() << 5) % BUCKETS,
        [only] => usize::from(*only),
        [] => 0,
    }
}

/// Whether two names are the same, a word at a time: what compares them by default in the sandbox goes byte by byte.
#[inline]
fn is_same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    if let (Some(last), Some(theirs)) = (a.last_chunk::<8>(), b.last_chunk::<8>()) {
        return last == theirs && (a.len() == 8 || a.as_chunks::<8>().0 == b.as_chunks::<8>().0);
    }
    if let (Some(last), Some(theirs)) = (a.last_chunk::<4>(), b.last_chunk::<4>()) {
        return last == theirs && a.first_chunk::<4>() == b.first_chunk::<4>();
    }
    a.first() == b.first() && a.last() == b.last() && a.get(1) == b.get(1)
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

    #[inline(always)]
    fn spares(&mut self, from: &State<S>, name: Name<'_>, value: &Element<'_>) -> bool {
        self.passes(from, name) && value.kind() != kind::CODE_WITH_SCOPE
    }

    #[inline(always)]
    fn field(&mut self, from: &State<S>, name: Name<'_>, value: Option<&Element<'_>>) -> (State<S>, Step) {
        let (state, _, step) = self.advance(from, By::Field(name), value);
        (state, step)
    }

    fn index(&mut self, from: &State<S>, digits: &[u8], value: Option<&Element<'_>>) -> (State<S>, Step) {
        let (state, _, step) = self.advance(from, By::Index(digits), value);
        (state, step)
    }

    fn action(&mut self, number: u32) -> Action<'m> {
        match self.actions.get(number as usize) {
            Some(action) => action.borrow(),
            None if self.default == Default::Mask => Action::Mask { keep_last: 0 },
            None => Action::Remove,
        }
    }

    fn detail(&mut self, from: &State<S>, name: Name<'_>, value: Option<&Element<'_>>) -> (State<S>, Step) {
        let (state, _, step) = self.advance(from, By::Detail(name), value);
        (state, step)
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
        self.default != Default::Keep
    }

    fn straddle(&mut self, plain: &State<S>, path: &[u8], _value: &Element<'_>) -> Option<(State<S>, Step)> {
        let (state, _, step) = Machine::straddle(self, plain, path);
        Some((state, step))
    }
}
