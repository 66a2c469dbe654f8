//! What history says where segments have expired: what is left, what was kept, and nothing untrue.
#![allow(clippy::unwrap_used)]

use bson::doc;
use tempfile::TempDir;

use super::id::DocumentId;
use super::recover::{Conditions, as_of, by_id, deleted_since};
use super::testing::{DAY, Shop};
use super::*;
use crate::archive::tombstone::{DeletedBy, Expiry, Tombstone};
use crate::error::Kind;

/// Lets the first segments of this archive expire, and deletes them.
pub(super) async fn expire(archive: &Archive, folder: &TempDir, segments: usize) {
    let mut removed_before = None;
    for sealed in &archive.manifests(&StreamId::whole("shop")).await.unwrap()[..segments] {
        let last = i64::from(sealed.manifest.last_cluster_time.t);
        let expiry = Expiry {
            removed_before,
            policy: "retention = \"1s\"",
            retention_seconds: 1,
            deleted_by: DeletedBy::Archiver,
            by: "test",
            at: jiff::Timestamp::from_second(last + 1).unwrap(),
            kept: &archive.kept_of(&sealed.manifest).await.unwrap(),
        };
        let buried = archive.bury(&Tombstone::new(sealed, expiry), sealed).await.unwrap();
        removed_before = Some(buried.tombstone.removed_until);
        archive.delete_segment(&sealed.manifest).await.unwrap();
        assert!(!folder.path().join(&sealed.manifest.segment).exists());
    }
}

/// Policy 1; documents 1, 2 in seqs 2, 3; a drop of another collection in 4; then document 1 changes (5), is deleted (6), and a
/// new one, 3, comes (7). Seqs up to 4 have expired, in two segments.
async fn shop() -> (History, TempDir) {
    let mut shop = Shop::with_plugins(&[]);
    shop.change("insert", 1, doc! {"after": {"_id": 1, "n": 1}});
    shop.change("insert", 2, doc! {"after": {"_id": 2, "n": 1}});
    shop.push(doc! {"op": "drop", "ns": {"db": "shop", "coll": "others"}}, doc! {});
    shop.change("update", 1, doc! {"delta": {"updatedFields": {"n": 2}, "removedFields": []}});
    shop.change("delete", 1, doc! {});
    shop.change("insert", 3, doc! {"after": {"_id": 3, "n": 1}});
    let (archive, folder) = shop.archive(&[3, 5]).await;
    expire(&archive, &folder, 2).await;
    (History::new(None, archive), folder)
}

async fn seqs(history: &History, from: i64) -> Vec<i64> {
    let mut records = history.records(&StreamId::whole("shop"), from);
    let mut seqs = Vec::new();
    while let Some(record) = records.next().await.unwrap() {
        seqs.push(Record::new(&record).unwrap().seq().unwrap());
    }
    assert_eq!(records.next_seq(), 8);
    seqs
}

#[tokio::test]
async fn of_expired_segments_come_the_records_that_were_kept_then_all_others() {
    let (history, _folder) = shop().await;
    assert_eq!(seqs(&history, 1).await, [1, 4, 5, 6, 7]);
    assert_eq!(seqs(&history, 2).await, [4, 5, 6, 7]);
    assert_eq!(seqs(&history, 5).await, [5, 6, 7]);
    let wide = history.wide("shop").await.unwrap();
    let wide: Vec<i64> = wide.iter().map(|r| Record::new(r).unwrap().seq().unwrap()).collect();
    assert_eq!(wide, [1, 4]);
    assert_eq!(history.removed_until("shop").await.unwrap().unwrap().time, DAY + 3);
}

#[tokio::test]
async fn what_is_not_known_any_more_is_said_to_be_removed() {
    let (history, _folder) = shop().await;
    let ask = async |id: &str, at: Option<u32>| {
        by_id(&history, "shop", &DocumentId::parse(id).unwrap(), at.map(i64::from), None).await
    };
    // Its only record has expired; of the other one its beginning.
    for (id, at) in [("2", None), ("1", None), ("1", Some(DAY + 3)), ("3", Some(DAY + 2))] {
        let error = ask(id, at).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{id}");
        let said = format!("{} {}", error, error.hint_text().unwrap_or_default());
        assert!(said.contains("removed by retention"), "{id}: {said}");
    }
    // Behind it everything is known as before, by the policy that was kept.
    let error = ask("3", Some(DAY + 5)).await.unwrap_err();
    assert!(error.to_string().contains("did not exist at that time"), "{error}");
    let (recovered, policies) = ask("3", Some(DAY + 60)).await.unwrap();
    assert_eq!(&recovered.document[..], bson::serialize_to_vec(&doc! {"_id": 3, "n": 1}).unwrap());
    let policy = recovered.origins.first().unwrap().policy;
    assert_eq!(policies.plugins(policy), Some([].as_slice()));
    let all = async |at: u32| {
        let take = async |_| Ok(());
        as_of(&history, "shop", i64::from(at), None, &Conditions::default(), take).await
    };
    let error = all(DAY + 3).await.unwrap_err();
    assert!(error.kind() == Kind::NotFound && error.hint_text().unwrap().contains("removed by retention"));
    for (at, known) in [(DAY + 5, (0, 1)), (DAY + 60, (1, 0))] {
        let summary = all(at).await.unwrap();
        assert_eq!((summary.recovered, summary.lost), known, "{at}");
    }
    let summary = deleted_since(&history, "shop", 0, None, async |_| Ok(())).await.unwrap();
    assert_eq!((summary.recovered, summary.lost), (0, 1));
    assert!(summary.removed_until.is_some());
}
