//! Many writes at once: by document, each document's in their order.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use bson_walker::{Doc, kind};
use tokio::task::JoinSet;

use super::target::{Target, Write, is_odd};
use crate::error::{Error, Result};
use crate::history::id::Id;
use crate::history::states::Identity;

/// How a document is written: what is alike, and of one collection, is one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Insert,
    Replace,
    Delete,
}

const WAYS: [Way; 3] = [Way::Insert, Way::Replace, Way::Delete];

impl Way {
    fn of(write: &Write) -> Way {
        match &write.after {
            None => Way::Delete,
            Some(document) if write.is_new && !is_odd(document) => Way::Insert,
            Some(_) => Way::Replace,
        }
    }
}

/// Makes all of these writes, by so many writers.
pub(super) async fn write_all(target: &Target, writes: Vec<Write>, writers: usize) -> Result<()> {
    let writers = writers.max(1);
    let mut shares: Vec<Vec<Write>> = (0..writers).map(|_| Vec::new()).collect();
    for write in writes {
        let share = (document(&write) % writers as u64) as usize;
        shares[share].push(write);
    }
    let mut tasks = JoinSet::new();
    for share in shares.into_iter().filter(|share| !share.is_empty()) {
        let target = target.clone();
        tasks.spawn(async move { write_share(&target, &share).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|e| Error::internal("writing into the target was cut short").because(e))??;
    }
    Ok(())
}

async fn write_share(target: &Target, writes: &[Write]) -> Result<()> {
    for (n, phase) in phases(writes).into_iter().enumerate() {
        for (collection, writes) in phase {
            match WAYS[n % WAYS.len()] {
                Way::Insert => target.insert(collection, &writes).await?,
                Way::Replace => target.replace(collection, &writes, None).await?,
                Way::Delete => target.delete(collection, &writes, None).await?,
            }
        }
    }
    Ok(())
}

/// Puts writes together that are alike. Phases are of the three ways by turns; a document's writes are in phases that do not go back.
fn phases(writes: &[Write]) -> Vec<BTreeMap<&str, Vec<&Write>>> {
    let mut last: HashMap<u64, usize> = HashMap::new();
    let mut phases: Vec<BTreeMap<&str, Vec<&Write>>> = Vec::new();
    for write in writes {
        let way = Way::of(write);
        let begin = match last.get(&document(write)) {
            None => 0,
            // One command replaces in order; it can't insert twice.
            Some(phase) if way == Way::Replace => *phase,
            Some(phase) => phase + 1,
        };
        let fits = |phase: &usize| WAYS[phase % WAYS.len()] == way;
        let phase = (begin..begin + WAYS.len()).find(fits).unwrap_or(begin);
        last.insert(document(write), phase);
        while phases.len() <= phase {
            phases.push(BTreeMap::new());
        }
        phases[phase].entry(&write.collection).or_default().push(write);
    }
    phases
}

/// Stands for a document: equal ones for all forms of a number that MongoDB takes for the same `_id`. Others may share it, which only
/// keeps them in order.
fn document(write: &Write) -> u64 {
    let Identity { namespace, id: Id(kind, value) } = &write.identity;
    let mut hash = DefaultHasher::new();
    namespace.hash(&mut hash);
    hash_value(*kind, value, &mut hash);
    hash.finish()
}

fn hash_value(kind: u8, value: &[u8], hash: &mut DefaultHasher) {
    match kind {
        kind::DOUBLE | kind::INT32 | kind::INT64 | kind::DECIMAL128 => number(kind, value).hash(hash),
        kind::DOCUMENT | kind::ARRAY => {
            let elements = Doc::new(value).into_iter().flat_map(|doc| doc.elements().map_while(|e| e.ok()));
            for element in elements {
                element.name().hash(hash);
                hash_value(element.kind(), element.value(), hash);
            }
        }
        kind::STRING | kind::SYMBOL => value.hash(hash),
        other => (other, value).hash(hash),
    }
}

/// The bits of a number as a double.
fn number(kind: u8, value: &[u8]) -> Option<u64> {
    let number = match kind {
        kind::DOUBLE => f64::from_le_bytes(value.try_into().ok()?),
        kind::INT32 => f64::from(i32::from_le_bytes(value.try_into().ok()?)),
        kind::INT64 => i64::from_le_bytes(value.try_into().ok()?) as f64,
        _ => bson::Decimal128::from_bytes(value.try_into().ok()?).to_string().parse().ok()?,
    };
    // -0.0 is 0.0.
    Some((number + 0.0).to_bits())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bson::{Bson, doc};
    use bytes::Bytes;

    use super::super::super::Namespace;
    use super::*;

    fn write(id: impl Into<Bson>, after: Option<bson::Document>, is_new: bool) -> Write {
        let id = bson::serialize_to_vec(&doc! {"_id": id.into()}).unwrap();
        let id = Doc::new(&id).unwrap().get("_id").unwrap();
        let namespace = Namespace { db: "d".to_owned(), coll: "c".to_owned() };
        Write {
            collection: "c".to_owned(),
            identity: Identity { namespace, id: Id::of(&id) },
            after: after.map(|after| Bytes::from(bson::serialize_to_vec(&after).unwrap())),
            is_new,
        }
    }

    #[test]
    fn numbers_that_mongodb_takes_for_the_same_id_are_one_document() {
        let of = |id: Bson| document(&write(id, None, false));
        let decimal: bson::Decimal128 = "1.0".parse().unwrap();
        let one = of(1_i32.into());
        assert!([of(1_i64.into()), of(1.0.into()), of(decimal.into())].iter().all(|other| *other == one));
        assert_eq!(of(0.0.into()), of((-0.0).into()));
        assert_eq!(of(doc! {"a": 1_i32}.into()), of(doc! {"a": 1_i64}.into()));
        assert_ne!(of(doc! {"a": 1_i32}.into()), of(doc! {"b": 1_i32}.into()));
        assert_ne!(one, of("1".into()));
    }

    #[test]
    fn a_documents_writes_stay_in_order_and_those_of_others_are_put_together() {
        let after = |n: i32| Some(doc! {"_id": 0, "n": n});
        let writes = [
            write(1, after(1), true),
            write(2, after(1), true),
            write(1, after(2), false),
            write(1, after(3), false),
            write(2, None, false),
            write(2, after(2), true),
            write(1, None, false),
            write(3, after(1), true),
            write(4, Some(doc! {"_id": 4, "t": bson::Timestamp { time: 0, increment: 0 }}), true),
        ];
        let phases = phases(&writes);
        let counts: Vec<usize> = phases.iter().map(|p| p.values().map(Vec::len).sum()).collect();
        assert_eq!(counts, [3, 3, 2, 1]);
        for id in 1..5 {
            let one = write(id, None, false);
            let in_phases = phases.iter().flat_map(|p| p.values().flatten().copied());
            let seen: Vec<_> = in_phases.filter(|w| w.identity == one.identity).map(|w| &w.after).collect();
            let made: Vec<_> =
                writes.iter().filter(|w| w.identity == one.identity).map(|w| &w.after).collect();
            assert_eq!(seen, made, "document {id}");
        }
    }
}
