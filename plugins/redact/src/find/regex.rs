//! Regular expressions of the operator's, as lazily built automata: time in proportion to the text, whatever the pattern.

use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::ops::Range;

use regex_automata::Input;
use regex_automata::hybrid::dfa::{Cache, Config, DFA};
use regex_automata::hybrid::regex;
use regex_automata::nfa::thompson;
use regex_automata::util::syntax::{self, parse_with};
use regex_syntax::hir::{Class, Hir, HirKind};

/// How large a pattern may be once compiled.
const SIZE_LIMIT: usize = 1 << 20;
const CACHE_BYTES: usize = 1 << 20;

/// One expression, with what it needs to search.
type Compiled = (regex::Regex, RefCell<regex::Cache>);

/// All expressions of a configuration.
pub(crate) struct Regexes {
    patterns: Vec<String>,
    shortest: usize,
    digits: u32,
    /// Says whether any of them matches, in one pass: in most texts none does.
    any: DFA,
    cache: RefCell<Cache>,
    each: Vec<OnceCell<Option<Compiled>>>,
}

impl Regexes {
    /// Compiles expressions. An error is about one of them, or all together.
    pub(crate) fn new(patterns: Vec<String>) -> Result<Option<Regexes>, String> {
        if patterns.is_empty() {
            return Ok(None);
        }
        let mut parsed = Vec::with_capacity(patterns.len());
        for pattern in &patterns {
            parsed.push(parse_with(pattern, &syntax()).map_err(|e| said(&e))?);
        }
        let shortest = parsed.iter().map(|p| p.properties().minimum_len().unwrap_or(0)).min().unwrap_or(0);
        let digits = parsed.iter().map(digits).min().unwrap_or(0);
        if shortest == 0 {
            return Err("it matches the empty text, so it would match everywhere".into());
        }
        let any =
            thompson::Compiler::new().configure(nfa()).build_many_from_hir(&parsed).map_err(|e| said(&e))?;
        let any = DFA::builder().configure(config()).build_from_nfa(any).map_err(|e| said(&e))?;
        let cache = RefCell::new(any.create_cache());
        let each = patterns.iter().map(|_| OnceCell::new()).collect();
        let regexes = Regexes { patterns, shortest, digits, any, cache, each };
        let mut names_id = false;
        if regexes.any(b"_id") {
            (0..regexes.patterns.len()).for_each(|n| regexes.find(n, b"_id", &mut |_| names_id = true));
        }
        if names_id {
            let what = "it matches the name `_id`; fields of such names are removed, and `_id` tells documents apart";
            return Err(what.into());
        }
        Ok(Some(regexes))
    }

    /// The length of the shortest text that one of them matches.
    pub(super) fn shortest(&self) -> usize {
        self.shortest
    }

    /// How many digits every text has that one of them matches: most texts have fewer, and need not be searched.
    pub(super) fn digits(&self) -> u32 {
        self.digits
    }

    /// Whether any of them matches somewhere. Says yes where it can't tell.
    pub(super) fn any(&self, text: &[u8]) -> bool {
        let input = Input::new(text).earliest(true);
        !matches!(self.any.try_search_fwd(&mut self.cache.borrow_mut(), &input), Ok(None))
    }

    /// Finds what one of them matches.
    pub(super) fn find(&self, number: usize, text: &[u8], found: &mut impl FnMut(Range<usize>)) {
        let one = self.each[number].get_or_init(|| {
            let mut builder = regex::Regex::builder();
            let one =
                builder.dfa(config()).syntax(syntax()).thompson(nfa()).build(&self.patterns[number]).ok()?;
            let cache = RefCell::new(one.create_cache());
            Some((one, cache))
        });
        // It was built before, as one of `any`: there is no pattern that fails here.
        let Some((one, cache)) = one else { return found(0..text.len()) };
        one.find_iter(&mut cache.borrow_mut(), text).filter(|m| !m.is_empty()).for_each(|m| found(m.range()));
    }
}

/// How many digits whatever this matches has at least.
fn digits(expression: &Hir) -> u32 {
    match expression.kind() {
        HirKind::Empty | HirKind::Look(_) => 0,
        HirKind::Literal(literal) => literal.0.iter().filter(|b| b.is_ascii_digit()).count() as u32,
        HirKind::Class(Class::Bytes(class)) => {
            u32::from(class.ranges().iter().all(|r| r.start() >= b'0' && r.end() <= b'9'))
        }
        HirKind::Class(Class::Unicode(_)) => 0,
        HirKind::Repetition(repetition) => repetition.min.saturating_mul(digits(&repetition.sub)),
        HirKind::Capture(capture) => digits(&capture.sub),
        HirKind::Concat(parts) => parts.iter().map(digits).fold(0, u32::saturating_add),
        HirKind::Alternation(parts) => parts.iter().map(digits).min().unwrap_or(0),
    }
}

fn config() -> Config {
    Config::new().cache_capacity(CACHE_BYTES).skip_cache_capacity_check(true)
}

fn syntax() -> syntax::Config {
    syntax::Config::new().unicode(false).utf8(false)
}

fn nfa() -> thompson::Config {
    thompson::Config::new().utf8(false).nfa_size_limit(Some(SIZE_LIMIT))
}

/// An error with its causes; the parser's draws the place on lines of its own.
fn said(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string().lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned()
}

impl fmt::Debug for Regexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.patterns).finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_digits_of_the_match_with_the_fewest_are_counted() {
        for (pattern, digits) in [
            (r"\b\d{3}-\d{2}-\d{4}\b", 9),
            ("CUST-[0-9]{6}", 6),
            ("CUST2-(?:[1-3]{2}){3,}", 7),
            ("(?:1|22|x)9+", 1),
            ("(?:1|22|33x)9+", 2),
            ("(?:12)?[A-F]+", 0),
            ("x[0-9a-f]{8}", 0),
            (r"x\d*", 0),
            (r"x\w+", 0),
        ] {
            let regexes = Regexes::new(vec![pattern.into()]).unwrap().unwrap();
            assert_eq!(regexes.digits(), digits, "{pattern}");
        }
        let several = Regexes::new(vec!["CUST-[0-9]{6}".into(), "EMP-[0-9]{4}".into()]).unwrap().unwrap();
        assert_eq!(several.digits(), 4);
    }
}
