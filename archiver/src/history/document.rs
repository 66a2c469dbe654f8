//! Applies a change event's delta to a document's raw BSON, so that the result is byte for byte what MongoDB stored.
//!
//! A delta is MongoDB's `updateDescription`: `{updatedFields, removedFields, truncatedArrays, disambiguatedPaths}`.
//! Its paths are text with dots, so a path can have several readings (`a.0`: an element or a field named "0"; `a.b`: a
//! nested field or a field with a dot in its name). `disambiguatedPaths` (MongoDB 6.1+) settles it; without it the
//! document decides, and where it can't, the answer is [`Unapplied::Ambiguous`], never a guess.
//!
//! Known limits, all of them MongoDB's: a pipeline update that moves an existing field to the end is reported like one
//! that sets it in place (told apart only where a new field or `_id` comes before it in `updatedFields`); and before
//! 6.1 a field newly made with a dot in its name is reported like a nested one that could exist.

use std::collections::HashMap;

use bson_walker::{Doc, Element, Writer, kind};

/// The most components a path may have; MongoDB nests at most 180 to 200 levels.
const MAX_COMPONENTS: usize = 256;
/// MongoDB pads an array with at most this many nulls in one update.
const MAX_PADDING: usize = 1_500_000;

/// Why a delta could not be applied. Never holds document contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unapplied {
    /// A path of the delta can be read in several ways for this document.
    #[error("a changed path is ambiguous: it has several readings")]
    Ambiguous,
    /// The delta does not belong to this document: a path leads through something that is not there.
    #[error("the change does not fit the document: {0}")]
    Mismatch(&'static str),
    /// The delta or the document is not what MongoDB writes.
    #[error("not a valid change: {0}")]
    Malformed(&'static str),
}

/// What the document and the delta hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Everything, as MongoDB has it.
    Full,
    /// What plugins left of it: parents of a changed field may be missing, or replaced by a plain value.
    Redacted,
}

/// Applies `delta` to `doc` and returns the new document's bytes.
///
/// Existing fields keep their place, new ones are appended in the delta's order; setting past an array's end pads it
/// with nulls; removing what is not there changes nothing. In redacted contents missing parents become documents, and
/// nothing is set inside a plain value.
pub fn apply(doc: &[u8], delta: Doc<'_>, contents: Contents) -> Result<Vec<u8>, Unapplied> {
    let root = Doc::new(doc).map_err(|e| Unapplied::Malformed(e.what))?;
    let edits = collect(root, delta, contents)?;
    let mut out = Vec::with_capacity(doc.len() + delta.as_bytes().len());
    let mut writer = Writer::begin(&mut out);
    rewrite_doc(root, &edits, &mut writer)?;
    writer.end();
    Ok(out)
}

/// One step of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step<'a> {
    Field(&'a [u8]),
    Index(usize),
}

/// What a delta does at one place, and below it.
#[derive(Debug, Default)]
struct Edits<'a> {
    action: Option<Action<'a>>,
    /// An array is cut to this size before anything else happens to it.
    truncate: Option<usize>,
    /// From here on, the level's entries in `updatedFields` are inserts: MongoDB lists sets in place first.
    inserting: bool,
    order: Vec<(Step<'a>, Edits<'a>)>,
    by_step: HashMap<Step<'a>, usize>,
}

