//! What MongoDB tells of a document after a change, made what it stores (seen on 6.0.5). A post-image of an update it makes of the
//! document before; a field that a pipeline has moved to the end it appends, and leaves it in its old place too. What a pipeline has
//! replaced, or has made anew with few differences, it tells as that was computed, with `_id` anywhere. What is stored has each field
//! once, where it was moved to, and `_id` first.

use std::borrow::Cow;
use std::collections::HashMap;

use bson_walker::{Doc, Element, Writer, kind};

use crate::record::Record;

/// The document after a record as it is stored: earlier versions recorded what they were told.
pub(crate) fn after<'a>(record: &Record<'a>) -> Option<Cow<'a, [u8]>> {
    let after = record.part("after")?;
    let stored = stored(record.op(), after, record.part("before"));
    Some(stored.map_or(Cow::Borrowed(after.as_bytes()), Cow::Owned))
}

/// The document that an operation has stored, where it is not `after` as it was told; `None` where it is. A part that had fields twice
/// before the change, which MongoDB permits, is left as it came.
pub(crate) fn stored(op: &str, after: Doc<'_>, before: Option<Doc<'_>>) -> Option<Vec<u8>> {
    let repeats = op == "update" && has_repeats(after, false);
    let moved_id = matches!(op, "update" | "replace") && !is_first(after) && after.get("_id").is_some();
    (repeats || moved_id).then(|| {
        let fields = match repeats {
            true => kept(after, before, false),
            false => after.elements().map_while(Result::ok).map(|element| (element, None)).collect(),
        };
        let (id, others): (Vec<_>, Vec<_>) = fields.into_iter().partition(|(e, _)| e.name() == b"_id");
        Writer::build(|writer| {
            for (element, before) in id.into_iter().chain(others) {
                write(element, before, writer);
            }
        })
    })
}

fn is_first(after: Doc<'_>) -> bool {
    after.elements().next().is_some_and(|first| first.is_ok_and(|first| first.name() == b"_id"))
}

/// Whether a document has a field twice, at any depth.
fn has_repeats(doc: Doc<'_>, in_array: bool) -> bool {
    let elements: Vec<Element<'_>> = doc.elements().map_while(Result::ok).collect();
    let mut names: Vec<&[u8]> = elements.iter().map(Element::name).collect();
    names.sort_unstable();
    (!in_array && names.windows(2).any(|pair| pair[0] == pair[1]))
        || elements.iter().any(|e| e.as_doc().is_some_and(|doc| has_repeats(doc, e.kind() == kind::ARRAY)))
}

/// The fields of one level that are stored, each with what it was before.
fn kept<'a>(
    doc: Doc<'a>,
    before: Option<Doc<'a>>,
    in_array: bool,
) -> Vec<(Element<'a>, Option<Element<'a>>)> {
    let elements: Vec<Element<'a>> = doc.elements().map_while(Result::ok).collect();
    let old: Vec<Element<'a>> =
        before.into_iter().flat_map(|doc| doc.elements().map_while(Result::ok)).collect();
    let by_name: HashMap<&[u8], Element<'a>> = old.iter().map(|e| (e.name(), *e)).collect();
    let keep_all = in_array || by_name.len() < old.len();
    let last: HashMap<&[u8], usize> = elements.iter().enumerate().map(|(at, e)| (e.name(), at)).collect();
    // That of the document comes first, before and after.
    let is_id = |at: usize| elements.first().filter(|_| at == 0).is_some_and(|e| e.name() == b"_id");
    let is_kept = |at: usize, name: &[u8]| match name == b"_id" && is_id(0) {
        true => at == 0,
        false => last.get(name) == Some(&at),
    };
    let kept = elements.iter().enumerate().filter(|(at, e)| keep_all || is_kept(*at, e.name()));
    kept.map(|(_, element)| (*element, by_name.get(element.name()).copied())).collect()
}

fn write(element: Element<'_>, before: Option<Element<'_>>, writer: &mut Writer<'_>) {
    let in_array = element.kind() == kind::ARRAY;
    let Some(doc) = element.as_doc().filter(|doc| has_repeats(*doc, in_array)) else {
        return writer.append(&element);
    };
    let before = before.filter(|e| e.kind() == element.kind()).and_then(|e| e.as_doc());
    let mut inner =
        if in_array { writer.begin_array(element.name()) } else { writer.begin_doc(element.name()) };
    for (element, before) in kept(doc, before, in_array) {
        write(element, before, &mut inner);
    }
    inner.end();
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A document of these fields, each with an integer.
    fn fields(names: &[&str]) -> Vec<u8> {
        Writer::build(|w| names.iter().zip(0..).for_each(|(name, n)| w.i32(name, n)))
    }

    fn names(doc: &[u8]) -> Vec<String> {
        let doc = Doc::new(doc).unwrap();
        doc.elements().map(|e| e.unwrap().name_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_moved_field_stays_where_it_was_moved_to_and_the_id_first() {
        let before = fields(&["_id", "a", "b", "c"]);
        let after = fields(&["_id", "a", "b", "c", "n", "c", "_id", "a"]);
        let stored = stored("update", Doc::new(&after).unwrap(), Some(Doc::new(&before).unwrap())).unwrap();
        assert_eq!(names(&stored), ["_id", "b", "n", "c", "a"]);
        let stored = Doc::new(&stored).unwrap();
        assert_eq!(stored.get("c").unwrap().as_i32(), Some(5), "with its new value");
        assert!(super::stored("update", stored, None).is_none(), "nothing is twice in it");
    }

    #[test]
    fn the_id_comes_first() {
        let told = fields(&["a", "_id", "b"]);
        let told = Doc::new(&told).unwrap();
        for op in ["replace", "update"] {
            let found = stored(op, told, None).unwrap();
            assert_eq!(names(&found), ["_id", "a", "b"]);
            let found = Doc::new(&found).unwrap();
            assert_eq!(found.get("b").unwrap().as_i32(), Some(2));
            assert!(stored(op, found, None).is_none());
        }
        assert!(stored("insert", told, None).is_none());
        let twice = fields(&["a", "b", "_id", "a"]);
        let found = stored("update", Doc::new(&twice).unwrap(), None).unwrap();
        assert_eq!(names(&found), ["_id", "b", "a"]);
        let without = fields(&["a", "b"]);
        assert!(stored("update", Doc::new(&without).unwrap(), None).is_none());
    }

    #[test]
    fn parts_are_mended_at_any_depth_and_what_was_twice_before_is_left() {
        let nest = |inner: &[u8]| {
            Writer::build(|w| {
                let mut list = w.begin_array(b"list");
                list.i32("0", 1);
                list.doc("1", inner);
                list.end();
                w.i32("z", 1);
            })
        };
        let (before, after) = (nest(&fields(&["a", "_id", "b"])), nest(&fields(&["a", "_id", "b", "a"])));
        let told = stored("update", Doc::new(&after).unwrap(), Some(Doc::new(&before).unwrap())).unwrap();
        let inner = Doc::new(&told).unwrap().get_path(&["list", "1"]).unwrap().as_doc().unwrap();
        assert_eq!(names(inner.as_bytes()), ["_id", "b", "a"]);
        assert_eq!(names(&told), ["list", "z"]);

        let twice = fields(&["_id", "a", "a"]);
        let after = fields(&["_id", "a", "a", "b"]);
        let told = stored("update", Doc::new(&after).unwrap(), Some(Doc::new(&twice).unwrap())).unwrap();
        assert_eq!(told, after);
    }
}
