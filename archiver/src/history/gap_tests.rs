//! What history says of documents before, inside and behind gaps, against a model that knows what really happened.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;

use bson::{Document, Timestamp, doc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::id::DocumentId;
use super::recover::by_id;
use super::states::{Identity, Reason, State, States};
use super::testing::Shop;
use super::*;
use crate::error::Kind;

const DOCUMENTS: i32 = 6;

fn orders() -> Namespace {
    Namespace { db: "shop".into(), coll: "orders".into() }
}

fn identity(id: i32) -> Identity {
    let bytes = bson::serialize_to_vec(&doc! {"_id": id}).unwrap();
    let element = bson_walker::Doc::new(&bytes).unwrap().get("_id").unwrap();
    Identity { namespace: orders(), id: super::id::Id::of(&element) }
}

fn bytes(document: &Document) -> Vec<u8> {
    bson::serialize_to_vec(document).unwrap()
}

fn at(second: u32) -> Timestamp {
    Timestamp { time: second, increment: 1 }
}

/// An application, what capture would append of it, and what history may believe.
struct World {
    shop: Shop,
    rng: StdRng,
    truth: BTreeMap<i32, Document>,
    /// The present documents after each record.
    truths: Vec<BTreeMap<i32, Document>>,
    /// What the records tell, lost changes apart; `None`: nobody can say.
    told: BTreeMap<i32, Option<Document>>,
}

impl World {
    fn new(seed: u64) -> World {
        let shop = Shop::with_plugins(&[]);
        let rng = StdRng::seed_from_u64(seed);
        World { shop, rng, truth: BTreeMap::new(), truths: vec![BTreeMap::new()], told: BTreeMap::new() }
    }

    fn record(&mut self, op: &str, id: i32, rest: Document) {
        self.shop.change(op, id, rest);
        self.truths.push(self.truth.clone());
    }

    /// One change of one document, recorded or lost.
    fn change(&mut self, is_lost: bool) {
        let id = self.rng.random_range(0..DOCUMENTS);
        let value = self.rng.random_range(0..3);
        let field = if self.rng.random() { "a" } else { "b" };
        let fresh = doc! {"_id": id, "a": value};
        let (op, rest) = match (self.truth.get_mut(&id), self.rng.random_range(0..6)) {
            (None, _) => {
                self.truth.insert(id, fresh.clone());
                ("insert", doc! {"after": fresh.clone()})
            }
            (Some(_), 0) => {
                self.truth.remove(&id);
                ("delete", doc! {})
            }
            (Some(present), 1) => {
                *present = fresh.clone();
                ("replace", doc! {"after": fresh.clone()})
            }
            (Some(present), _) => {
                present.insert(field, value);
                let delta =
                    doc! {"updatedFields": {field: value}, "removedFields": [], "truncatedArrays": []};
                ("update", doc! {"delta": delta})
            }
        };
        if is_lost {
            return;
        }
        match op {
            "update" => {
                if let Some(Some(told)) = self.told.get_mut(&id) {
                    told.insert(field, value);
                }
            }
            "delete" => drop(self.told.remove(&id)),
            _ => drop(self.told.insert(id, Some(fresh))),
        }
        self.record(op, id, rest);
    }

    /// Compares one document, as the comparison behind a gap does.
    fn compare(&mut self, id: i32, window: &Document) {
        let told = self.told.get(&id).cloned();
        let (op, found, rest) = match (told, self.truth.get(&id)) {
            (None, None) => return,
            (Some(Some(told)), Some(present)) if bytes(&told) == bytes(present) => return,
            (Some(_), Some(present)) => ("snapshot", "changed", doc! {"after": present.clone()}),
            (None, Some(present)) => ("snapshot", "inserted", doc! {"after": present.clone()}),
            (Some(_), None) => ("delete", "deleted", doc! {}),
        };
        let mut detail = doc! {"found": found};
        detail.extend(window.clone());
        let mut rest = rest;
        rest.insert("detail", detail);
        match self.truth.get(&id).cloned() {
            Some(present) => drop(self.told.insert(id, Some(present))),
            None => drop(self.told.remove(&id)),
        }
        self.record(op, id, rest);
    }

    /// Changes, a gap with lost changes, and a comparison with changes in between.
    fn live_through_a_gap(&mut self) {
        for _ in 0..self.rng.random_range(0..12) {
            self.change(false);
        }
        let after = at(self.shop.second - 1);
        for _ in 0..self.rng.random_range(0..6) {
            self.change(true);
        }
        self.shop.second += 5;
        let until = at(self.shop.second);
        let window = doc! {"reason": "lost", "after": after, "until": until};
        let gap = self.shop.push(doc! {"op": "gap"}, doc! {"detail": window.clone()});
        self.truths.push(self.truth.clone());
        let window = doc! {"gap": gap, "after": after, "until": until};
        for id in 0..DOCUMENTS {
            while self.rng.random_range(0..3) == 0 {
                self.change(false);
            }
            self.compare(id, &window);
        }
        self.shop.push(doc! {"op": "gap"}, doc! {"detail": {"closes": gap}});
        self.truths.push(self.truth.clone());
        for _ in 0..self.rng.random_range(0..4) {
            self.change(false);
        }
    }
}

/// Panics where a known state is not the truth; says whether it is known.
#[track_caller]
fn assert_true(state: &State, truth: Option<&Document>, what: &str) -> bool {
    match state {
        State::Unknown(_) => return false,
        State::Absent => assert_eq!(truth, None, "{what}"),
        State::Present(bytes) => {
            assert_eq!(truth.map(self::bytes).as_deref(), Some(&bytes[..]), "{what}");
        }
    }
    true
}

#[tokio::test]
async fn whatever_happens_in_gaps_and_while_they_are_compared_nothing_untrue_is_said() {
    let given = std::env::var("ARCHIVER_TEST_SEED").ok().and_then(|s| s.parse().ok());
    let first: u64 = given.unwrap_or_else(rand::random);
    println!("ARCHIVER_TEST_SEED={first}");
    for seed in first..first.saturating_add(25) {
        let mut world = World::new(seed);
        world.live_through_a_gap();
        world.live_through_a_gap();
        let mut states = States::default();
        for (bytes, truth) in world.shop.records.iter().zip(&world.truths) {
            states.advance(&Record::new(bytes).unwrap()).unwrap();
            for id in 0..DOCUMENTS {
                let what = format!("seed {seed}, document {id}, {:?}", Record::new(bytes).unwrap().seq());
                assert_true(&states.now(&identity(id)).state, truth.get(&id), &what);
            }
        }
        for id in 0..DOCUMENTS {
            let what = format!("seed {seed}, document {id} in the end");
            let known = assert_true(&states.now(&identity(id)).state, world.truth.get(&id), &what);
            assert!(known || states.recorded(&identity(id)).is_none(), "{what}: unknown");
        }
        let (archive, _folder) = world.shop.archive(&[]).await;
        let history = History::new(None, archive);
        for id in 0..DOCUMENTS {
            let Ok(timeline) =
                history.timeline("shop", &DocumentId::parse(&id.to_string()).unwrap(), None).await
            else {
                continue; // Nothing ever happened to it.
            };
            for entry in timeline.entries {
                let seq = Record::new(&entry.record).unwrap().seq().unwrap();
                let truth = world.truths[seq as usize - 1].get(&id);
                assert_true(&entry.after.state, truth, &format!("seed {seed}, document {id}, entry {seq}"));
            }
        }
    }
}

/// A gap between two seconds, in which document 1 changes, 2 ends, 3 comes and 4 stays as it is.
async fn compared() -> (History, tempfile::TempDir, i64, i64) {
    let mut shop = Shop::with_plugins(&[]);
    for id in [1, 2, 4] {
        shop.change("insert", id, doc! {"after": {"_id": id, "n": 0}});
    }
    let after = at(shop.second);
    shop.second += 10;
    let until = at(shop.second);
    let gap =
        shop.push(doc! {"op": "gap"}, doc! {"detail": {"reason": "lost", "after": after, "until": until}});
    shop.second += 10;
    let detail = |found: &str| doc! {"found": found, "gap": gap, "after": after, "until": until};
    shop.change("snapshot", 1, doc! {"after": {"_id": 1, "n": 5}, "detail": detail("changed")});
    shop.change("snapshot", 3, doc! {"after": {"_id": 3, "n": 5}, "detail": detail("inserted")});
    shop.change("delete", 2, doc! {"detail": detail("deleted")});
    shop.push(doc! {"op": "gap"}, doc! {"detail": {"closes": gap}});
    let (archive, folder) = shop.archive(&[]).await;
    (History::new(None, archive), folder, i64::from(after.time), i64::from(until.time))
}

#[tokio::test]
async fn recovery_knows_what_is_before_inside_and_behind_a_gap() {
    let (history, _folder, after, until) = compared().await;
    let was = async |id: i32, at: Option<i64>| -> std::result::Result<Option<i32>, String> {
        match by_id(&history, "shop", &DocumentId::parse(&id.to_string()).unwrap(), at, None).await {
            Ok((found, _)) => {
                let document: Document = bson::deserialize_from_slice(&found.document).unwrap();
                Ok(Some(document.get_i32("n").unwrap()))
            }
            Err(e) if e.kind() == Kind::NotFound && e.to_string().contains("did not exist") => Ok(None),
            Err(e) => Err(e.to_string()),
        }
    };
    for (id, before, behind) in
        [(1, Some(0), Some(5)), (2, Some(0), None), (3, None, Some(5)), (4, Some(0), Some(0))]
    {
        assert_eq!(was(id, Some(after)).await.unwrap(), before, "document {id} before the gap");
        for inside in [after + 1, until - 3, until] {
            assert!(was(id, Some(inside)).await.unwrap_err().contains("inside a gap"), "document {id}");
        }
        for later in [until + 1, until + 5, until + 1000] {
            assert_eq!(was(id, Some(later)).await.unwrap(), behind, "document {id} behind the gap");
        }
    }
    assert!(was(2, None).await.unwrap_err().contains("history is missing"), "it was deleted unseen");
}

#[tokio::test]
async fn an_undecided_namespace_stays_unknown_and_one_lost_change_concerns_its_document_alone() {
    let mut shop = Shop::with_plugins(&[]);
    for id in [1, 2] {
        shop.change("insert", id, doc! {"after": {"_id": id}});
    }
    let lost = shop.change("gap", 1, doc! {"detail": {"reason": "too large"}});
    let mut states = States::default();
    for record in &shop.records {
        states.advance(&Record::new(record).unwrap()).unwrap();
    }
    assert_eq!(states.now(&identity(1)).state, State::Unknown(Reason::Gap(lost)));
    assert!(matches!(states.now(&identity(2)).state, State::Present(_)));
    let gap = shop.push(doc! {"op": "gap"}, doc! {"detail": {"reason": "lost"}});
    let undecided = [doc! {"db": "shop", "coll": "orders"}];
    shop.push(doc! {"op": "gap"}, doc! {"detail": {"closes": gap, "undecided": undecided}});
    for record in &shop.records[lost as usize..] {
        states.advance(&Record::new(record).unwrap()).unwrap();
    }
    assert_eq!(states.now(&identity(2)).state, State::Unknown(Reason::Gap(gap)));
    let (archive, _folder) = shop.archive(&[]).await;
    let history = History::new(None, archive);
    let timeline = history.timeline("shop", &DocumentId::parse("2").unwrap(), None).await.unwrap();
    assert!(timeline.entries.iter().all(|entry| entry.identity == identity(2)), "{:?}", timeline.entries);
}
