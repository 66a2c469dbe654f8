//! Many documents at once are what each of them is alone, whatever happened to them and wherever their records lie.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use bson::{Document, Timestamp, doc};

use super::History;
use super::id::DocumentId;
use super::recover::{Answer, Conditions, Recovered, as_of, by_id, by_many_ids, deleted_since};
use super::states::State;
use super::testing::{DAY, Shop};
use super::timeline::Entry;
use crate::archive::extjson::random::Random;
use crate::record::Record;

const IDS: i32 = 60;

/// Some hundred changes of every kind: with images and without, in two collections, with drops, renames, and gaps.
fn eventful(random: &mut Random) -> Shop {
    let mut shop = Shop::with_plugins(&[]);
    for n in 0..600 {
        let id = random.below(IDS as usize) as i32;
        let coll = if random.below(4) == 0 { "others" } else { "orders" };
        let head = |op: &str| doc! {"op": op, "ns": {"db": "shop", "coll": coll}, "key": {"_id": id}};
        let whole = doc! {"_id": id, "n": n, "text": "x".repeat(random.below(80))};
        let image = random.below(2) == 0;
        match random.below(40) {
            0..12 => shop.push(head("insert"), doc! {"after": whole}),
            12..24 => {
                let delta = doc! {"delta": {"updatedFields": {"n": n}, "removedFields": []}};
                let before = doc! {"before": {"_id": id, "n": n - 1}};
                shop.push(
                    head("update"),
                    if image {
                        before
                    } else {
                        doc! {}
                    }
                    .into_iter()
                    .chain(delta)
                    .collect(),
                )
            }
            24..28 => shop.push(head("replace"), doc! {"after": whole}),
            28..34 => shop.push(
                head("delete"),
                if image {
                    doc! {"before": whole}
                } else {
                    doc! {}
                },
            ),
            34..36 => shop.push(head("snapshot"), doc! {"after": whole}),
            36 => shop.push(doc! {"op": "drop", "ns": {"db": "shop", "coll": coll}}, doc! {}),
            37 => {
                let to = doc! {"to": {"db": "shop", "coll": "renamed"}, "fromWatched": true};
                shop.push(doc! {"op": "rename", "ns": {"db": "shop", "coll": coll}}, doc! {"detail": to})
            }
            38 => {
                let time = |back| Timestamp { time: shop.second - back, increment: 1 };
                let detail = doc! {"reason": "test", "after": time(2), "until": time(1)};
                let gap = shop.push(doc! {"op": "gap"}, doc! {"detail": detail});
                shop.push(head("insert"), doc! {"after": whole});
                shop.push(doc! {"op": "gap"}, doc! {"detail": {"closes": gap}})
            }
            _ => shop.push(
                doc! {"op": "quarantine", "ns": {"db": "shop", "coll": coll}},
                doc! {"detail": {"op": "update", "plugin": "p", "error": "trap"}},
            ),
        };
    }
    shop
}

type Told = BTreeMap<(String, String), Option<Vec<u8>>>;

fn tell(told: &mut Told, recovered: Recovered) {
    let at = (recovered.namespace.to_string(), recovered.id);
    assert_eq!(told.insert(at, Some(recovered.document.to_vec())), None, "given twice");
}

/// What each document was, one by one; `None`: history can't tell.
async fn one_by_one(history: &History, at: i64) -> Told {
    let mut told = Told::new();
    for id in 0..IDS {
        let given = DocumentId::parse(&id.to_string()).unwrap();
        let places = history.timeline("shop", &given, None).await.map(|timeline| {
            timeline.entries.iter().map(|entry| entry.identity.namespace.clone()).collect::<BTreeSet<_>>()
        });
        for namespace in places.unwrap_or_default() {
            let key = (namespace.to_string(), id.to_string());
            match by_id(history, "shop", &given, Some(at), Some(&namespace)).await {
                Ok((recovered, _)) => drop(told.insert(key, Some(recovered.document.to_vec()))),
                Err(error) if error.to_string().contains("can't tell") => drop(told.insert(key, None)),
                Err(error) => assert!(error.to_string().contains("did not exist"), "{error}"),
            }
        }
    }
    told
}

#[tokio::test]
async fn all_documents_of_a_time_are_what_each_is_alone() {
    for seed in 0..3 {
        let mut random = Random::new(seed, false);
        let shop = eventful(&mut random);
        let (archive, _folder) = shop.archive(&[100, 350]).await;
        let history = History::new(None, archive);
        let mut known = 0;
        for _ in 0..2 {
            let at = i64::from(DAY) + random.below(shop.records.len() + 4) as i64;
            let mut told = Told::new();
            let take = async |answer: Answer| {
                match answer {
                    Ok(recovered) => tell(&mut told, recovered),
                    Err(lost) => {
                        assert_eq!(told.insert((lost.namespace.to_string(), lost.id), None), None)
                    }
                }
                Ok(())
            };
            let summary = as_of(&history, "shop", at, None, &Conditions::default(), take).await.unwrap();
            let given = told.values().flatten().count();
            assert_eq!((summary.recovered, summary.lost), (given as u64, (told.len() - given) as u64));
            known += given;
            assert_eq!(told, one_by_one(&history, at).await, "seed {seed} at {at}");
        }
        assert!(known > 5, "nearly everything is unknown");
    }
}

