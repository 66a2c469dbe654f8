//! A tombstone is believed only where it is right, and only for a segment that may be absent.
#![allow(clippy::unwrap_used)]

use bson::doc;
use tempfile::TempDir;

use super::super::{Request, verify};
use crate::archive::manifest::{Sealed, with_digest};
use crate::archive::merkle::sha256;
use crate::archive::paths;
use crate::archive::store::Archive;
use crate::archive::tombstone::{DeletedBy, Expiry, Tombstone};
use crate::history::testing::Shop;
use crate::hold::{FORMAT, Hold, Release};
use crate::record::hex;
use crate::stream_id::StreamId;

/// An archive of three segments.
struct Stored {
    archive: Archive,
    folder: TempDir,
    chain: Vec<Sealed>,
}

impl Stored {
    async fn new() -> Stored {
        Stored::with(|_| {}).await
    }

    /// With these records at the end.
    async fn with(more: impl FnOnce(&mut Shop)) -> Stored {
        let mut shop = Shop::with_plugins(&[]);
        for n in 0..12 {
            shop.change("insert", n, doc! {"after": {"_id": n}});
        }
        more(&mut shop);
        let (archive, folder) = shop.archive(&[5, 9]).await;
        let chain = archive.manifests(&StreamId::whole("shop")).await.unwrap();
        Stored { archive, folder, chain }
    }

    /// The tombstone of the n-th segment as Archiver would write it, a second after its retention was over.
    async fn tombstone(&self, n: usize) -> Tombstone {
        let sealed = &self.chain[n];
        let last = i64::from(sealed.manifest.last_cluster_time.t);
        let expiry = Expiry {
            removed_before: n.checked_sub(1).map(|before| self.chain[before].manifest.last_cluster_time),
            policy: "retention = \"1d\"",
            retention_seconds: 86_400,
            deleted_by: DeletedBy::Archiver,
            by: "test",
            at: jiff::Timestamp::from_second(last + 86_401).unwrap(),
            kept: &self.archive.kept_of(&sealed.manifest).await.unwrap(),
        };
        Tombstone::new(sealed, expiry)
    }

