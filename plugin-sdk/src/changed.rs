//! Which fields an update changed, and which of them a pattern covers.

use bson_walker::{Doc, Element, kind};

use crate::event::Event;
use crate::rules::Pattern;

/// One place that an update set, removed or cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<'a> {
    names: Vec<Part<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part<'a> {
    name: &'a [u8],
    /// Whether it may be an array's index.
    may_be_index: bool,
}

impl<'a> Change<'a> {
    /// A dotted path; `exact` is what `disambiguatedPaths` says of it.
    fn new(path: &'a [u8], exact: Option<Doc<'a>>) -> Self {
        let Some(exact) = exact else {
            let names = path.split(|b| *b == b'.').enumerate();
            // The top is a document, so the first name is no index.
            let part = |(i, name): (usize, &'a [u8])| Part { name, may_be_index: i > 0 && is_number(name) };
            return Change { names: names.map(part).collect() };
        };
        let part = |part: Element<'a>| match part.string_bytes() {
            Some(name) => Part { name, may_be_index: false },
            // No rule needs to name an index.
            None => Part { name: b"0", may_be_index: true },
        };
        Change { names: exact.elements().map_while(Result::ok).map(part).collect() }
    }
}

fn is_number(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(u8::is_ascii_digit)
}

impl<'a> Event<'a> {
    /// The places that an update changed; none where the event has no delta. A part of the delta that is not understood counts as a
    /// change that no pattern covers.
    pub fn changes(&self) -> Vec<Change<'a>> {
        let Some(delta) = self.delta() else { return Vec::new() };
        let exact = delta.get("disambiguatedPaths").and_then(|e| e.as_doc());
        let change = |path: &'a [u8]| {
            let exact = exact.and_then(|e| e.elements().map_while(Result::ok).find(|e| e.name() == path));
            Change::new(path, exact.and_then(|e| e.as_doc()))
        };
        let unknown = || Change { names: Vec::new() };
        let mut changes = Vec::new();
        for part in delta.elements() {
            let part = match part {
                Ok(part) if part.name() == b"disambiguatedPaths" || part.kind() == kind::NULL => continue,
                Ok(part) => part,
                Err(_) => {
                    changes.push(unknown());
                    continue;
                }
            };
            let path = |entry: &Element<'a>| match part.name() {
                b"updatedFields" => Some(entry.name()),
                b"removedFields" => entry.string_bytes(),
                b"truncatedArrays" => entry.as_doc()?.get("field")?.string_bytes(),
                _ => None,
            };
            match part.as_doc() {
                Some(entries) => changes.extend(
                    entries
                        .elements()
                        .map(|entry| entry.ok().and_then(|entry| path(&entry)).map_or_else(unknown, change)),
                ),
                None => changes.push(unknown()),
            }
        }
        changes
    }
}

impl Pattern {
    /// Whether the change is at the pattern's path or below it. One above it (a parent set as a whole) is not covered.
    pub fn covers(&self, change: &Change<'_>) -> bool {
        let mut at = vec![false; self.steps.len()];
        at[0] = true;
        for part in &change.names {
            let mut next = vec![false; at.len()];
            for (i, step) in self.steps.iter().enumerate().filter(|(i, _)| at[*i]) {
                if step.name.as_ref().is_none_or(|name| name.as_bytes() == part.name) {
                    match next.get_mut(i + 1) {
                        Some(next) => *next = true,
                        None => return true,
                    }
                }
                next[i] |= step.far || part.may_be_index;
            }
            at = next;
        }
        false
    }
}
