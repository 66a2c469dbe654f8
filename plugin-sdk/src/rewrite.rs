//! Rewrites an event: visits every place in which a value can stand, asks a guide, and copies what does not change in
//! long stretches; an event in which nothing changes is not copied at all.

mod delta;
mod path;

use std::ops::Range;

use bson_walker::{Doc, Element, Writer, kind};

use crate::guide::{Guide, Name, Step, is_leaf};
use crate::plugin::{Output, Verdict};
use crate::value::{Action, MASK, append_head, append_masked, append_text};

/// MongoDB nests 100 levels (180 inside the server); what is deeper is refused, not skipped.
const MAX_DEPTH: usize = 200;

/// Rewrites one event into `out`.
pub(crate) fn rewrite<'v, G: Guide<'v>>(
    event: Doc<'_>,
    out: &mut Output<'_>,
    guide: G,
) -> Result<Verdict, String> {
    out.docs.truncate(out.start);
    out.changes.clear();
    let mut rewriter = Rewriter {
        event,
        source: event.as_bytes(),
        out: out.docs,
        changes: out.changes,
        copied: 0,
        depth: 0,
        guide,
        values: std::marker::PhantomData,
    };
    rewriter.event()?;
    if let Some(why) = rewriter.guide.refusal() {
        return Err(why);
    }
    Ok(if rewriter.copied == 0 { Verdict::Keep } else { Verdict::Replace })
}

struct Rewriter<'e, 'o, 'v, G> {
    event: Doc<'e>,
    source: &'e [u8],
    out: &'o mut Vec<u8>,
    /// What was replaced or taken out, as ranges of the source.
    changes: &'o mut Vec<(usize, usize)>,
    /// How much of the source is dealt with: copied to `out`, or left out. 0 as long as nothing changed.
    copied: usize,
    depth: usize,
    guide: G,
    values: std::marker::PhantomData<&'v ()>,
}

/// A guide's step with its action looked up.
#[derive(PartialEq)]
enum Decision<'v> {
    Skip,
    Enter,
    Hollow,
    Erase,
    Act(Action<'v>),
}

/// The kinds of containers, which differ in how their names are read.
#[derive(Clone, Copy, PartialEq)]
enum Container {
    Document,
    Array,
    Detail,
    DetailArray,
}

impl Container {
    fn of(self, element: &Element<'_>) -> Container {
        match (matches!(self, Container::Detail | Container::DetailArray), element.kind() == kind::ARRAY) {
            (false, false) => Container::Document,
            (false, true) => Container::Array,
            (true, false) => Container::Detail,
            (true, true) => Container::DetailArray,
        }
    }

    fn is_array(self) -> bool {
        matches!(self, Container::Array | Container::DetailArray)
    }
}

/// A document being rewritten: what is needed to correct its length at the end.
struct Frame {
    /// Where its length goes in `out`, provided that it is copied.
    length_at: usize,
    copied_before: usize,
    end: usize,
}

impl<'e, 'v, G: Guide<'v>> Rewriter<'e, '_, 'v, G> {
    fn event(&mut self) -> Result<(), String> {
        let frame = self.open(0, self.source.len());
        let mut elements = self.event.elements();
        let mut start = elements.offset();
        while let Some(element) = elements.next() {
            let element = element.map_err(|e| e.to_string())?;
            match element.name() {
                b"op" | b"ns" | b"clusterTime" | b"wallTime" | b"images" | b"txn" => {}
                b"key" | b"before" | b"after" if element.kind() == kind::NULL => {}
                b"key" | b"before" | b"after" => self.image(start, &element)?,
                b"delta" if element.kind() == kind::NULL => {}
                b"delta" => self.delta(start, &element)?,
                b"actor" => self.actor(start, &element),
                _ => self.detail(start, &element)?,
            }
            start = elements.offset();
        }
        self.close(&frame);
        Ok(())
    }

