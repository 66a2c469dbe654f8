//! An update's delta, rewritten so that applying it to a redacted document gives what redacting the updated document
//! gives: `apply(redact(delta), redact(before)) == redact(apply(delta, before))`.

use std::collections::{BTreeMap, BTreeSet};

use bson_walker::{Doc, Element, Writer, kind};

use super::path::{Fate, Reading, follow};
use super::{Container, Decision, Rewriter, resolve, value_at};
use crate::guide::Guide;
use crate::value::{Action, MASK, Value, append_head, append_text};

/// How this delta's paths are to be read.
struct Paths<'e> {
    /// Whether MongoDB said which paths are ambiguous (6.1 and later do).
    told: bool,
    exact: BTreeMap<&'e [u8], Doc<'e>>,
    /// The updated ones; only filled where `exact` is.
    updated: BTreeSet<&'e [u8]>,
}

impl<'e> Paths<'e> {
    fn of(delta: Doc<'e>) -> Result<Self, String> {
        let mut paths = Paths { told: false, exact: BTreeMap::new(), updated: BTreeSet::new() };
        for element in delta.elements() {
            let element = element.map_err(|e| e.to_string())?;
            if element.name() == b"disambiguatedPaths" && element.kind() == kind::DOCUMENT {
                paths.told = true;
                for path in container(&element, "disambiguatedPaths")?.elements() {
                    let path = path.map_err(|e| e.to_string())?;
                    paths.exact.insert(path.name(), container(&path, "disambiguatedPaths")?);
                }
            }
        }
        if let Some(updated) =
            delta.get("updatedFields").and_then(|e| e.as_doc()).filter(|_| !paths.exact.is_empty())
        {
            paths.updated = updated.elements().map_while(Result::ok).map(|e| e.name()).collect();
        }
        Ok(paths)
    }

    fn reading(&self, path: &[u8]) -> Reading<'e> {
        match self.exact.get(path) {
            Some(parts) => Reading::Exact(*parts),
            None if self.told => Reading::Plain,
            None => Reading::Guessed,
        }
    }
}

fn container<'e>(element: &Element<'e>, name: &str) -> Result<Doc<'e>, String> {
    element.as_doc().ok_or_else(|| format!("`delta.{name}` does not have the shape it has in MongoDB"))
}

impl<'e, 'v, G: Guide<'v>> Rewriter<'e, '_, 'v, G> {
    pub(super) fn delta(&mut self, start: usize, element: &Element<'e>) -> Result<(), String> {
        let delta = container(element, "updatedFields").map_err(|_| "a delta that is no document")?;
        let paths = Paths::of(delta)?;
        let value_at = value_at(start, element);
        let frame = self.open(value_at, delta.as_bytes().len());
        // Fields that a guide keeps only as containers and that this update set to something else.
        let mut emptied: Vec<&'e [u8]> = Vec::new();
        let mut removed_seen = false;
        let mut elements = delta.elements();
        let mut at = value_at + elements.offset();
        while let Some(part) = elements.next() {
            let part = part.map_err(|e| e.to_string())?;
            match part.name() {
                _ if part.kind() == kind::NULL => {}
                b"updatedFields" => self.updated(at, &part, &paths, &mut emptied)?,
                b"removedFields" => {
                    self.removed(at, &part, &paths, &emptied)?;
                    emptied.clear();
                    removed_seen = true;
                }
                b"truncatedArrays" => self.truncated(at, &part, &paths)?,
                b"disambiguatedPaths" => self.disambiguated(at, &part, &paths)?,
                _ => self.detail(at, &part)?,
            }
            at = value_at + elements.offset();
        }
        if !emptied.is_empty() {
            if removed_seen {
                return Err("`delta.removedFields` stands before `updatedFields`".into());
            }
            let end = frame.end - 1;
            self.put_array(end..end, b"removedFields", |array| fill(array, emptied.iter().copied()));
        }
        self.close(&frame);
        Ok(())
    }

    fn updated(
        &mut self,
        start: usize,
        element: &Element<'e>,
        paths: &Paths<'e>,
        emptied: &mut Vec<&'e [u8]>,
    ) -> Result<(), String> {
        let fields = container(element, "updatedFields")?;
        let value_at = value_at(start, element);
        let frame = self.open(value_at, fields.as_bytes().len());
        let mut replaced: BTreeSet<&'e [u8]> = BTreeSet::new();
        let mut elements = fields.elements();
        let mut at = value_at + elements.offset();
        while let Some(field) = elements.next() {
            let field = field.map_err(|e| e.to_string())?;
            let path = field.name();
            match follow(&mut self.guide, path, paths.reading(path), Some(&field))? {
                Fate::At { state, decision, in_array } => {
                    let (state, decision) = self.straddled(paths, &field, state, decision);
                    let within = if in_array { Container::Array } else { Container::Document };
                    if decision == Decision::Hollow && field.as_doc().is_none() && !in_array {
                        emptied.push(path);
                    }
                    self.settle(within, at, &field, &state, decision)?;
                }
                Fate::Below { action, prefix, .. } => {
                    let path = &path[..prefix];
                    self.cut(at, at + field.whole().len());
                    if action != Action::Remove && replaced.insert(path) {
                        self.write_replaced(path, &action);
                    }
                }
            }
            at = value_at + elements.offset();
        }
        self.close(&frame);
        Ok(())
    }

