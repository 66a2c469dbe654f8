//! Files that fit their manifests, or manifests that fit the chain: made by somebody who knows the format and may write everything.

use super::super::super::testing::DAY;
use super::*;
use crate::archive::manifest::ClusterTime;
use crate::archive::segment::testing::{change_value, rewritten, take_rows};

#[tokio::test]
async fn a_row_changed_in_a_segment_alone_is_found_by_the_digest() {
    let stored = Stored::new().await;
    let forged = rewritten(&stored.read(stored.segments()[1]).await, |c| change_value(c, "after", 1));
    stored.write(stored.segments()[1], forged);
    let report = stored.verify().await;
    assert!(matches!(codes(&report)[..], [Code::SegmentSize | Code::SegmentDigest]), "{:?}", report.findings);
}

#[tokio::test]
async fn a_changed_column_is_found_with_its_row_also_where_everything_is_sealed_anew() {
    for number in 0..3 {
        for column in
            ["seq", "op", "doc_id", "changed", "after", "after_exact", "cluster_time", "policy", "extra"]
        {
            let stored = Stored::new().await;
            let file = stored.read(stored.segments()[number]).await;
            let forged = rewritten(&file, |columns| change_value(columns, column, 1));
            stored.replace(number, &forged).await;
            let report = stored.verify().await;
            let found = report.findings.iter().find(|f| f.file == *stored.segments()[number]);
            assert!(found.is_some(), "{column}: {:?}", report.findings);
            if matches!(column, "doc_id" | "changed") {
                // The record is as it was, so nothing but the comparison of the columns shows it.
                assert_eq!(codes(&report), [Code::RowColumn]);
                assert!(found.unwrap().seq.is_some() && found.unwrap().reason.contains(column));
            }
        }
    }
}

#[tokio::test]
async fn rows_that_are_left_out_doubled_or_moved_are_found_also_where_everything_is_sealed_anew() {
    for (rows, expected) in [
        (vec![0, 1, 2], Code::SegmentUnreadable),
        (vec![0, 1, 2, 2], Code::RowSeq),
        (vec![0, 2, 1, 3], Code::RowOrder),
    ] {
        let stored = Stored::new().await;
        let file = stored.read(stored.segments()[1]).await;
        stored.replace(1, &rewritten(&file, |columns| take_rows(columns, &rows))).await;
        let report = stored.verify().await;
        assert!(codes(&report).contains(&expected), "{expected:?}: {:?}", report.findings);
    }
}

#[tokio::test]
async fn garbage_that_is_sealed_is_found_and_no_panic() {
    let stored = Stored::new().await;
    let file = stored.read(stored.segments()[2]).await;
    let length = file.len();
    let cut = |n: usize| file[..n].to_vec();
    let mut huge = file.to_vec();
    // The length of the footer, as large as it can be.
    huge[length - 8..length - 4].fill(0xff);
    for other in
        [vec![], vec![0; 7], b"PAR1".repeat(3), vec![0xa5; length], cut(length / 2), cut(length - 1), huge]
    {
        stored.replace(2, &other).await;
        let report = stored.verify().await;
        assert_eq!(codes(&report), [Code::SegmentUnreadable], "{:?}", report.findings);
    }
    let mut found = 0;
    for at in (0..length).step_by(29) {
        let mut damaged = file.to_vec();
        damaged[at] ^= 1 << (at % 8);
        stored.replace(2, &damaged).await;
        found += usize::from(!stored.verify().await.is_clean());
    }
    // What is left is in places that mean nothing, such as statistics nobody uses.
    assert!(found > length / 29 / 2, "{found}");
}

#[tokio::test]
async fn a_manifest_that_says_something_else_than_its_segment_is_found() {
    let changes: [fn(&mut Manifest); 9] = [
        |m| m.merkle_root = "0".repeat(64),
        |m| m.bson_bytes += 1,
        |m| m.ops = [("insert".to_owned(), 4)].into(),
        |m| m.first_cluster_time.t -= 1,
        |m| m.last_cluster_time.i += 1,
        |m| m.sha256 = "0".repeat(64),
        |m| m.size += 1,
        |m| m.previous = Some("0".repeat(64)),
        |m| m.counters.as_mut().unwrap().read += 1,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let stored = Stored::new().await;
        stored.reseal(0, change).await;
        assert!(!stored.verify().await.is_clean(), "change {number}");
    }
}

#[tokio::test]
async fn a_manifest_of_another_log_or_day_than_it_should_be_is_found() {
    let stored = Stored::new().await;
    stored.reseal(1, |m| m.log = "another".to_owned()).await;
    assert_eq!(codes(&stored.verify().await), [Code::ManifestLog, Code::ManifestLog]);
    let stored = Stored::new().await;
    stored.reseal(2, |m| m.last_cluster_time = ClusterTime { t: DAY + 86_400, i: 1 }).await;
    let request = Request { scope: Scope::only(Level::Listing), ..Request::default() };
    assert_eq!(codes(&stored.verify_as(&request).await), [Code::ManifestDay]);
}

#[tokio::test]
async fn a_record_that_steps_back_in_time_is_found_unless_it_was_read_beside_the_stream_or_is_late() {
    for (op, rest, expected) in [
        ("insert", doc! {}, vec![Code::RowTime]),
        ("update", doc! {"delta": {"updatedFields": {"a": 1}}}, vec![Code::RowTime]),
        ("snapshot", doc! {}, vec![]),
        ("delete", doc! {"detail": {"late": 3_i64}}, vec![]),
    ] {
        // Within one segment, and from one to the next.
        for ends in [vec![], vec![14], vec![10, 14]] {
            let mut shop = shop();
            shop.second = DAY + 5;
            shop.change(op, 3, rest.clone());
            let stored = Stored::of(&shop, &ends).await;
            assert_eq!(codes(&stored.verify().await), expected, "{op} {ends:?}");
        }
    }
}

#[tokio::test]
async fn a_forged_segment_with_a_fitting_manifest_breaks_the_chain() {
    let stored = Stored::new().await;
    let other = forged_shop().archive(&[5, 9]).await;
    for key in [stored.segments()[0], stored.manifests()[0]] {
        stored.write(key, other.0.read_segment(key).await.unwrap());
    }
    let report = stored.verify().await;
    assert_eq!((codes(&report)[0], &report.findings[0].file), (Code::ManifestChanged, stored.manifests()[0]));
}

/// The archive of somebody who wrote all of it anew is as good as any. Only what is known outside tells.
#[tokio::test]
async fn a_chain_written_anew_from_its_beginning_is_found_by_a_noted_digest_alone() {
    let stored = Stored::new().await;
    let noted = newest(&stored.verify().await);
    let other = forged_shop().archive(&[5, 9]).await;
    for key in &stored.keys {
        stored.write(key, other.0.read_segment(key).await.unwrap());
    }
    assert!(stored.verify().await.is_clean());
    assert_eq!(stored.codes_with(&noted).await, [Code::ChainRewritten]);
}

/// The same shop, but for one amount.
fn forged_shop() -> Shop {
    let mut other = Shop::with_plugins(&[]);
    for n in 0..3 {
        other.change("insert", n, doc! {"after": {"_id": n, "total": 0}});
    }
    let mut forged = shop();
    forged.records[3] = other.records[3].clone();
    forged
}
