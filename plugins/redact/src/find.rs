//! Value rules: what is found inside values, wherever they stand, and what becomes of it.

mod card;
mod email;
mod iban;
mod regex;
mod scan;
mod text;

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;

use plugin_sdk::bson_walker::{Element, kind};
use plugin_sdk::rules::{Found, Inspect};
use plugin_sdk::value::{MASK, tail};

pub(crate) use regex::Regexes;
use scan::Profile;
use text::{Names, Text};

/// How many value rules there can be: each has a bit.
pub(crate) const MAX_FINDS: usize = 64;

/// What a value rule looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Card,
    Email,
    Iban,
    /// The expression of that number.
    Regex(usize),
}

/// What becomes of a match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Edit {
    /// The whole field goes.
    Remove,
    Mask {
        keep_last: usize,
    },
    Replace(String),
}

/// The value rules of a configuration, in file order. Bit n of marks is for rule n.
#[derive(Debug, Default)]
pub(crate) struct Finds {
    rules: Vec<(Kind, Edit)>,
    regexes: Option<Regexes>,
    cards: u64,
    emails: u64,
    ibans: u64,
    matched: u64,
    /// How many digits a text has at least in which a regex matches.
    digits: u32,
    /// No rule finds anything in a shorter text.
    min_len: usize,
    /// The least number whose digits any rule could find something in.
    least: u64,
    clean: RefCell<Names>,
}

/// What one rule found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    place: Range<usize>,
    rule: usize,
}

impl Finds {
    pub(crate) fn new(rules: Vec<(Kind, Edit)>, regexes: Option<Regexes>) -> Self {
        let mut finds = Finds { regexes, min_len: usize::MAX, ..Finds::default() };
        let shortest_match = finds.regexes.as_ref().map_or(0, Regexes::shortest);
        finds.digits = finds.regexes.as_ref().map_or(0, Regexes::digits);
        for (i, (kind, _)) in rules.iter().enumerate() {
            let (bits, shortest) = match kind {
                Kind::Card => (&mut finds.cards, card::MIN_DIGITS as usize),
                Kind::Email => (&mut finds.emails, email::MIN_LEN),
                Kind::Iban => (&mut finds.ibans, iban::MIN_LEN),
                Kind::Regex(_) => (&mut finds.matched, shortest_match),
            };
            *bits |= 1 << i;
            finds.min_len = finds.min_len.min(shortest);
        }
        // One digit less than the text, which may have a sign, has at least.
        let regex = if finds.matched == 0 { usize::MAX } else { shortest_match };
        let shortest_number = regex.min(card::MIN_DIGITS as usize + 1) as u32;
        finds.least = shortest_number.checked_sub(2).map_or(0, |zeros| 10_u64.saturating_pow(zeros));
        Finds { rules, ..finds }
    }

    /// Those of these marks whose rules may find something in a text of this profile: most texts have too few digits, and no `@`.
    #[inline]
    fn promising(&self, marks: u64, len: usize, profile: Profile) -> u64 {
        let of = |kind: u64, promising: bool| if promising { kind } else { 0 };
        let iban = profile.digits > 1 && len >= iban::MIN_LEN;
        marks
            & (of(self.cards, profile.digits >= card::MIN_DIGITS)
                | of(self.emails, profile.at)
                | of(self.ibans, iban)
                | of(self.matched, profile.digits >= self.digits))
    }

    /// Whether a text is seen to be clean without a closer look.
    #[inline(always)]
    fn is_plain(&self, marks: u64, text: &[u8]) -> bool {
        text.len() < self.min_len || {
            let profile = Profile::of(text);
            !profile.backslash && self.promising(marks, text.len(), profile) == 0
        }
    }

    /// All that the rules of these marks find in a text, in no order.
    #[inline]
    fn spans(&self, marks: u64, text: &[u8]) -> Vec<Span> {
        let profile = Profile::of(text);
        let promising = self.promising(marks, text.len(), profile);
        let mut spans = Vec::new();
        if promising != 0 {
            self.search(promising, text, &mut spans);
        }
        if profile.backslash {
            self.search_escaped(marks, text, &mut spans);
        }
        spans
    }

    /// What only shows once the escapes of a JSON text are read has no place in the text as it is: all of it goes.
    #[inline(never)]
    fn search_escaped(&self, marks: u64, text: &[u8], spans: &mut Vec<Span>) {
        let Some(plain) = text::without_escapes(text) else { return };
        let mut inside = Vec::new();
        self.search(self.promising(marks, plain.len(), Profile::of(&plain)), &plain, &mut inside);
        if inside.len() > spans.len() {
            spans.extend(inside.into_iter().map(|s| Span { place: 0..text.len(), ..s }));
        }
    }

    #[inline(never)]
    fn search(&self, marks: u64, text: &[u8], spans: &mut Vec<Span>) {
        let (cards, emails, ibans) = (marks & self.cards, marks & self.emails, marks & self.ibans);
        let mut push = |marks: u64, place: Range<usize>| {
            spans.extend(bits(marks).map(|rule| Span { place: place.clone(), rule }));
        };
        if cards != 0 {
            card::find(text, &mut |place| push(cards, place));
        }
        if emails != 0 {
            email::find(text, &mut |place| push(emails, place));
        }
        if ibans != 0 {
            iban::find(text, &mut |place| push(ibans, place));
        }
        let matched = marks & self.matched;
        let Some(regexes) = self.regexes.as_ref().filter(|r| matched != 0 && r.any(text)) else { return };
        for rule in bits(matched) {
            if let Kind::Regex(number) = self.rules[rule].0 {
                regexes.find(number, text, &mut |place| push(1 << rule, place));
            }
        }
    }