#[derive(Debug, Clone, Copy)]
enum Action<'a> {
    Set(Element<'a>),
    /// Set, and taken from its place to the end.
    Move(Element<'a>),
    Remove,
}

impl<'a> Edits<'a> {
    fn child(&mut self, step: Step<'a>) -> &mut Edits<'a> {
        let at = *self.by_step.entry(step).or_insert_with(|| {
            self.order.push((step, Edits::default()));
            self.order.len() - 1
        });
        &mut self.order[at].1
    }

    fn at(&mut self, steps: &[Step<'a>]) -> &mut Edits<'a> {
        steps.iter().fold(self, |edits, step| edits.child(*step))
    }

    fn get(&self, step: Step<'_>) -> Option<usize> {
        self.by_step.get(&step).copied()
    }
}

/// Reads a delta into edits, every path resolved against the document.
fn collect<'a>(root: Doc<'a>, delta: Doc<'a>, contents: Contents) -> Result<Edits<'a>, Unapplied> {
    let mut edits = Edits::default();
    let paths = Paths { root, contents, known: delta.get("disambiguatedPaths").and_then(|e| e.as_doc()) };
    for item in part(delta, "truncatedArrays").elements() {
        let item = item.map_err(malformed)?.as_doc().ok_or(Unapplied::Malformed("truncatedArrays"))?;
        let path = item
            .get("field")
            .and_then(|e| e.string_bytes())
            .ok_or(Unapplied::Malformed("truncatedArrays"))?;
        let size = item.get("newSize").and_then(|e| e.as_i32().map(i64::from).or(e.as_i64()));
        let size =
            size.and_then(|n| usize::try_from(n).ok()).ok_or(Unapplied::Malformed("truncatedArrays"))?;
        if let Some(steps) = paths.resolve(path, Purpose::Truncate)? {
            edits.at(&steps).truncate = Some(size);
        }
    }
    for item in part(delta, "removedFields").elements() {
        let path = item.map_err(malformed)?.string_bytes().ok_or(Unapplied::Malformed("removedFields"))?;
        if let Some(steps) = paths.resolve(path, Purpose::Remove)? {
            edits.at(&steps).action = Some(Action::Remove);
        }
    }
    for element in part(delta, "updatedFields").elements() {
        let element = element.map_err(malformed)?;
        if let Some(steps) = paths.resolve(element.name(), Purpose::Set)? {
            set(&paths, &mut edits, &steps, element);
        }
    }
    Ok(edits)
}

/// Notes one entry of `updatedFields`.
fn set<'a>(paths: &Paths<'a>, edits: &mut Edits<'a>, steps: &[Step<'a>], element: Element<'a>) {
    let Some((leaf, parents)) = steps.split_last() else { return };
    let present = lookup(paths.root, steps);
    let exists = present.is_some();
    // A plugin lists a field that it replaces where something inside of it was changed, wherever MongoDB lists that.
    let is_replaced = paths.contents == Contents::Redacted
        && present.is_some_and(|e| (e.kind(), e.value()) == (element.kind(), element.value()));
    let level = edits.at(parents);
    // `_id` never changes, so that it is listed means that it was moved; MongoDB then stores it first all the same.
    let is_id = parents.is_empty() && *leaf == Step::Field(b"_id");
    let moved = level.inserting && exists && !is_id && !is_replaced && matches!(leaf, Step::Field(_));
    level.inserting |= !exists || is_id;
    level.child(*leaf).action = Some(if moved { Action::Move(element) } else { Action::Set(element) });
}

fn part<'a>(delta: Doc<'a>, name: &str) -> Doc<'a> {
    delta.get(name).and_then(|e| e.as_doc()).unwrap_or(Doc::EMPTY)
}

fn malformed(error: bson_walker::Error) -> Unapplied {
    Unapplied::Malformed(error.what)
}

/// The element at these steps, where there is one.
fn lookup<'a>(root: Doc<'a>, steps: &[Step<'_>]) -> Option<Element<'a>> {
    let mut doc = root;
    let mut in_array = false;
    let (last, parents) = steps.split_last()?;
    for step in parents {
        let element = step_into(doc, in_array, *step)?;
        in_array = element.kind() == kind::ARRAY;
        doc = element.as_doc()?;
    }
    step_into(doc, in_array, *last)
}

fn step_into<'a>(doc: Doc<'a>, in_array: bool, step: Step<'_>) -> Option<Element<'a>> {
    let mut elements = doc.elements().map_while(Result::ok);
    match step {
        Step::Field(name) if !in_array => elements.find(|e| e.name() == name),
        Step::Index(index) if in_array => elements.nth(index),
        _ => None,
    }
}

/// What a path is looked up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Set,
    Remove,
    Truncate,
}