    fn image(&mut self, start: usize, element: &Element<'e>) -> Result<(), String> {
        if element.kind() != kind::DOCUMENT {
            return Err("an image or key that is no document".into());
        }
        let root = self.guide.root();
        self.container(Container::Document, value_at(start, element), element.value(), &root)
    }

    /// Walks one document or array that begins at `start`.
    fn container(
        &mut self,
        within: Container,
        start: usize,
        bytes: &'e [u8],
        state: &G::State,
    ) -> Result<(), String> {
        if self.depth >= MAX_DEPTH {
            return Err(format!("nested more than {MAX_DEPTH} levels deep"));
        }
        self.depth += 1;
        let doc = Doc::new(bytes).map_err(|e| e.to_string())?;
        let frame = self.open(start, bytes.len());
        let mut elements = doc.elements();
        let mut at = start + elements.offset();
        while let Some(element) = elements.next() {
            let element = element.map_err(|e| e.to_string())?;
            if within == Container::Document
                && is_leaf(&element)
                && self.guide.spares(state, Name::from(&element), &element)
            {
                at = start + elements.offset();
                continue;
            }
            // A copy, so that those that go by need no place in memory.
            #[allow(clippy::redundant_locals)]
            let element = element;
            let (next, step) = match within {
                Container::Document => self.guide.field(state, Name::from(&element), Some(&element)),
                Container::Array => self.guide.index(state, element.name(), Some(&element)),
                Container::Detail | Container::DetailArray => {
                    self.guide.detail(state, Name::from(&element), Some(&element))
                }
            };
            match step {
                Step::Skip => {}
                Step::Enter if is_leaf(&element) && element.kind() != kind::CODE_WITH_SCOPE => {}
                Step::Enter => self.enter(within, at, &element, &next)?,
                Step::Act(number) => {
                    let action = self.guide.action(number);
                    self.act(at, &element, &action, within.is_array())?;
                }
                step => {
                    let decision = resolve(&mut self.guide, step);
                    self.settle(within, at, &element, &next, decision)?;
                }
            }
            at = start + elements.offset();
        }
        self.close(&frame);
        self.depth -= 1;
        Ok(())
    }

    /// Carries out what the guide said about an element.
    fn settle(
        &mut self,
        within: Container,
        start: usize,
        element: &Element<'e>,
        state: &G::State,
        decision: Decision<'v>,
    ) -> Result<(), String> {
        match decision {
            Decision::Skip => Ok(()),
            Decision::Act(action) => self.act(start, element, &action, within.is_array()),
            Decision::Erase => self.act(start, element, &Action::Remove, within.is_array()),
            Decision::Hollow if element.as_doc().is_none() => {
                self.act(start, element, &Action::Remove, within.is_array())
            }
            Decision::Enter | Decision::Hollow => self.enter(within, start, element, state),
        }
    }

    /// Looks below an element, if it has a below.
    fn enter(
        &mut self,
        within: Container,
        start: usize,
        element: &Element<'e>,
        state: &G::State,
    ) -> Result<(), String> {
        let value_at = value_at(start, element);
        if element.as_doc().is_some() {
            self.container(within.of(element), value_at, element.value(), state)
        } else if let Some((scope_at, scope)) = element.as_scope() {
            // Code with scope has a length of its own around the scope's.
            let frame = self.open(value_at, element.value().len());
            self.container(within.of(element), value_at + scope_at, scope.as_bytes(), state)?;
            self.close(&frame);
            Ok(())
        } else {
            Ok(())
        }
    }

