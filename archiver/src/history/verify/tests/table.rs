//! A Delta log that shows another table than was sealed.

use super::*;
use crate::archive::delta::Delta;

/// The archive, each of its segments published by a commit of its own.
async fn published() -> Stored {
    let stored = Stored::new().await;
    let stream = StreamId::whole("shop");
    let manifests = stored.archive.manifests(&stream).await.unwrap();
    let manifests: Vec<Manifest> = manifests.into_iter().map(|sealed| sealed.manifest).collect();
    for end in 1..=3 {
        let mut table = Delta::open(&stored.archive, &stream, "log").await.unwrap();
        table.publish(&manifests[..end]).await.unwrap();
    }
    stored
}

#[tokio::test]
async fn a_delta_log_that_shows_another_table_than_was_sealed_is_found() {
    let stored = published().await;
    let report = stored.verify().await;
    assert_eq!((report.findings, report.notes), (vec![], vec![]));
    let key = |version| paths::delta_commit_key("shop", version);
    let (first, second) = (stored.read(&key(1)).await, stored.read(&key(2)).await);
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let without_add: String =
        text(&second).lines().filter(|l| !l.contains("add")).map(|l| format!("{l}\n")).collect();
    let foreign = "{\"commitInfo\":{\"operation\":\"OPTIMIZE\"}}\n".to_owned();
    let other_day = text(&second).replace("date=2026-11-21/seg-0", "date=2026-11-22/seg-0");
    let other_size = text(&second).replace("\"size\":", "\"size\":1");
    for (version, commit, code, what) in [
        (2, Some(without_add), Code::TableSegment, "lacks it"),
        (2, None, Code::TableCommit, "missing"),
        (2, Some(foreign.clone()), Code::TableSegment, "lacks it"),
        (4, Some(foreign), Code::TableCommit, "not a commit of Archiver's"),
        (4, Some(text(&first)), Code::TableSegment, "added before"),
        (2, Some(other_day), Code::TableSegment, "no manifest seals"),
        (2, Some(other_size), Code::TableSegment, "another size"),
        (2, Some("not JSON".to_owned()), Code::TableCommit, "does not read as one"),
    ] {
        match &commit {
            Some(commit) => stored.write(&key(version), commit),
            None => stored.remove(&key(version)),
        }
        let found = stored.verify().await.findings;
        let is_named = |f: &Finding| f.code == code && f.reason.contains(what);
        assert!(found.iter().any(is_named), "{what}: {found:?}");
        match version {
            2 => stored.write(&key(2), &second),
            _ => stored.remove(&key(version)),
        }
        assert!(stored.verify().await.is_clean());
    }
}