#[tokio::test]
async fn many_ids_are_what_each_is_alone() {
    let mut found = 0;
    for seed in 0..3 {
        let mut random = Random::new(seed + 100, false);
        let shop = eventful(&mut random);
        let (archive, _folder) = shop.archive(&[100, 350]).await;
        let history = History::new(None, archive);
        // Also such as never were, and one in two spellings.
        let texts: Vec<String> = (0..IDS + 5).map(|n| n.to_string()).chain(["7.0".to_owned()]).collect();
        let ids: Vec<DocumentId> = texts.iter().map(|text| DocumentId::parse(text).unwrap()).collect();
        let orders = super::Namespace::parse("shop.orders").unwrap();
        for at in [None, Some(i64::from(DAY) + random.below(600) as i64)] {
            let (mut given, mut failed) = (Vec::new(), Vec::new());
            let take = async |found: crate::error::Result<Recovered>| {
                match found {
                    Ok(recovered) => given.push((recovered.id, recovered.document.to_vec(), recovered.seq)),
                    Err(error) => failed.push(error.to_string()),
                }
                Ok(())
            };
            by_many_ids(&history, "shop", &ids, at, Some(&orders), take).await.unwrap();
            let (mut alone, mut failed_alone) = (Vec::new(), Vec::new());
            for id in &ids {
                match by_id(&history, "shop", id, at, Some(&orders)).await {
                    Ok((r, _)) => alone.push((r.id, r.document.to_vec(), r.seq)),
                    Err(error) => failed_alone.push(error.to_string()),
                }
            }
            assert!(!failed.is_empty());
            found += given.len();
            for list in [&mut given, &mut alone] {
                list.sort();
            }
            for list in [&mut failed, &mut failed_alone] {
                list.sort();
            }
            assert_eq!(given, alone, "seed {seed} at {at:?}");
            assert_eq!(failed, failed_alone, "seed {seed} at {at:?}");
        }
    }
    assert!(found > 20, "nearly nothing is known");
}

#[tokio::test]
async fn a_condition_selects_among_the_documents_of_a_time() {
    let mut shop = Shop::with_plugins(&[]);
    for id in 0..200 {
        shop.change("insert", id, doc! {"after": {"_id": id, "even": id % 2 == 0, "text": "y".repeat(100)}});
    }
    let then = i64::from(shop.second);
    shop.change("update", 4, doc! {"delta": {"updatedFields": {"even": false}, "removedFields": []}});
    shop.change("delete", 6, doc! {});
    let (archive, _folder) = shop.archive(&[50]).await;
    let history = History::new(None, archive);
    let conditions = Conditions::parse(&["even=true".to_owned()]).unwrap();
    for (at, expected) in [(then, 100), (then + 1, 99), (then + 2, 98)] {
        let mut found: Vec<Document> = Vec::new();
        let take = async |answer: Answer| {
            found.push(bson::deserialize_from_slice(&answer.unwrap().document).unwrap());
            Ok(())
        };
        as_of(&history, "shop", at, None, &conditions, take).await.unwrap();
        assert_eq!(found.len(), expected);
        assert!(found.iter().all(|document| document.get_bool("even").unwrap()));
    }
}

#[tokio::test]
async fn all_that_is_deleted_is_what_each_was_alone_before_an_end() {
    let mut given = 0;
    for seed in 0..6 {
        let mut random = Random::new(seed, false);
        let shop = eventful(&mut random);
        let (archive, _folder) = shop.archive(&[100, 350]).await;
        let history = History::new(None, archive);
        // Everything, a part, and the few of the last moments, which are looked up one by one.
        let part = i64::from(DAY) + random.below(shop.records.len()) as i64;
        for since in [0, part, i64::from(shop.second) - 8] {
            let mut told = BTreeMap::new();
            let take = async |answer: Answer| {
                let (at, recovered) = match answer {
                    Ok(found) => ((found.namespace.to_string(), found.id.clone()), Some(found)),
                    Err(lost) => ((lost.namespace.to_string(), lost.id), None),
                };
                assert!(told.insert(at, recovered).is_none(), "told of twice");
                Ok(())
            };
            let summary = deleted_since(&history, "shop", since, None, take).await.unwrap();
            let back = told.values().flatten().count();
            assert_eq!((summary.recovered, summary.lost), (back as u64, (told.len() - back) as u64));
            given += back;
            for recovered in told.into_values().flatten() {
                let id = DocumentId::parse(&recovered.id).unwrap();
                let timeline = history.timeline("shop", &id, Some(&recovered.namespace)).await.unwrap();
                let is_its_end = |entry: &&Entry| {
                    let record = Record::new(&entry.record).unwrap();
                    record.seq().unwrap() == recovered.seq && entry.identity.namespace == recovered.namespace
                };
                let end = timeline.entries.iter().find(is_its_end).unwrap();
                assert_eq!(end.before.state, State::Present(recovered.document), "seed {seed} since {since}");
                let time = Record::new(&end.record).unwrap().cluster_time().unwrap();
                assert!(i64::from(time.time) >= since, "seed {seed} since {since}");
            }
        }
    }
    assert!(given > 300, "{given}");
}

#[tokio::test]
async fn documents_that_share_their_ids_are_all_given_back() {
    for ids in [16, 17, 20, 32, 33] {
        let mut shop = Shop::with_plugins(&[]);
        for coll in ["orders", "others"] {
            for id in 0..ids {
                let head = |op: &str| doc! {"op": op, "ns": {"db": "shop", "coll": coll}, "key": {"_id": id}};
                shop.push(head("insert"), doc! {"after": {"_id": id, "of": coll}});
                shop.push(head("delete"), doc! {});
            }
        }
        let (archive, _folder) = shop.archive(&[]).await;
        let history = History::new(None, archive);
        let summary = deleted_since(&history, "shop", 0, None, async |_| Ok(())).await.unwrap();
        assert_eq!((summary.recovered, summary.lost), (2 * ids as u64, 0));
    }
}
