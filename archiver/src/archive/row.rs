//! One record as the columns of a segment. A record of any other shape than its own is `odd`: it is kept whole in `extra`.

use bson_walker::{Doc, Element, kind};

use crate::error::Result;
use crate::record::{Record, RecordId};

/// The fields of a record, in their order.
const FIELDS: [&str; 14] = [
    "_id",
    "op",
    "ns",
    "key",
    "clusterTime",
    "wallTime",
    "before",
    "after",
    "delta",
    "images",
    "txn",
    "actor",
    "detail",
    "policy",
];

/// The parts of a record, as views of its bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Row<'a> {
    pub(super) seq: i64,
    pub(super) partition: Option<u32>,
    pub(super) op: &'a str,
    pub(super) db: Option<&'a str>,
    pub(super) coll: Option<&'a str>,
    pub(super) key: Option<Doc<'a>>,
    pub(super) cluster_time: (u32, u32),
    pub(super) wall_micros: Option<i64>,
    pub(super) before: Option<Doc<'a>>,
    pub(super) after: Option<Doc<'a>>,
    pub(super) delta: Option<Doc<'a>>,
    pub(super) images: Option<Doc<'a>>,
    pub(super) txn: Option<(&'a [u8], i64)>,
    pub(super) actor: Option<&'a str>,
    pub(super) actor_from: Option<&'a str>,
    pub(super) reason: Option<&'a str>,
    pub(super) detail: Option<Doc<'a>>,
    pub(super) policy: Option<i64>,
    /// Whether the columns alone would not give the record back.
    pub(super) odd: bool,
}

impl<'a> Row<'a> {
    /// The parts of a record, which must have a seq and a cluster time; anything else about it can be odd.
    pub(super) fn of(record: Record<'a>) -> Result<Row<'a>> {
        let cluster_time = record.cluster_time()?;
        let RecordId { partition, seq } = record.record_id()?;
        let mut row = Row {
            seq,
            partition,
            cluster_time: (cluster_time.time, cluster_time.increment),
            ..Row::default()
        };
        let mut next = 0;
        let mut has_op = false;
        for element in record.doc().elements() {
            let place =
                element.ok().and_then(|e| Some((FIELDS.iter().position(|f| f.as_bytes() == e.name())?, e)));
            let Some((place, element)) = place else {
                row.odd = true;
                continue;
            };
            row.odd |= place < next;
            next = next.max(place + 1);
            has_op |= FIELDS[place] == "op";
            row.odd |= row.take(FIELDS[place], &element).is_none();
        }
        row.odd |= !has_op;
        Ok(row)
    }

    /// Takes one field; `None` where it is not of the shape that the columns can hold.
    fn take(&mut self, name: &str, element: &Element<'a>) -> Option<()> {
        match name {
            "_id" => drop(RecordId::read(element)?),
            "op" => self.op = element.as_str()?,
            "ns" => return strings(element, ["db", "coll"], [&mut self.db, &mut self.coll]),
            "key" => self.key = Some(document(element)?),
            "clusterTime" => drop(element.as_timestamp()?),
            "wallTime" => self.wall_micros = Some(element.as_date_millis()?.checked_mul(1_000)?),
            "before" => self.before = Some(document(element)?),
            "after" => self.after = Some(document(element)?),
            "delta" => self.delta = Some(document(element)?),
            "images" => self.images = Some(document(element)?),
            "txn" => self.txn = Some(transaction(element)?),
            "actor" => {
                let parts = [&mut self.actor, &mut self.actor_from, &mut self.reason];
                return strings(element, ["id", "from", "reason"], parts);
            }
            "detail" => self.detail = Some(document(element)?),
            "policy" => self.policy = Some(element.as_i64()?),
            _ => return None,
        }
        Some(())
    }

    /// The document's `_id`, where the record has one.
    pub(super) fn id(&self) -> Option<Element<'a>> {
        self.key?.get("_id")
    }

    /// The top-level names of the fields that an update touched, sorted, each once; `None` where there is no delta.
    pub(super) fn changed(&self) -> Option<Vec<String>> {
        let delta = self.delta?;
        let ambiguous = delta.get("disambiguatedPaths").and_then(|e| e.as_doc());
        let mut names: Vec<String> = Vec::new();
        let mut add = |path: &[u8]| {
            // A field whose own name holds a dot is told apart from a path only here.
            let parts = ambiguous.and_then(|paths| paths.get(std::str::from_utf8(path).ok()?)?.as_doc());
            let first = parts.and_then(|parts| parts.get("0")?.string_bytes());
            let first = first.or_else(|| path.split(|b| *b == b'.').next()).unwrap_or_default();
            names.push(String::from_utf8_lossy(first).into_owned());
        };
        for field in fields(&delta, "updatedFields") {
            add(field.name());
        }
        for path in fields(&delta, "removedFields") {
            add(path.string_bytes().unwrap_or_default());
        }
        for array in fields(&delta, "truncatedArrays") {
            let path = array.as_doc().and_then(|array| array.get("field")?.string_bytes());
            add(path.unwrap_or_default());
        }
        names.sort_unstable();
        names.dedup();
        Some(names)
    }
}

fn fields<'a>(delta: &Doc<'a>, name: &str) -> impl Iterator<Item = Element<'a>> {
    let part = delta.get(name).and_then(|e| e.as_doc()).unwrap_or(Doc::EMPTY);
    part.elements().map_while(std::result::Result::ok)
}

fn document<'a>(element: &Element<'a>) -> Option<Doc<'a>> {
    (element.kind() == kind::DOCUMENT).then(|| element.as_doc())?
}

/// Reads a document that holds one or several of these strings in this order and nothing else.
fn strings<'a, const N: usize>(
    element: &Element<'a>,
    names: [&str; N],
    into: [&mut Option<&'a str>; N],
) -> Option<()> {
    let doc = document(element)?;
    let mut expected = Vec::with_capacity(N);
    for (name, into) in names.into_iter().zip(into) {
        *into = doc.get(name).and_then(|e| e.as_str());
        expected.extend(into.map(|_| Some(name)));
    }
    let found = doc.elements().map(|e| e.ok().and_then(|e| e.name_str()));
    (expected.into_iter().eq(found) && !doc.is_empty()).then_some(())
}

/// Reads `{lsid: <UUID>, number: Int64}`.
fn transaction<'a>(element: &Element<'a>) -> Option<(&'a [u8], i64)> {
    let mut parts = document(element)?.elements();
    let (lsid, number) = (parts.next()?.ok()?, parts.next()?.ok()?);
    let (subtype, uuid) = lsid.as_binary()?;
    let exact = lsid.name() == b"lsid" && subtype == 4 && uuid.len() == 16 && number.name() == b"number";
    (exact && parts.next().is_none()).then_some((uuid, number.as_i64()?))
}