    /// A field below something that is replaced changed: the update then sets that to its replacement again.
    fn write_replaced(&mut self, path: &[u8], action: &Action<'v>) {
        match action {
            Action::Replace(value) => {
                append_head(value.kind(), path, self.out);
                value.append(self.out);
            }
            _ => {
                append_head(kind::STRING, path, self.out);
                append_text(&[MASK], self.out);
            }
        }
    }

    /// Where the readings of a path can't be told apart, none may be missed. Nothing is removed on a guess: null stays in its place.
    fn straddled(
        &mut self,
        paths: &Paths<'e>,
        field: &Element<'_>,
        state: G::State,
        decision: Decision<'v>,
    ) -> (G::State, Decision<'v>) {
        let path = field.name();
        if paths.told || matches!(decision, Decision::Act(_)) || !path.contains(&b'.') {
            return (state, decision);
        }
        let Some((state, step)) = self.guide.straddle(&state, path, field) else { return (state, decision) };
        match resolve(&mut self.guide, step) {
            Decision::Act(Action::Remove) => (state, Decision::Act(Action::Replace(Value::Null))),
            decision => (state, decision),
        }
    }

    /// Names are no values: a removed path stays, unless it leads below something that is redacted as a whole.
    fn removed(
        &mut self,
        start: usize,
        element: &Element<'e>,
        paths: &Paths<'e>,
        emptied: &[&'e [u8]],
    ) -> Result<(), String> {
        let mut kept = Vec::new();
        let mut all = 0;
        for path in container(element, "removedFields")?.elements() {
            let path = path.map_err(|e| e.to_string())?;
            let path = path.string_bytes().ok_or("`delta.removedFields` holds something that is no path")?;
            all += 1;
            let closed = self.guide.closed();
            match follow(&mut self.guide, path, paths.reading(path), None)? {
                // Where rules name only what is kept, its name may be a secret.
                Fate::At { decision: Decision::Act(Action::Remove), in_array: false, .. } if closed => {}
                Fate::At { .. } => kept.push(path),
                Fate::Below { .. } => {}
            }
        }
        if kept.len() < all || !emptied.is_empty() {
            self.put_array(start..start + element.whole().len(), element.name(), |array| {
                fill(array, kept.iter().chain(emptied).copied());
            });
        }
        Ok(())
    }

    /// A truncation stays where the array stays, masked or not.
    fn truncated(&mut self, start: usize, element: &Element<'e>, paths: &Paths<'e>) -> Result<(), String> {
        let mut kept = Vec::new();
        let mut all = 0;
        for entry in container(element, "truncatedArrays")?.elements() {
            let entry = entry.map_err(|e| e.to_string())?;
            let path =
                container(&entry, "truncatedArrays")?.get("field").and_then(|field| field.string_bytes());
            let path = path.ok_or("`delta.truncatedArrays` has an entry without a path")?;
            all += 1;
            match follow(&mut self.guide, path, paths.reading(path), None)? {
                Fate::Below { .. } => {}
                Fate::At { decision: Decision::Act(Action::Remove | Action::Replace(_)), .. } => {}
                Fate::At { .. } => kept.push(entry),
            }
        }
        if kept.len() < all {
            self.put_array(start..start + element.whole().len(), element.name(), |array| {
                for (i, entry) in kept.iter().enumerate() {
                    array.append_as(&i.to_string(), entry);
                }
            });
        }
        Ok(())
    }

    /// Entries follow their paths: what lies below something redacted goes, or shrinks to the path of what replaced it.
    fn disambiguated(
        &mut self,
        start: usize,
        element: &Element<'e>,
        paths: &Paths<'e>,
    ) -> Result<(), String> {
        let value_at = value_at(start, element);
        let doc = container(element, "disambiguatedPaths")?;
        let frame = self.open(value_at, doc.as_bytes().len());
        let mut replaced: BTreeSet<&'e [u8]> = BTreeSet::new();
        let mut elements = doc.elements();
        let mut at = value_at + elements.offset();
        while let Some(entry) = elements.next() {
            let entry = entry.map_err(|e| e.to_string())?;
            let parts = container(&entry, "disambiguatedPaths")?;
            if let Fate::Below { action, prefix, names } =
                follow(&mut self.guide, entry.name(), Reading::Exact(parts), None)?
            {
                let path = &entry.name()[..prefix];
                let place = at..at + entry.whole().len();
                // Removed and truncated paths are gone altogether; their entry must not outlive them, since it might then
                // be read as that of another path of the same letters.
                let lives_on = action != Action::Remove && paths.updated.contains(entry.name());
                if lives_on && replaced.insert(path) {
                    let shorter = parts.elements().map_while(Result::ok).take(names);
                    self.put_array(place, path, |array| shorter.for_each(|part| array.append(&part)));
                } else {
                    self.cut(place.start, place.end);
                }
            }
            at = value_at + elements.offset();
        }
        self.close(&frame);
        Ok(())
    }
}

/// Fills an array with paths.
fn fill<'p>(array: &mut Writer<'_>, paths: impl Iterator<Item = &'p [u8]>) {
    for (i, path) in paths.enumerate() {
        let mut value = Vec::with_capacity(path.len() + 5);
        value.extend_from_slice(&(path.len() as i32 + 1).to_le_bytes());
        value.extend_from_slice(path);
        value.push(0);
        array.raw(kind::STRING, i.to_string().as_bytes(), &value);
    }
}
