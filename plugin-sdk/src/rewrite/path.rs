//! Dotted paths in a delta, and what a guide says about the place they name.

use bson_walker::{Doc, Element};

use super::{Decision, resolve};
use crate::guide::{Guide, Name};
use crate::value::Action;

/// What becomes of the place that a dotted path names.
pub(super) enum Fate<'v, S> {
    /// The guide decided about the place itself.
    At {
        /// Where it stands.
        state: S,
        /// What it said.
        decision: Decision<'v>,
        /// Whether the place is an array's element.
        in_array: bool,
    },
    /// Something above the place is taken out or replaced, and the place with it.
    Below {
        action: Action<'v>,
        /// The path of what is replaced, as a prefix of the path's bytes.
        prefix: usize,
        /// How many names that is.
        names: usize,
    },
}

/// One name of a path.
struct Part<'p> {
    name: &'p [u8],
    is_index: bool,
    /// Where it ends in the path.
    end: usize,
}

/// Cuts a path at its dots, or as `disambiguatedPaths` says: `["a.b", 0, "c"]`.
struct Parts<'p> {
    path: &'p [u8],
    /// Where the next name begins; beyond the path after the last.
    at: usize,
    exact: Option<bson_walker::Elements<'p>>,
}

impl<'p> Parts<'p> {
    fn new(path: &'p [u8], exact: Option<Doc<'p>>) -> Self {
        Parts { path, at: 0, exact: exact.map(|e| e.elements()) }
    }

    fn next(&mut self) -> Result<Option<Part<'p>>, String> {
        const MISFIT: &str = "`disambiguatedPaths` does not fit the path it stands for";
        let rest = self.path.get(self.at..);
        let dot = |rest: &[u8]| rest.iter().position(|b| *b == b'.').unwrap_or(rest.len());
        let (len, is_index) = match &mut self.exact {
            None => match rest {
                None => return Ok(None),
                // The top is a document, so the first name is no index.
                Some(rest) => (dot(rest), self.at > 0 && is_index(&rest[..dot(rest)])),
            },
            Some(exact) => match (exact.next(), rest) {
                (None, None) => return Ok(None),
                (Some(Ok(part)), Some(rest)) => match part.string_bytes() {
                    Some(name) if rest.starts_with(name) => (name.len(), false),
                    None if is_index(&rest[..dot(rest)]) => (dot(rest), true),
                    _ => return Err(MISFIT.into()),
                },
                _ => return Err(MISFIT.into()),
            },
        };
        let end = self.at + len;
        if end < self.path.len() && self.path[end] != b'.' {
            return Err(MISFIT.into());
        }
        let part = Part { name: &self.path[self.at..end], is_index, end };
        self.at = end + 1;
        Ok(Some(part))
    }
}

fn is_index(name: &[u8]) -> bool {
    match name {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// Follows a path from a document's top.
pub(super) fn follow<'v, G: Guide<'v>>(
    guide: &mut G,
    path: &[u8],
    exact: Option<Doc<'_>>,
    value: Option<&Element<'_>>,
) -> Result<Fate<'v, G::State>, String> {
    let mut parts = Parts::new(path, exact);
    let mut state = guide.root();
    let mut masked: Option<Action<'v>> = None;
    let (mut prefix, mut names) = (0, 0);
    while let Some(part) = parts.next()? {
        let is_last = parts.at > path.len();
        match masked.take() {
            // A masked array keeps its elements, each masked; a masked document becomes one string.
            Some(action) if part.is_index && is_last => {
                return Ok(Fate::At { state, decision: Decision::Act(action), in_array: true });
            }
            Some(action) if part.is_index => masked = Some(action),
            Some(action) => return Ok(Fate::Below { action, prefix, names }),
            None => {
                let value = if is_last { value } else { None };
                let (next, step) = if part.is_index {
                    guide.index(&state, part.name, value)
                } else {
                    guide.field(&state, Name { bytes: part.name, has_dot: part.name.contains(&b'.') }, value)
                };
                state = next;
                match resolve(guide, step) {
                    decision if is_last => return Ok(Fate::At { state, decision, in_array: part.is_index }),
                    Decision::Skip => {
                        return Ok(Fate::At { state, decision: Decision::Skip, in_array: false });
                    }
                    Decision::Act(action @ Action::Mask { .. }) => masked = Some(action),
                    // Documents and arrays stay, so what is set below them becomes tokens where it stands.
                    decision @ Decision::Act(Action::Hash(_)) => {
                        return Ok(Fate::At { state, decision, in_array: false });
                    }
                    Decision::Act(Action::Keep) | Decision::Enter | Decision::Hollow => {}
                    Decision::Act(action) => {
                        return Ok(Fate::Below { action, prefix: part.end, names: names + 1 });
                    }
                }
            }
        }
        prefix = part.end;
        names += 1;
    }
    Err("an empty `disambiguatedPaths` entry".into())
}
