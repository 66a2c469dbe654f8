//! Says to a plugin's author what exactly the host does not accept. Not for real events: it names fields.

use bson_walker::{Doc, validate};

use super::contract::BatchResult;
use super::limits::MAX_DEPTH;
use super::outcome::FailureCode;
use crate::event::{FIELDS, IDENTITY};

/// What is wrong with the result for one event, where it takes more words than the code has.
pub(super) fn explain(event: &[u8], result: &BatchResult, code: FailureCode) -> Option<String> {
    if !matches!(code, FailureCode::InvalidOutput | FailureCode::IdentityChanged) {
        return None;
    }
    match result.verdicts[..] {
        [1] => replacement(event, &result.docs),
        [0 | 2] => Some(format!("the verdict has no document, but {} bytes came with it", result.docs.len())),
        [other] => Some(format!("there is no verdict {other}: 0 keeps, 1 replaces, 2 drops")),
        _ => Some(format!("there are {} verdicts for 1 event", result.verdicts.len())),
    }
}

fn replacement(event: &[u8], bytes: &[u8]) -> Option<String> {
    let doc = match Doc::split(bytes) {
        Ok((doc, [])) => doc,
        Ok((_, rest)) => return Some(format!("{} bytes follow the replacement", rest.len())),
        Err(e) => return Some(format!("the replacement is not one document: {e}")),
    };
    if let Err(e) = validate(doc.as_bytes(), MAX_DEPTH) {
        return Some(format!("the replacement is not sound: {e}"));
    }
    let event = Doc::new(event).ok()?;
    for name in IDENTITY {
        match (event.get(name), doc.get(name)) {
            (Some(a), Some(b)) if a.whole() == b.whole() => {}
            (None, None) => {}
            (None, Some(_)) => return Some(format!("it added `{name}`")),
            (Some(_), None) => return Some(format!("it left out `{name}`")),
            (Some(_), Some(_)) => return Some(format!("it changed `{name}`")),
        }
    }
    let mut allowed = FIELDS.iter();
    for element in doc.elements().map_while(Result::ok) {
        let name = String::from_utf8_lossy(element.name());
        if !FIELDS.contains(&&*name) {
            return Some(format!("an event has no field `{name}`; its fields are {}", FIELDS.join(", ")));
        }
        if !allowed.any(|field| *field == name) {
            let order = FIELDS.join(", ");
            return Some(format!("`{name}` comes twice or too late; the fields' order is {order}"));
        }
        if !IDENTITY.contains(&&*name) && element.as_doc().is_none() {
            return Some(format!("`{name}` is not a document"));
        }
    }
    Some("`delta` has a part of another type than MongoDB's".to_owned())
}
