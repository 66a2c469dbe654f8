//! Damaged events are refused or redacted; they never crash the plugin, and what comes out is sound BSON.
#![allow(clippy::unwrap_used)]

use bson::doc;
use plugin_sdk::bson_walker::Doc;
use plugin_sdk::prelude::*;
use plugin_sdk::testing::{Outcome, run};
use proptest::prelude::*;
use redact::Redact;

fn event() -> Vec<u8> {
    let customer = doc! {"name": "ann", "ssn": "123-45-6789", "phones": ["+49 170 1", {"ssn": "2"}], "at": {"0": {"x.y": 1}}};
    let event = doc! {
        "op": "update", "ns": {"db": "d", "coll": "c"}, "key": {"_id": 7, "a.b": 1},
        "before": {"_id": 7, "customer": customer.clone()}, "after": {"_id": 7, "customer": customer.clone()},
        "delta": {
            "updatedFields": {"customer.phones.1.ssn": "3", "customer": customer, "at.0.x.y": 1},
            "removedFields": ["customer.ssn", "x.y"], "truncatedArrays": [{"field": "customer.phones", "newSize": 1}],
            "disambiguatedPaths": {"at.0.x.y": ["at", "0", "x.y"]},
        },
        "actor": {"id": "ann", "from": "document"},
        "detail": {"operationDescription": {"pipeline": [{"$match": {"$expr": ["$ssn", "1"]}}]}},
    };
    event.to_vec().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_events_are_refused_or_give_a_framed_document(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5), allow in any::<bool>(),
    ) {
        let plugin = Redact::configure(if allow {
            r#"{"mode":"allow","rules":[{"path":"_id","action":"keep"},{"path":"customer.name","action":"keep"},{"path":"**.ssn","action":"mask"}]}"#
        } else {
            r#"{"rules":[{"path":"**.ssn","action":"mask","keep_last":4},{"path":"*.y","action":"remove"},{"path":"customer.phones","action":"mask","keep_last":1}]}"#
        }).unwrap();
        let mut bytes = event();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(Outcome::Replaced(out)) = run(&plugin, &bytes) {
            let doc = Doc::new(&out).unwrap();
            prop_assert!(doc.elements().all(|e| e.is_ok()));
        }
    }
}
