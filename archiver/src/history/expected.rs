//! Which documents a withheld change may be of, although no record before it tells of them: those with the id that it bears
//! witness to, and those whose first record is of a change to something that must have been there.

use super::Namespace;
use super::detail::quarantined;
use super::id::{DocumentId, Id};
use super::released::notes;
use super::states::{Identity, States};
use crate::error::Result;
use crate::record::Record;

/// Operations with which what is known of a document can begin.
const BEGINNINGS: [&str; 2] = ["insert", "snapshot"];

/// The documents with one id that are not known from their beginning.
pub(super) struct Expected {
    ids: Vec<Id>,
    /// Those whose first record presupposes another one, and the partition that it is in.
    begun: Vec<(Identity, Option<u32>)>,
}

impl Expected {
    /// Of this id, of which these are all records, oldest first.
    pub(super) fn of(id: &DocumentId, own: &[Vec<u8>]) -> Result<Expected> {
        let (mut seen, mut begun) = (Vec::new(), Vec::new());
        for bytes in own {
            let record = Record::new(bytes)?;
            let Some(identity) = Identity::of(&record).filter(|identity| !seen.contains(identity)) else {
                continue;
            };
            if !BEGINNINGS.contains(&record.op()) {
                begun.push((identity.clone(), record.record_id()?.partition));
            }
            seen.push(identity);
        }
        Ok(Expected { ids: id.ids().collect(), begun })
    }

    /// The documents that this quarantine record is of, or whose insert it may be.
    pub(super) fn by(&self, record: &Record<'_>, states: &States) -> Result<Vec<Identity>> {
        let Some(namespace) = Namespace::of(record).filter(|_| notes(record).is_none()) else {
            return Ok(Vec::new());
        };
        let partition = record.record_id()?.partition;
        let named = self.ids.iter().map(|id| Identity { namespace: namespace.clone(), id: id.clone() });
        let mut found: Vec<Identity> = named.filter(|identity| states.is_named(record, identity)).collect();
        if quarantined(record, "op") == Some("insert") {
            let begun = self.begun.iter().filter(|(identity, _)| identity.namespace == namespace);
            found
                .extend(begun.filter(|(_, in_it)| *in_it == partition).map(|(identity, _)| identity.clone()));
        }
        Ok(found)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bson::{Document, doc};

    use super::super::policies::Policies;
    use super::super::states::{Reason, State};
    use super::super::testing::Shop;
    use super::super::{History, Salts};
    use super::*;
    use crate::salt::Salt;

    fn withheld(shop: &mut Shop, coll: &str, detail: Document) -> i64 {
        let head = doc! {"op": "quarantine", "ns": {"db": "shop", "coll": coll}};
        shop.push(head, doc! {"detail": detail})
    }

    async fn told(shop: &Shop, id: &str) -> Vec<(String, State)> {
        let (archive, _folder) = shop.archive(&[]).await;
        let id = DocumentId::parse(id).unwrap();
        let timeline = History::new(None, archive).timeline("shop", &id, None).await.unwrap();
        let told = timeline.entries.into_iter();
        told.map(|e| (Record::new(&e.record).unwrap().op().to_owned(), e.after.state)).collect()
    }

    #[tokio::test]
    async fn a_history_that_begins_in_the_middle_tells_of_the_withheld_insert_that_may_be_its() {
        let mut shop = Shop::with_plugins(&[]);
        let insert = || doc! {"op": "insert", "plugin": "p", "error": "trap"};
        let seq = withheld(&mut shop, "orders", insert());
        withheld(&mut shop, "others", insert());
        withheld(&mut shop, "orders", doc! {"op": "update", "plugin": "p", "error": "trap"});
        shop.change("update", 1, doc! {"delta": {"updatedFields": {"x": 1}}});
        shop.change("insert", 2, doc! {"after": {"_id": 2}});
        let lost = |seq| State::Unknown(Reason::Quarantined(seq));
        let first = told(&shop, "1").await;
        assert_eq!(first[0], ("quarantine".to_owned(), lost(seq)));
        let last = first.last().unwrap();
        assert!(last.0 == "update" && matches!(last.1, State::Unknown(Reason::Quarantined(_))), "{first:?}");
        assert_eq!(told(&shop, "2").await.len(), 1, "that one is known from its beginning");
    }

    #[test]
    fn a_digest_names_its_document_in_every_form_of_its_id_and_in_no_other_partition() {
        let salt = Salt::random();
        let mut shop = Shop::with_plugins(&[]);
        let value = 7_i64.to_le_bytes();
        let digest = salt.id_digest(bson_walker::kind::INT64, &value);
        withheld(&mut shop, "orders", doc! {"op": "delete", "keyDigest": digest});
        let record = Record::new(&shop.records[1]).unwrap();
        let by = |id: &str, salts: Salts| {
            let expected = Expected::of(&DocumentId::parse(id).unwrap(), &[]).unwrap();
            expected.by(&record, &States::new(Policies::default(), salts)).unwrap()
        };
        let salts = || Salts::from([(None, salt.clone())]);
        let named = by("7", salts());
        assert_eq!(named.len(), 1);
        assert_eq!(named[0].namespace.coll, "orders");
        assert_eq!(named[0].id, Id(bson_walker::kind::INT64, value.to_vec()));
        assert_eq!(by("8", salts()), []);
        assert_eq!(by("7", Salts::new()), [], "nobody can tell without the checkpoint");
        assert_eq!(by("7", Salts::from([(Some(1), salt.clone())])), []);
    }
}
