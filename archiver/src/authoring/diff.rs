//! What a plugin changed in an event, path by path.

use std::collections::HashSet;

use bson_walker::{Doc, Element, kind};
use serde::Serialize;

use crate::archive::extjson::value_text;

/// One place at which two documents differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The names from the top, joined by dots; an array's elements are named by their index: `after.items[3].sku`.
    pub path: String,
    /// The value before, as relaxed Extended JSON; `None` where there was none.
    pub before: Option<String>,
    /// The value after; `None` where there is none any more.
    pub after: Option<String>,
}

/// Every place at which the documents differ, in their order: the deepest that tells them apart. Where nothing but the order of
/// fields differs, that is one change of the document whose fields they are.
pub fn diff(before: Doc<'_>, after: Doc<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    compare("", false, before, after, &mut changes);
    changes
}

fn compare(path: &str, is_array: bool, before: Doc<'_>, after: Doc<'_>, changes: &mut Vec<Change>) {
    let found = changes.len();
    let (old, new) = (fields(before), fields(after));
    let place = |element: &Element<'_>| {
        let name = String::from_utf8_lossy(element.name());
        match (is_array, path.is_empty()) {
            (true, _) => format!("{path}[{name}]"),
            (false, true) => name.into_owned(),
            (false, false) => format!("{path}.{name}"),
        }
    };
    let other = |fields: &[Element<'_>], name: &[u8]| fields.iter().position(|field| field.name() == name);
    let mut seen = HashSet::new();
    for element in &old {
        let twin = other(&new, element.name()).filter(|at| seen.insert(*at));
        match twin.map(|at| &new[at]) {
            Some(twin) if twin.whole() == element.whole() => {}
            Some(twin) => match (element.as_doc(), twin.as_doc()) {
                (Some(a), Some(b)) if element.kind() == twin.kind() => {
                    compare(&place(element), element.kind() == kind::ARRAY, a, b, changes);
                }
                _ => changes.push(change(place(element), Some(element), Some(twin))),
            },
            None => changes.push(change(place(element), Some(element), None)),
        }
    }
    let added = new.iter().enumerate().filter(|(at, _)| !seen.contains(at));
    changes.extend(added.map(|(_, element)| change(place(element), None, Some(element))));
    if changes.len() == found && before.as_bytes() != after.as_bytes() {
        let names = |fields: &[Element<'_>]| {
            let names: Vec<_> = fields.iter().map(|field| String::from_utf8_lossy(field.name())).collect();
            Some(format!("fields in the order {}", names.join(", ")))
        };
        changes.push(Change { path: path.to_owned(), before: names(&old), after: names(&new) });
    }
}

fn fields<'a>(doc: Doc<'a>) -> Vec<Element<'a>> {
    doc.elements().map_while(Result::ok).collect()
}

fn change(path: String, before: Option<&Element<'_>>, after: Option<&Element<'_>>) -> Change {
    Change { path, before: before.map(value_text), after: after.map(value_text) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bson::{Document, doc};

    use super::*;

    fn changes(before: Document, after: Document) -> Vec<(String, Option<String>, Option<String>)> {
        let (before, after) = (before.to_vec().unwrap(), after.to_vec().unwrap());
        let found = diff(Doc::new(&before).unwrap(), Doc::new(&after).unwrap());
        found.into_iter().map(|c| (c.path, c.before, c.after)).collect()
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn the_deepest_place_that_differs_is_shown() {
        let before = doc! {"a": {"b": [1, {"c": "x"}], "d": 1}, "same": {"e": 1}, "gone": [1]};
        let after = doc! {"a": {"b": [1, {"c": "***"}], "d": 1_i64}, "same": {"e": 1}, "new": {"f": 1.5}};
        let expected = [
            ("a.b[1].c".to_owned(), text("\"x\""), text("\"***\"")),
            ("a.d".to_owned(), text("1"), text("1")),
            ("gone".to_owned(), text("[1]"), None),
            ("new".to_owned(), None, text("{\"f\":1.5}")),
        ];
        assert_eq!(changes(before, after), expected);
    }

    #[test]
    fn equal_documents_have_no_changes_and_another_order_is_one() {
        assert_eq!(changes(doc! {"a": 1, "b": 2}, doc! {"a": 1, "b": 2}), []);
        let turned = changes(doc! {"x": {"a": 1, "b": 2}}, doc! {"x": {"b": 2, "a": 1}});
        let order = |names: &str| text(&format!("fields in the order {names}"));
        assert_eq!(turned, [("x".to_owned(), order("a, b"), order("b, a"))]);
    }

    #[test]
    fn another_type_is_a_change_of_the_whole_value() {
        let found = changes(doc! {"a": {"b": 1}, "c": [1]}, doc! {"a": [1], "c": "***"});
        assert_eq!(found[0], ("a".to_owned(), text("{\"b\":1}"), text("[1]")));
        assert_eq!(found[1], ("c".to_owned(), text("[1]"), text("\"***\"")));
    }
}
