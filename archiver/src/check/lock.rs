//! What the archive's store does to protect what is written, against what the configuration asks for.

use std::time::Duration;

use super::Findings;
use crate::archive::store::{Archive, Deletes, Lock, LockMode};
use crate::config::ArchiveConfig;
use crate::config::units::show_duration;

const ABOUT: &str = "archive";
const HINT: &str = "see \"Retention and Object Lock\" in docs/operating.md";

/// Says how the store protects objects, and warns where that is less than asked for.
pub(super) async fn check(archive: &Archive, config: &ArchiveConfig, findings: &mut Findings) {
    let lock = match archive.lock().await {
        Ok(lock) => lock,
        Err(error) if config.retention.is_some() || config.object_lock => {
            let what = format!("{}; with `retention` nothing expires until it can", error.explain());
            return findings.warn(ABOUT, what, error.hint_text().unwrap_or(HINT));
        }
        Err(error) => {
            let what =
                format!("whether it keeps versions or locks objects is not known: {}", error.explain());
            return findings.info(ABOUT, what);
        }
    };
    findings.info(ABOUT, format!("the store has {lock}"));
    for lack in lacks(&lock, config.object_lock, config.retention) {
        findings.warn(ABOUT, lack, HINT);
    }
    if let Some(retention) = config.retention {
        let shown = show_duration(retention);
        match (config.object_lock, lock.deletes()) {
            (false, Deletes::Archiver) => {
                findings.info(ABOUT, format!("segments are deleted once all of it is older than {shown}"));
            }
            _ => findings.info(
                ABOUT,
                format!("segments older than {shown} get a tombstone; deleting them is left to the store's lifecycle rules"),
            ),
        }
    }
}

/// What the store lacks of what is asked for.
fn lacks(lock: &Lock, asked: bool, retention: Option<Duration>) -> Vec<String> {
    let mut lacks = Vec::new();
    match lock {
        Lock::S3 { versions, object_lock, default } => {
            if asked && !versions {
                lacks.push("object_lock = true, and the bucket's versioning is off".to_owned());
            }
            match default {
                _ if !object_lock => {
                    if asked {
                        lacks.push("object_lock = true, and the bucket has no Object Lock".to_owned());
                    }
                }
                None => {
                    lacks.push("the bucket has no default retention: nothing is locked by itself".to_owned())
                }
                Some((mode, time)) => {
                    if *mode == LockMode::Governance {
                        lacks.push(
                            "the default retention is in governance mode: who has the privilege can delete"
                                .to_owned(),
                        );
                    }
                    if let Some(retention) = retention.filter(|retention| time < retention) {
                        let (time, retention) = (show_duration(*time), show_duration(retention));
                        lacks.push(format!(
                            "the bucket's default retention, {time}, is shorter than `retention`, {retention}"
                        ));
                    }
                }
            }
        }
        Lock::Azure { immutable: true, .. } => {
            if asked || retention.is_some() {
                lacks.push("for how long the immutability policy holds can't be seen from here: compare it with `retention`".to_owned());
            }
        }
        Lock::Azure { .. } if asked => {
            lacks.push("object_lock = true, and the container has no immutability policy".to_owned())
        }
        Lock::None if asked => lacks.push("object_lock = true, and this store can lock nothing".to_owned()),
        Lock::Unseen if asked || retention.is_some() => {
            lacks
                .push("whether the store keeps versions or locks objects can't be seen from here".to_owned());
        }
        Lock::Azure { .. } | Lock::None | Lock::Unseen => {}
    }
    lacks
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn s3(versions: bool, object_lock: bool, default: Option<(LockMode, Duration)>) -> Lock {
        Lock::S3 { versions, object_lock, default }
    }

    #[test]
    fn what_is_locked_as_asked_for_lacks_nothing() {
        let locked = s3(true, true, Some((LockMode::Compliance, 30 * DAY)));
        assert_eq!(lacks(&locked, true, Some(30 * DAY)), [""; 0]);
        assert_eq!(lacks(&locked, true, None), [""; 0]);
        assert_eq!(lacks(&s3(false, false, None), false, Some(DAY)), [""; 0]);
        assert_eq!(lacks(&Lock::None, false, Some(DAY)), [""; 0]);
    }

    #[test]
    fn each_lack_is_named() {
        let one = |lock: Lock, asked, retention, words: &str| {
            let lacks = lacks(&lock, asked, retention);
            assert!(lacks.len() == 1 && lacks[0].contains(words), "{lock:?}: {lacks:?}");
        };
        let compliance = Some((LockMode::Compliance, 30 * DAY));
        one(s3(true, true, compliance), false, Some(31 * DAY), "30d, is shorter than `retention`, 31d");
        one(s3(true, true, Some((LockMode::Governance, 30 * DAY))), false, None, "governance");
        one(s3(true, true, None), true, None, "no default retention");
        one(s3(true, false, None), true, None, "no Object Lock");
        assert_eq!(lacks(&s3(false, false, None), true, None).len(), 2);
        one(Lock::None, true, None, "can lock nothing");
        one(Lock::Azure { immutable: false, legal_hold: false }, true, None, "no immutability policy");
        one(Lock::Azure { immutable: true, legal_hold: false }, true, None, "can't be seen");
        one(Lock::Unseen, false, Some(DAY), "can't be seen");
    }
}
