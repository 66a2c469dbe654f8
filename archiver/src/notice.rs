//! A notice: what somebody did with what is kept, on its way to becoming a record. Holds nothing of documents.

use std::path::Path;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, Timestamp, doc};
use bson_walker::Doc;

use crate::error::{Error, Result};

/// Bytes of a notice's detail that become part of a record: whoever may add notices could else add anything.
const DETAIL_MAX: usize = 64 << 10;

/// What a notice, and then its record, is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeOf {
    /// Documents were, or are to be, recovered.
    Recovery,
    /// Documents are to be read.
    Access,
}

impl NoticeOf {
    /// The operation of its record.
    pub fn op(self) -> &'static str {
        match self {
            NoticeOf::Recovery => "recovery",
            NoticeOf::Access => "access",
        }
    }
}

/// A notice.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// Which one: an ObjectId, unless somebody else put it there.
    pub id: Bson,
    /// What it is of.
    pub of: NoticeOf,
    /// When it was given, by the audit server's clock.
    pub at: Option<DateTime>,
    /// What else its record says.
    pub detail: Document,
}

impl Notice {
    /// One of this moment.
    pub fn new(of: NoticeOf, at: DateTime, detail: Document) -> Notice {
        Notice { id: ObjectId::new().into(), of, at: Some(at), detail }
    }

    /// The body of its record.
    pub fn body(&self, time: Timestamp) -> Result<Vec<u8>> {
        let mut detail = doc! {"notice": &self.id};
        detail.extend(self.at.map(|at| ("at".to_owned(), at.into())));
        let unusable = |e| Error::internal("a notice can't be encoded").because(e);
        let rest = bson::serialize_to_vec(&self.detail).map_err(unusable)?;
        match rest.len() <= DETAIL_MAX && Doc::new(&rest).is_ok() {
            true => {
                for (name, value) in &self.detail {
                    detail.entry(name.clone()).or_insert_with(|| value.clone());
                }
            }
            false => drop(detail.insert("tooLarge", true)),
        }
        let body = doc! {"op": self.of.op(), "clusterTime": time, "detail": detail};
        bson::serialize_to_vec(&body).map_err(unusable)
    }
}

/// The user of the operating system that runs this process, and the machine: `ann@host`.
pub fn person() -> String {
    format!("{}@{}", user().unwrap_or_else(|| "unknown".to_owned()), host_name())
}

/// By the process's own user id where the system tells it, because anybody can set an environment variable.
fn user() -> Option<String> {
    let of_environment = || {
        let name = |name: &&str| std::env::var(name).ok().filter(|user| !user.is_empty());
        ["USER", "LOGNAME"].iter().find_map(name)
    };
    let Some(uid) = uid() else { return of_environment() };
    let users = std::fs::read_to_string(Path::new("/etc/passwd")).unwrap_or_default();
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id == uid).then(|| name.to_owned())
    });
    Some(named.unwrap_or_else(|| format!("uid {uid}")))
}

fn uid() -> Option<String> {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().next().map(str::to_owned)
}

/// This machine's name.
pub fn host_name() -> String {
    let named =
        std::env::var("HOSTNAME").ok().or_else(|| std::fs::read_to_string(Path::new("/etc/hostname")).ok());
    named.map_or_else(|| "unknown".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_becomes_a_record_of_bounded_size() {
        let time = Timestamp { time: 7, increment: 1 };
        let at = DateTime::from_millis(5);
        let notice = Notice::new(NoticeOf::Access, at, doc! {"by": "ann@host"});
        let body: Document = bson::deserialize_from_slice(&notice.body(time).unwrap()).unwrap();
        let detail = doc! {"notice": &notice.id, "at": at, "by": "ann@host"};
        assert_eq!(body, doc! {"op": "access", "clusterTime": time, "detail": detail});
        let large = Notice::new(NoticeOf::Recovery, at, doc! {"by": "x".repeat(DETAIL_MAX)});
        let body: Document = bson::deserialize_from_slice(&large.body(time).unwrap()).unwrap();
        assert_eq!(body.get_document("detail").unwrap().get("tooLarge"), Some(&Bson::Boolean(true)));
    }

    #[test]
    fn whoever_runs_the_process_has_a_name() {
        let (user, host) = person().split_once('@').map(|(u, h)| (u.to_owned(), h.to_owned())).unwrap();
        assert!(!user.is_empty() && !host.is_empty());
    }
}
