//! Which events go and which stay.
#![allow(clippy::unwrap_used)]

use bson::{Bson, Document, doc};
use filter::Filter;
use plugin_sdk::prelude::*;
use plugin_sdk::testing::{Outcome, run};

fn keeps(config: &str, event: &Document) -> bool {
    let plugin = Filter::configure(config).unwrap();
    match run(&plugin, event.to_vec().unwrap()).unwrap() {
        Outcome::Kept => true,
        Outcome::Dropped => false,
        Outcome::Replaced(_) => panic!("a filter changes nothing"),
    }
}

fn event(op: &str, coll: &str) -> Document {
    doc! {"op": op, "ns": {"db": "shop", "coll": coll}, "key": {"_id": 1}}
}

fn update(delta: Document) -> Document {
    let mut event = event("update", "people");
    event.insert("delta", delta);
    event
}

fn set(paths: &[&str]) -> Document {
    update(
        doc! {"updatedFields": paths.iter().map(|path| ((*path).to_owned(), Bson::Int32(1))).collect::<Document>()},
    )
}

#[test]
fn the_first_rule_that_covers_an_event_decides() {
    let config = r#"{"rules":[{"keep":{"ns":"shop.sessions","op":"delete"}},{"drop":{"ns":["shop.sessions","shop.carts"]}},{"keep":{"ns":"shop.carts"}}]}"#;
    for (op, coll, stays) in [
        ("delete", "sessions", true),
        ("insert", "sessions", false),
        ("update", "carts", false),
        ("insert", "orders", true),
    ] {
        assert_eq!(keeps(config, &event(op, coll)), stays, "{op} {coll}");
    }
}

#[test]
fn a_rule_without_op_covers_everything_that_happens_to_documents_and_nothing_else() {
    for config in [
        r#"{"rules":[{"drop":{"ns":"shop.*"}}]}"#,
        r#"{"default":"drop","rules":[{"keep":{"ns":"crm.people"}}]}"#,
    ] {
        for op in ["insert", "update", "replace", "delete", "snapshot"] {
            assert!(!keeps(config, &event(op, "people")), "{op}");
        }
        for op in ["create", "createIndexes", "drop", "rename", "modify", "somethingNew"] {
            assert!(keeps(config, &event(op, "people")), "{op}");
        }
        assert!(keeps(config, &doc! {"op": "dropDatabase", "ns": {"db": "shop"}}));
    }
    let named = r#"{"rules":[{"drop":{"ns":"shop.people","op":"createIndexes"}}]}"#;
    assert!(!keeps(named, &event("createIndexes", "people")));
    assert!(keeps(named, &event("dropIndexes", "people")));
}

#[test]
fn namespaces_are_whole_names() {
    for (ns, db, coll, covered) in [
        ("shop.people", "shop", "people", true),
        ("shop.people", "shop", "people2", false),
        ("shop.people.eu", "shop", "people.eu", true),
        ("shop.*", "shop", "people.eu", true),
        ("shop.*", "shop2", "people", false),
        ("*.people", "crm", "people", true),
        ("*.people", "crm", "others", false),
        ("*", "crm", "others", true),
    ] {
        let config = format!(r#"{{"rules":[{{"drop":{{"ns":"{ns}"}}}}]}}"#);
        let event = doc! {"op": "insert", "ns": {"db": db, "coll": coll}};
        assert_eq!(!keeps(&config, &event), covered, "{ns} {db}.{coll}");
    }
}

#[test]
fn all_conditions_must_hold_and_an_unknown_actor_is_nobody() {
    let config = r#"{"rules":[{"drop":{"ns":"shop.people","actor":["batch@admin","sync@admin"]}}]}"#;
    let by = |actor: Option<&str>, coll: &str| {
        let mut event = event("insert", coll);
        if let Some(actor) = actor {
            event.insert("actor", doc! {"id": actor, "from": "session"});
        }
        keeps(config, &event)
    };
    assert!(!by(Some("sync@admin"), "people"));
    assert!(by(Some("sync@admin"), "orders"));
    assert!(by(Some("ann@admin"), "people"));
    assert!(by(None, "people"));
}

#[test]
fn an_update_goes_only_if_it_changed_nothing_but_what_is_named() {
    let config = r#"{"rules":[{"drop":{"only_changed":["lastSeen","stats.*","items.views","**.cached"]}}]}"#;
    for (paths, covered) in [
        (&["lastSeen"][..], true),
        (&["lastSeen.at"], true),
        (&["lastSeen", "stats.logins", "stats.pages.3"], true),
        (&["items.0.views", "items.12.views"], true),
        (&["a.b.cached.c", "cached"], true),
        (&["stats"], false),
        (&["lastSeen", "email"], false),
        (&["lastSeen2"], false),
        (&["items.0"], false),
        (&["items.0.sku"], false),
        (&["x.lastSeen"], false),
        (&["0.lastSeen"], false),
        (&[], false),
    ] {
        assert_eq!(!keeps(config, &set(paths)), covered, "{paths:?}");
    }
}

#[test]
fn what_was_removed_or_cut_is_changed_too() {
    let config = r#"{"rules":[{"drop":{"only_changed":["lastSeen","stats.*"]}}]}"#;
    let empty = || doc! {"updatedFields": {"lastSeen": 1}, "removedFields": [], "truncatedArrays": [], "disambiguatedPaths": {}};
    let with = |name: &str, value: Bson| {
        let mut delta = empty();
        delta.insert(name, value);
        !keeps(config, &update(delta))
    };
    assert!(!keeps(config, &update(empty())));
    let cut = |field: &str| Bson::from(vec![Bson::from(doc! {"field": field, "newSize": 1})]);
    let removed = |field: &str| Bson::from(vec![Bson::from(field)]);
    assert!(with("removedFields", removed("stats.old")));
    assert!(!with("removedFields", removed("email")));
    assert!(with("truncatedArrays", cut("stats.pages")));
    assert!(!with("truncatedArrays", cut("tags")));
    assert!(with("removedFields", Bson::Null));
    // What is not understood is a change.
    assert!(!with("removedFields", Bson::Int32(1)));
    assert!(!with("truncatedArrays", removed("stats.pages")));
    assert!(!with("somethingNew", doc! {"a": 1}.into()));
    // And what has no delta is no update of known fields.
    assert!(keeps(config, &event("update", "people")));
    assert!(keeps(config, &event("replace", "people")));
    assert!(keeps(config, &event("snapshot", "people")));
}

#[test]
fn names_with_dots_and_numbers_are_told_apart_where_mongodb_does() {
    let config = r#"{"rules":[{"drop":{"only_changed":["a.x","items.views","n.0"]}}]}"#;
    let exact = |path: &str, parts: Vec<Bson>| {
        let exact = doc! {path: parts};
        !keeps(config, &update(doc! {"updatedFields": {path: 1}, "disambiguatedPaths": exact}))
    };
    assert!(!exact("a.x", vec!["a.x".into()]), "one name with a dot in it");
    assert!(exact("items.0.views", vec!["items".into(), Bson::Int32(0), "views".into()]));
    assert!(!exact("items.0.views", vec!["items".into(), "0".into(), "views".into()]), "a field named 0");
    assert!(exact("n.0.a", vec!["n".into(), "0".into(), "a".into()]));
}