    fn write(&self, key: &str, bytes: Vec<u8>) {
        let path = self.folder.path().join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn bury(&self, tombstone: &Tombstone) {
        let key = paths::tombstone_key(&tombstone.stream(), tombstone.first_seq);
        self.write(&key, tombstone.to_json().unwrap());
    }

    fn remove(&self, n: usize) {
        std::fs::remove_file(self.folder.path().join(&self.chain[n].manifest.segment)).unwrap();
    }

    /// Its findings, each as text.
    async fn findings(&self) -> Vec<String> {
        let report = verify(&self.archive, None, &Request::default()).await.unwrap();
        report.findings.iter().map(|f| format!("{}: {}", f.file, f.reason)).collect()
    }
}

#[tokio::test]
async fn expired_segments_are_explained_by_their_tombstones_and_the_rest_is_verified() {
    let stored = Stored::new().await;
    for n in 0..2 {
        stored.bury(&stored.tombstone(n).await);
        // Not deleted yet: that is a note, and it is verified like any other.
        let report = verify(&stored.archive, None, &Request::default()).await.unwrap();
        assert!(report.notes.iter().any(|n| n.reason.contains("no record tells")), "{report:?}");
        assert!(
            report.is_clean() && report.notes.iter().any(|n| n.reason.contains("not deleted yet")),
            "{report:?}"
        );
        stored.remove(n);
    }
    let report = verify(&stored.archive, None, &Request::default()).await.unwrap();
    assert_eq!(report.findings, []);
    let source = &report.sources[0];
    assert_eq!((source.manifests, source.segments, source.expired, source.expired_end), (3, 1, 2, 9));
}

#[tokio::test]
async fn a_segment_that_is_missing_without_a_tombstone_is_found() {
    let stored = Stored::new().await;
    stored.bury(&stored.tombstone(0).await);
    stored.remove(0);
    stored.remove(1);
    let findings = stored.findings().await;
    assert!(findings.len() == 1 && findings[0].contains(&stored.chain[1].manifest.segment), "{findings:?}");
}

#[tokio::test]
async fn a_forged_tombstone_is_found() {
    type Change = fn(&mut Tombstone);
    let changes: [(&str, Change); 9] = [
        ("another manifest", |t| t.manifest = "0".repeat(64)),
        ("something else", |t| t.sha256 = "0".repeat(64)),
        ("something else", |t| t.rows += 1),
        ("something else", |t| t.last_cluster_time.t -= 1),
        ("something else", |t| t.end_seq += 1),
        ("before the retention was over", |t| t.retention_seconds += 2),
        ("before the retention was over", |t| t.at -= jiff::SignedDuration::from_secs(2)),
        ("another time", |t| t.removed_until.t += 1),
        ("none of its records", |t| t.kept.push(t.kept[0].clone())),
    ];
    for (words, change) in changes {
        let stored = Stored::new().await;
        let mut tombstone = stored.tombstone(0).await;
        change(&mut tombstone);
        stored.bury(&tombstone);
        stored.remove(0);
        let findings = stored.findings().await;
        assert!(findings.iter().any(|f| f.contains(words)), "{words}: {findings:?}");
    }
    let stored = Stored::new().await;
    let mut json = stored.tombstone(0).await.to_json().unwrap();
    json[20] ^= 1;
    stored.write(&paths::tombstone_key(&StreamId::whole("shop"), 1), json);
    stored.remove(0);
    let findings = stored.findings().await;
    assert!(findings[0].contains("its own digest") && findings[1].contains("missing"), "{findings:?}");
}

#[tokio::test]
async fn a_tombstone_that_is_another_than_a_record_tells_of_is_found() {
    let expired = |tombstones: &[String]| doc! {"detail": {"expired": {"endSeq": 5_i64, "tombstones": tombstones.to_vec()}}};
    let plain = Stored::new().await.tombstone(0).await;
    let sha256 = hex(&sha256(&plain.to_json().unwrap()));
    for (digest, right) in [(sha256, true), ("0".repeat(64), false)] {
        let stored = Stored::with(|shop| {
            shop.push(doc! {"op": "policy"}, expired(&[digest]));
        })
        .await;
        // The first segment does not depend on what comes later.
        assert_eq!(stored.tombstone(0).await, plain);
        stored.bury(&plain);
        stored.remove(0);
        let findings = stored.findings().await;
        assert_eq!(findings.is_empty(), right, "{findings:?}");
        assert!(right || findings[0].contains("not the one of which a record says"), "{findings:?}");
    }
}

#[tokio::test]
async fn a_segment_that_expired_before_an_older_one_is_found() {
    let stored = Stored::new().await;
    let mut tombstone = stored.tombstone(1).await;
    tombstone.removed_until = tombstone.last_cluster_time;
    stored.bury(&tombstone);
    stored.remove(1);
    let findings = stored.findings().await;
    assert!(findings.iter().any(|f| f.contains("before an older one")), "{findings:?}");
}

#[tokio::test]
async fn a_tombstone_without_its_manifest_is_found() {
    let stored = Stored::new().await;
    let tombstone = stored.tombstone(2).await;
    stored.write(&paths::tombstone_key(&StreamId::whole("shop"), 77), tombstone.to_json().unwrap());
    let findings = stored.findings().await;
    assert!(findings.len() == 1 && findings[0].contains("is not beside it"), "{findings:?}");
}

#[tokio::test]
async fn a_tombstone_that_was_written_under_a_legal_hold_is_found() {
    let stored = Stored::new().await;
    let tombstone = stored.tombstone(0).await;
    stored.bury(&tombstone);
    stored.remove(0);
    let second = jiff::SignedDuration::from_secs(1);
    let hold = |source: &str| Hold {
        format: FORMAT,
        id: 1,
        source: Some(source.to_owned()),
        from: None,
        to: None,
        reason: "a case".to_owned(),
        by: "counsel".to_owned(),
        at: tombstone.at - second,
    };
    let release =
        |at| Release { format: FORMAT, id: 1, number: 2, reason: "r".to_owned(), by: "b".to_owned(), at };
    let write = |hold: &Hold| stored.write(&paths::hold_key(1), with_digest(hold).unwrap());
    let end = |release: &Release| stored.write(&paths::hold_released_key(1), with_digest(release).unwrap());
    write(&hold("others"));
    assert_eq!(stored.findings().await, [""; 0]);
    write(&hold("shop"));
    assert!(stored.findings().await.iter().any(|f| f.contains("under legal hold 1")));
    end(&release(tombstone.at + second));
    assert!(stored.findings().await.iter().any(|f| f.contains("under legal hold 1")));
    end(&release(tombstone.at));
    assert_eq!(stored.findings().await, [""; 0]);
    stored.write(&paths::hold_released_key(2), with_digest(&release(tombstone.at)).unwrap());
    stored.write(&paths::hold_key(3), b"{}".to_vec());
    assert_eq!(stored.findings().await.len(), 2);
}
