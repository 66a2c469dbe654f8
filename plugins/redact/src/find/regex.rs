//! Regular expressions of the operator's, as lazily built automata: time in proportion to the text, whatever the pattern.

use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::ops::Range;

use regex_automata::Input;
use regex_automata::hybrid::dfa::{Cache, Config, DFA};
use regex_automata::hybrid::regex;
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;

/// How large a pattern may be once compiled.
const SIZE_LIMIT: usize = 1 << 20;
const CACHE_BYTES: usize = 1 << 20;

/// All expressions of a configuration.
pub(crate) struct Regexes {
    patterns: Vec<String>,
    /// Says whether any of them matches, in one pass: in most texts none does.
    any: DFA,
    cache: RefCell<Cache>,
    each: Vec<OnceCell<Option<(regex::Regex, RefCell<regex::Cache>)>>>,
}

impl Regexes {
    pub(crate) fn new(patterns: Vec<String>) -> Result<Option<Regexes>, String> {
        if patterns.is_empty() {
            return Ok(None);
        }
        let any = DFA::builder().configure(config()).syntax(syntax()).thompson(nfa()).build_many(&patterns);
        let any = any.map_err(|e| said(&e))?;
        let cache = RefCell::new(any.create_cache());
        let each = patterns.iter().map(|_| OnceCell::new()).collect();
        Ok(Some(Regexes { patterns, any, cache, each }))
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

/// Checks one expression. An error says what is wrong with it.
pub(crate) fn check(pattern: &str) -> Result<(), String> {
    let Some(one) = Regexes::new(vec![pattern.into()])? else { return Ok(()) };
    if one.any(b"") {
        return Err("it matches the empty text, so it would match everywhere".into());
    }
    let mut names_id = false;
    one.find(0, b"_id", &mut |_| names_id = true);
    if names_id {
        return Err(
            "it matches the name `_id`; fields of such names are removed, and `_id` tells documents apart"
                .into(),
        );
    }
    Ok(())
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