    fn act(
        &mut self,
        start: usize,
        element: &Element<'e>,
        action: &Action<'v>,
        in_array: bool,
    ) -> Result<(), String> {
        if action.is_for_each(element.kind()) {
            return self.each(value_at(start, element), element.value(), action);
        }
        if action.spares(element) {
            return Ok(());
        }
        match action {
            Action::Keep => {}
            Action::Remove if in_array => self.cut_value(start, element, kind::NULL),
            Action::Remove => self.cut(start, start + element.whole().len()),
            Action::Replace(value) => {
                self.cut_value(start, element, value.kind());
                value.append(self.out);
            }
            Action::Hash(tokens) => {
                self.cut_value(start, element, kind::STRING);
                append_text(&[&tokens.token(element)], self.out);
            }
            Action::Mask { keep_last } => {
                self.cut_value(start, element, kind::STRING);
                match self.guide.masked(element, *keep_last) {
                    Some(text) => append_text(&[&text], self.out),
                    None => append_masked(element, *keep_last, self.out),
                }
            }
        }
        Ok(())
    }

    /// Acts element by element, so that a delta may still name one of them.
    fn each(&mut self, start: usize, bytes: &'e [u8], action: &Action<'v>) -> Result<(), String> {
        if self.depth >= MAX_DEPTH {
            return Err(format!("nested more than {MAX_DEPTH} levels deep"));
        }
        self.depth += 1;
        let frame = self.open(start, bytes.len());
        let mut elements = Doc::new(bytes).map_err(|e| e.to_string())?.elements();
        let mut at = start + elements.offset();
        while let Some(element) = elements.next() {
            self.act(at, &element.map_err(|e| e.to_string())?, action, true)?;
            at = start + elements.offset();
        }
        self.close(&frame);
        self.depth -= 1;
        Ok(())
    }

    /// `detail` holds what MongoDB sent besides documents: definitions of indexes, validators and views, whose
    /// literals may be values. In doubt a whole field of it is hidden.
    fn detail(&mut self, start: usize, element: &Element<'e>) -> Result<(), String> {
        let Some(doc) = element.as_doc() else {
            self.hide(start, element);
            return Ok(());
        };
        let value_at = value_at(start, element);
        let frame = self.open(value_at, doc.as_bytes().len());
        let root = self.guide.root();
        let mut elements = doc.elements();
        let mut at = value_at + elements.offset();
        while let Some(field) = elements.next() {
            let field = field.map_err(|e| e.to_string())?;
            let known = matches!(field.name(), b"to" | b"collectionUUID");
            // `rawUpdateDescription` is MongoDB's internal diff: its names carry prefixes that no path matches.
            let opaque = field.name().starts_with(b"raw") || (self.guide.closed() && !known);
            if opaque || self.mentions(&field, 0)? {
                self.hide(at, &field);
            } else if !known {
                let (next, step) = self.guide.detail(&root, Name::from(&field), Some(&field));
                let decision = resolve(&mut self.guide, step);
                self.settle(Container::Detail, at, &field, &next, decision)?;
            }
            at = value_at + elements.offset();
        }
        self.close(&frame);
        Ok(())
    }