/// Turns path text into steps.
struct Paths<'a> {
    root: Doc<'a>,
    contents: Contents,
    known: Option<Doc<'a>>,
}

impl<'a> Paths<'a> {
    /// The steps of a path, or `None` where the change has nothing to act on.
    fn resolve(&self, path: &'a [u8], purpose: Purpose) -> Result<Option<Vec<Step<'a>>>, Unapplied> {
        if path.iter().filter(|b| **b == b'.').count() >= MAX_COMPONENTS {
            return Err(Unapplied::Malformed("a path of more levels than MongoDB has"));
        }
        let Some(known) = self.known else { return self.infer(path, purpose) };
        let listed = known.elements().map_while(Result::ok).find(|e| e.name() == path);
        let steps = match listed {
            Some(element) => components(element)?,
            None => self.split(path),
        };
        Ok(self.leads_somewhere(&steps).then_some(steps))
    }

    /// Whether there is something to act on: not where a plugin put a plain value in a parent's place.
    fn leads_somewhere(&self, steps: &[Step<'_>]) -> bool {
        let plain = |parents| lookup(self.root, parents).is_some_and(|e| e.as_doc().is_none());
        self.contents == Contents::Full || !(1..steps.len()).any(|n| plain(&steps[..n]))
    }

    /// The path as MongoDB means it where it says that nothing is ambiguous: split at the dots, numbers are indexes
    /// where the document has an array.
    fn split(&self, path: &'a [u8]) -> Vec<Step<'a>> {
        let mut here = Some((self.root, false));
        let mut steps = Vec::new();
        for name in path.split(|b| *b == b'.') {
            let in_array = here.is_some_and(|(_, in_array)| in_array);
            let step = match index(name) {
                Some(index) if in_array => Step::Index(index),
                _ => Step::Field(name),
            };
            here = here.and_then(|(doc, in_array)| {
                let element = step_into(doc, in_array, step)?;
                Some((element.as_doc()?, element.kind() == kind::ARRAY))
            });
            steps.push(step);
        }
        steps
    }

    /// Finds the one reading that the document allows.
    fn infer(&self, path: &'a [u8], purpose: Purpose) -> Result<Option<Vec<Step<'a>>>, Unapplied> {
        let mut found = Vec::new();
        readings(self.root, false, path, purpose, &mut Vec::new(), &mut found);
        match (found.len(), purpose, self.contents) {
            // Only a pipeline reaches into a field with a dot in its name, and it makes such fields just as well.
            (1, Purpose::Set, _) if found.first().is_some_and(|steps| through_dotted_name(steps)) => {
                Err(Unapplied::Ambiguous)
            }
            (1, ..) => Ok(found.pop()),
            (0, Purpose::Remove | Purpose::Truncate, _) => Ok(None),
            (0, Purpose::Set, Contents::Redacted) => {
                let steps = self.split(path);
                Ok(self.leads_somewhere(&steps).then_some(steps))
            }
            // MongoDB only ever changes below what is there, so this is a new field with dots in its name, and
            // there is only one document that it can be in.
            (0, Purpose::Set, Contents::Full) if !self.has_parent(path) => Ok(Some(vec![Step::Field(path)])),
            _ => Err(Unapplied::Ambiguous),
        }
    }

    /// Whether a part of the path before a dot is a document or array of the root.
    fn has_parent(&self, path: &[u8]) -> bool {
        let inside = |name: &[u8]| path.starts_with(name) && path.get(name.len()) == Some(&b'.');
        self.root.elements().map_while(Result::ok).any(|e| e.as_doc().is_some() && inside(e.name()))
    }
}

/// Whether a parent on the way has a dot in its name.
fn through_dotted_name(steps: &[Step<'_>]) -> bool {
    let parents = steps.split_last().map_or(&[][..], |(_, parents)| parents);
    parents.iter().any(|step| matches!(step, Step::Field(name) if name.contains(&b'.')))
}

/// The components that MongoDB gave for a path: names are fields, numbers are indexes.
fn components(element: Element<'_>) -> Result<Vec<Step<'_>>, Unapplied> {
    let list = element.as_doc().ok_or(Unapplied::Malformed("disambiguatedPaths"))?;
    let mut steps = Vec::new();
    for item in list.elements() {
        let item = item.map_err(malformed)?;
        let number = item.as_i32().map(i64::from).or(item.as_i64());
        let step = match (item.string_bytes(), number.and_then(|n| usize::try_from(n).ok())) {
            (Some(name), _) => Step::Field(name),
            (None, Some(index)) => Step::Index(index),
            _ => return Err(Unapplied::Malformed("disambiguatedPaths")),
        };
        steps.push(step);
    }
    let fits = (1..=MAX_COMPONENTS).contains(&steps.len());
    fits.then_some(steps).ok_or(Unapplied::Malformed("disambiguatedPaths"))
}

/// Collects up to two readings of `path` below `doc`. Every parent must be there; the last name must be there too, or
/// be a new one without a dot. Each reading visits its own elements, so the work is bounded by the document.
fn readings<'a>(
    doc: Doc<'a>,
    in_array: bool,
    path: &'a [u8],
    purpose: Purpose,
    steps: &mut Vec<Step<'a>>,
    found: &mut Vec<Vec<Step<'a>>>,
) {
    let first_dot = path.iter().position(|b| *b == b'.');
    let mut plain_name_seen = false;
    let mut seen: Vec<usize> = Vec::new();
    for (position, element) in doc.elements().map_while(Result::ok).enumerate() {
        let (step, used) = if in_array {
            let end = first_dot.unwrap_or(path.len());
            if index(&path[..end]) != Some(position) {
                continue;
            }
            (Step::Index(position), end)
        } else {
            let name = element.name();
            let matches = path.starts_with(name) && matches!(path.get(name.len()), None | Some(b'.'));
            // The first of several fields of one name is the one MongoDB changes.
            if !matches || seen.contains(&name.len()) {
                continue;
            }
            seen.push(name.len());
            (Step::Field(name), name.len())
        };
        plain_name_seen |= used == path.len();
        steps.push(step);
        match path.get(used + 1..) {
            Some(rest) if used < path.len() => {
                if let Some(inner) = element.as_doc() {
                    readings(inner, element.kind() == kind::ARRAY, rest, purpose, steps, found);
                }
            }
            _ => {
                if purpose != Purpose::Truncate || element.kind() == kind::ARRAY {
                    found.push(steps.clone());
                }
            }
        }
        steps.pop();
        if found.len() > 1 {
            return;
        }
    }
    if purpose == Purpose::Set && first_dot.is_none() && !plain_name_seen {
        let step = match (in_array, index(path)) {
            (false, _) => Step::Field(path),
            (true, Some(index)) => Step::Index(index),
            (true, None) => return,
        };
        steps.push(step);
        found.push(steps.clone());
        steps.pop();
    }
}

/// An array index as MongoDB writes it: digits without a leading zero.
fn index(name: &[u8]) -> Option<usize> {
    let canonical = name == b"0" || name.first().is_some_and(|b| (b'1'..=b'9').contains(b));
    if !canonical || !name.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(name).ok()?.parse().ok()
}

/// Writes a document's fields with the edits applied.
fn rewrite_doc(doc: Doc<'_>, edits: &Edits<'_>, out: &mut Writer<'_>) -> Result<(), Unapplied> {
    if edits.truncate.is_some() {
        return Err(Unapplied::Mismatch("a document where an array is to be truncated"));
    }
    let mut done = vec![false; edits.order.len()];
    for element in doc.elements() {
        let element = element.map_err(malformed)?;
        match edits.get(Step::Field(element.name())).filter(|at| !done[*at]) {
            None => out.append(&element),
            Some(at) => {
                let edit = &edits.order[at].1;
                done[at] = !matches!(edit.action, Some(Action::Move(_)));
                if done[at] {
                    rewrite_value(element.name(), Some(element), edit, out)?;
                }
            }
        }
    }
    for ((step, edit), _) in edits.order.iter().zip(done).filter(|(_, done)| !done) {
        let Step::Field(name) = step else {
            return Err(Unapplied::Mismatch("a document where an array is expected"));
        };
        rewrite_value(name, None, edit, out)?;
    }
    Ok(())
}

/// Writes an array's elements with the edits applied: cut first, then set, then padded and grown.
fn rewrite_array(doc: Doc<'_>, edits: &Edits<'_>, out: &mut Writer<'_>) -> Result<(), Unapplied> {
    let size = edits.truncate.unwrap_or(usize::MAX);
    let mut len = 0;
    for element in doc.elements().take(size) {
        let element = element.map_err(malformed)?;
        match edits.get(Step::Index(len)) {
            None => out.append(&element),
            Some(at) => rewrite_value(element.name(), Some(element), &edits.order[at].1, out)?,
        }
        len += 1;
    }
    let mut grown = Vec::new();
    for (step, edit) in &edits.order {
        match step {
            Step::Index(_) if matches!(edit.action, Some(Action::Remove)) => {
                return Err(Unapplied::Mismatch("an array element is removed, which MongoDB never does"));
            }
            Step::Index(index) if *index >= len => grown.push((*index, edit)),
            Step::Index(_) => {}
            Step::Field(_) => return Err(Unapplied::Mismatch("an array where a document is expected")),
        }
    }
    grown.sort_by_key(|(index, _)| *index);
    for (index, edit) in grown {
        pad(&mut len, index, out)?;
        rewrite_value(index.to_string().as_bytes(), None, edit, out)?;
        len += 1;
    }
    // MongoDB's "truncate" sets the size: a larger one pads.
    if size != usize::MAX { pad(&mut len, size, out) } else { Ok(()) }
}

fn pad(len: &mut usize, until: usize, out: &mut Writer<'_>) -> Result<(), Unapplied> {
    if until.saturating_sub(*len) > MAX_PADDING {
        return Err(Unapplied::Malformed("an array index far past the end"));
    }
    for index in *len..until {
        out.null(&index.to_string());
    }
    *len = until.max(*len);
    Ok(())
}

/// Writes one value under `name`: `present` is what was there before.
fn rewrite_value(
    name: &[u8],
    present: Option<Element<'_>>,
    edit: &Edits<'_>,
    out: &mut Writer<'_>,
) -> Result<(), Unapplied> {
    match edit.action {
        Some(Action::Remove) => return Ok(()),
        Some(Action::Set(value) | Action::Move(value)) if edit.order.is_empty() => {
            out.raw(value.kind(), name, value.value());
            return Ok(());
        }
        Some(_) => return Err(Unapplied::Malformed("one path sets a value and another something inside it")),
        None => {}
    }
    let changes = edit.truncate.is_some() || edit.order.iter().any(|(_, e)| !e.only_removes());
    match present {
        Some(element) => match (element.kind(), element.as_doc()) {
            (kind::ARRAY, Some(array)) => {
                let mut inner = out.begin_array(name);
                rewrite_array(array, edit, &mut inner)?;
                inner.end();
            }
            (_, Some(doc)) => {
                let mut inner = out.begin_doc(name);
                rewrite_doc(doc, edit, &mut inner)?;
                inner.end();
            }
            _ if changes => {
                return Err(Unapplied::Mismatch("a plain value where a document or array is expected"));
            }
            _ => out.append(&element),
        },
        None if changes => {
            let mut inner = out.begin_doc(name);
            rewrite_doc(Doc::EMPTY, edit, &mut inner)?;
            inner.end();
        }
        None => {}
    }
    Ok(())
}

impl Edits<'_> {
    fn only_removes(&self) -> bool {
        match self.action {
            Some(Action::Remove) => true,
            Some(_) => false,
            None => self.truncate.is_none() && self.order.iter().all(|(_, edit)| edit.only_removes()),
        }
    }
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