    /// The text with every match dealt with.
    fn edited(&self, text: &str, spans: Vec<Span>) -> Found {
        if spans.iter().any(|s| self.rules[s.rule].1 == Edit::Remove) {
            return Found::Remove;
        }
        let mut out = String::with_capacity(text.len());
        let mut at = 0;
        let mut replaced = false;
        for span in merged(spans, text) {
            out.push_str(&text[at..span.place.start]);
            match (&self.rules[span.rule].1, span.is_whole) {
                (Edit::Mask { keep_last }, true) => {
                    out.push_str(MASK);
                    out.push_str(tail(&text[span.place.clone()], *keep_last));
                }
                (Edit::Replace(value), _) => {
                    replaced = true;
                    out.push_str(value);
                }
                _ => out.push_str(MASK),
            }
            at = span.place.end;
        }
        out.push_str(&text[at..]);
        if replaced { Found::Replace(out) } else { Found::Mask(out) }
    }

    /// A value that has a match, but no text in which it could be dealt with alone.
    fn hidden(&self, spans: &[Span]) -> Found {
        let first = spans.iter().map(|s| s.rule).min().and_then(|rule| self.rules.get(rule));
        match first {
            _ if spans.iter().any(|s| self.rules[s.rule].1 == Edit::Remove) => Found::Remove,
            Some((_, Edit::Replace(value))) => Found::Replace(value.clone()),
            _ => Found::Mask(MASK.into()),
        }
    }
}

/// A place that is dealt with at once.
struct Merged {
    place: Range<usize>,
    /// The first of the rules that match in it.
    rule: usize,
    /// Whether that rule matches all of it.
    is_whole: bool,
}

/// Sorts matches and joins those that overlap, so that none is left in part. A match ends where characters do.
fn merged(mut spans: Vec<Span>, text: &str) -> Vec<Merged> {
    for span in &mut spans {
        while !text.is_char_boundary(span.place.start) {
            span.place.start -= 1;
        }
        while !text.is_char_boundary(span.place.end) {
            span.place.end += 1;
        }
    }
    spans.sort_by_key(|s| (s.place.start, s.rule));
    let mut all: Vec<Merged> = Vec::with_capacity(spans.len());
    for Span { place, rule } in spans {
        match all.last_mut().filter(|last| place.start < last.place.end) {
            Some(last) => {
                let union = last.place.start..last.place.end.max(place.end);
                let is_whole =
                    if rule < last.rule { place == union } else { last.is_whole && last.place == union };
                *last = Merged { place: union, rule: rule.min(last.rule), is_whole };
            }
            None => all.push(Merged { place, rule, is_whole: true }),
        }
    }
    all
}

/// The numbers of the bits that are set.
fn bits(mut marks: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (marks != 0).then(|| marks.trailing_zeros() as usize)?;
        marks &= marks - 1;
        Some(bit)
    })
}

/// The value rules at work on one event.
pub(crate) struct Search<'f> {
    pub(crate) finds: &'f Finds,
    pub(crate) everywhere: u64,
}

impl Inspect for Search<'_> {
    fn everywhere(&self) -> u64 {
        self.everywhere
    }

    #[inline(always)]
    fn spares(&mut self, marks: u64, name: &[u8], value: &Element<'_>) -> bool {
        let plain = match value.kind() {
            kind::STRING => value.string_bytes().is_some_and(|text| self.finds.is_plain(marks, text)),
            kind::INT32 => value.as_i32().is_some_and(|n| u64::from(n.unsigned_abs()) < self.finds.least),
            kind::OBJECT_ID | kind::DATE | kind::BOOLEAN | kind::NULL | kind::BINARY => true,
            _ => false,
        };
        plain && self.finds.is_plain(marks, name)
    }

    fn value(&mut self, marks: u64, value: &Element<'_>) -> Option<Found> {
        let finds = self.finds;
        let text = Text::of(value, finds.least).filter(|text| text.bytes().len() >= finds.min_len)?;
        let spans = finds.spans(marks, text.bytes());
        if spans.is_empty() {
            return None;
        }
        Some(match text.as_str() {
            Some(text) => finds.edited(text, spans),
            None => finds.hidden(&spans),
        })
    }

    fn masked(&mut self, marks: u64, value: &Element<'_>, keep_last: usize) -> Option<String> {
        let finds = self.finds;
        let text = Text::of(value, 0)?;
        let spans = finds.spans(marks, text.bytes());
        let text = text.as_str().filter(|_| !spans.is_empty())?;
        // What the rules themselves would show of their matches may be seen, and what is behind the last one.
        let hidden = spans.iter().map(|span| match finds.rules[span.rule].1 {
            Edit::Remove => text.len(),
            Edit::Replace(_) => span.place.end,
            Edit::Mask { keep_last } => {
                let matched = String::from_utf8_lossy(&text.as_bytes()[span.place.clone()]);
                match matched {
                    Cow::Borrowed(matched) => span.place.end - tail(matched, keep_last).len(),
                    Cow::Owned(_) => span.place.end,
                }
            }
        });
        let hidden = hidden.max().unwrap_or(text.len());
        let mut from = hidden.max(text.len() - tail(text, keep_last).len());
        while !text.is_char_boundary(from) {
            from += 1;
        }
        Some([MASK, &text[from..]].concat())
    }

    fn text(&mut self, marks: u64, text: &[u8]) -> bool {
        let finds = self.finds;
        if text.len() < finds.min_len {
            return false;
        }
        // Names are remembered only for regexes that tell nothing before they are searched for.
        if marks & finds.matched == 0 || finds.digits > 0 {
            return !finds.spans(marks, text).is_empty();
        }
        !finds.clean.borrow_mut().is_clean(marks, text, || finds.spans(marks, text).is_empty())
    }
}