    fn mentions(&mut self, element: &Element<'_>, depth: usize) -> Result<bool, String> {
        if let Some(text) = element.string_bytes() {
            return Ok(text.first() == Some(&b'$') && self.guide.mentions(text));
        }
        let Some(doc) = element.as_doc() else { return Ok(false) };
        if depth >= MAX_DEPTH {
            return Err(format!("nested more than {MAX_DEPTH} levels deep"));
        }
        for field in doc.elements() {
            if self.mentions(&field.map_err(|e| e.to_string())?, depth + 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn hide(&mut self, start: usize, element: &Element<'_>) {
        self.cut_value(start, element, kind::STRING);
        append_text(&[MASK], self.out);
    }

    /// The actor is a value that the host took from the document: where it occurs in anything that was redacted, it is hidden too.
    fn actor(&mut self, start: usize, element: &Element<'e>) {
        let Some(actor) = element.as_doc() else { return self.hide(start, element) };
        let value_at = value_at(start, element);
        let frame = self.open(value_at, actor.as_bytes().len());
        let mut elements = actor.elements();
        let mut at = value_at + elements.offset();
        while let Some(Ok(field)) = elements.next() {
            let hidden = |this: &mut Self| {
                !this.changes.is_empty() && this.was_redacted(&field)
                    || field.string_bytes().is_some_and(|id| this.guide.hides_text(id))
            };
            if field.name() == b"id" && hidden(self) {
                self.hide(at, &field);
            }
            at = value_at + elements.offset();
        }
        self.close(&frame);
    }

    fn was_redacted(&self, id: &Element<'_>) -> bool {
        let Some(text) = id.as_str() else { return true };
        let mut forms = vec![text.as_bytes().to_vec()];
        if let Ok(number) = text.parse::<i64>() {
            forms.push(number.to_le_bytes().to_vec());
            forms.push((number as f64).to_le_bytes().to_vec());
            forms.extend(i32::try_from(number).ok().map(|n| n.to_le_bytes().to_vec()));
        }
        if text.len() == 24 {
            let bytes =
                (0..12).map(|i| text.get(2 * i..2 * i + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()));
            forms.extend(bytes.collect::<Option<Vec<u8>>>());
        }
        let contains =
            |range: &[u8], form: &[u8]| !form.is_empty() && range.windows(form.len()).any(|w| w == form);
        self.changes
            .iter()
            .any(|(start, end)| forms.iter().any(|form| contains(&self.source[*start..*end], form)))
    }

    fn open(&self, start: usize, len: usize) -> Frame {
        Frame {
            length_at: self.out.len() + start - self.copied,
            copied_before: self.copied,
            end: start + len,
        }
    }

    /// Ends a document: where something in it changed, copies its rest and corrects its length.
    fn close(&mut self, frame: &Frame) {
        if self.copied != frame.copied_before {
            self.copy_to(frame.end);
            let len = (self.out.len() - frame.length_at) as i32;
            self.out[frame.length_at..frame.length_at + 4].copy_from_slice(&len.to_le_bytes());
        }
    }

    fn copy_to(&mut self, end: usize) {
        self.out.extend_from_slice(&self.source[self.copied..end]);
        self.copied = end;
    }

    /// Leaves a range out: what is before it is copied, what is written next takes its place.
    fn cut(&mut self, start: usize, end: usize) {
        self.copy_to(start);
        self.copied = end;
        self.changes.push((start, end));
    }

    /// Leaves an element's value out, and its kind: another one's value is written next. The name is copied along with what
    /// is before it.
    fn cut_value(&mut self, start: usize, element: &Element<'_>, kind: u8) {
        let end = start + element.whole().len();
        let head = element.whole().len() - element.value().len();
        self.copy_to(start + head);
        let kind_at = self.out.len() - head;
        self.out[kind_at] = kind;
        self.copied = end;
        self.changes.push((start, end));
    }

    /// Puts other bytes in the place of an element.
    fn put(&mut self, place: Range<usize>, write: impl FnOnce(&mut Vec<u8>)) {
        self.cut(place.start, place.end);
        write(self.out);
    }

    /// Puts a new array of that name in the place of an element.
    fn put_array(&mut self, place: Range<usize>, name: &[u8], fill: impl FnOnce(&mut Writer<'_>)) {
        self.put(place, |out| {
            append_head(kind::ARRAY, name, out);
            let mut writer = Writer::begin(out);
            fill(&mut writer);
            writer.end();
        });
    }
}

fn resolve<'v, G: Guide<'v>>(guide: &mut G, step: Step) -> Decision<'v> {
    match step {
        Step::Skip => Decision::Skip,
        Step::Enter => Decision::Enter,
        Step::Hollow => Decision::Hollow,
        Step::Erase => Decision::Erase,
        Step::Act(number) => Decision::Act(guide.action(number)),
    }
}

fn value_at(start: usize, element: &Element<'_>) -> usize {
    start + element.whole().len() - element.value().len()
}
