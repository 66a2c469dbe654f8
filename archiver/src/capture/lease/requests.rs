//! What an operator's command asks of the archivers that run, beside the leases: they look there anyway, and often. A request
//! expires when nobody waits for its answer any more.

use bson::{Bson, DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use super::Leases;
use super::instances::instance_of;
use crate::error::{Error, Kind, Result};
use crate::stream_id::StreamId;

/// Before the name of whoever asks, in the `_id` of a request. No stream is named so.
pub(super) const REQUEST: &str = "request/";
/// How long a request stands without being renewed.
const STANDS_MILLIS: i64 = 30_000;

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The `_id`.
    pub id: String,
    /// What.
    pub ask: Ask,
}

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Of whoever holds this stream's lease: to try withheld events again.
    Retry(StreamId, Seqs),
    /// Of every living archiver: to read its configuration again.
    Reload,
}

/// Some of a stream's `quarantine` records, by seq; `None`: all.
pub type Seqs = Option<Vec<i64>>;

/// What became of a request so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer<T> {
    /// How far it is.
    pub so_far: T,
    /// Whether that is all.
    pub done: bool,
    /// Why it could not be done.
    #[serde(default)]
    pub failed: Option<Failed>,
}

/// An error on its way to whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// See [`Kind::name`].
    pub kind: String,
    /// The error, with its causes.
    pub message: String,
    /// What to do next.
    #[serde(default)]
    pub hint: Option<String>,
}

impl Failed {
    /// What is told of an error.
    pub fn of(error: &Error) -> Failed {
        let hint = error.hint_text().map(str::to_owned);
        Failed { kind: error.kind().name().to_owned(), message: error.explain(), hint }
    }

    /// Its kind. One that this version does not know is an internal error's.
    pub fn kind(&self) -> Kind {
        Kind::named(&self.kind).unwrap_or(Kind::Internal)
    }

    /// The error again.
    pub fn into_error(self) -> Error {
        let error = Error::new(self.kind(), self.message);
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl Leases {
    /// Stores a request, under a name of its own. It stands for some seconds: see [`Leases::insist`].
    pub async fn ask(&self, ask: Ask) -> Result<Request> {
        let id = format!("{REQUEST}{}:{:08x}", self.holder(), rand::random::<u32>());
        let (what, fields) = match &ask {
            Ask::Retry(stream, seqs) => ("retry", doc! {"stream": stream.to_string(), "seqs": seqs.clone()}),
            Ask::Reload => ("reload", doc! {}),
        };
        let mut request = doc! {"_id": &id, "ask": what, "asked": DateTime::now()};
        request.extend(fields);
        // By the server's clock, which is known to an update only.
        let request = doc! {"$mergeObjects": [{"$literal": request}, {"expires": expiry()}]};
        let asked = self.0.collection.update_one(doc! {"_id": &id}, vec![doc! {"$replaceWith": request}]);
        self.within("asking the archivers that run", asked.upsert(true).into_future()).await?;
        Ok(Request { id, ask })
    }

    /// Lets a request stand for longer.
    pub async fn insist(&self, request: &Request) -> Result<()> {
        let longer = vec![doc! {"$set": {"expires": expiry()}}];
        let renewed = self.0.collection.update_one(doc! {"_id": &request.id}, longer).into_future();
        self.within("waiting for the archivers that run", renewed).await.map(|_| ())
    }

    /// Takes a request back.
    pub async fn withdraw(&self, request: &Request) -> Result<()> {
        let removed = self.0.collection.delete_one(doc! {"_id": &request.id}).into_future();
        self.within("taking a request back", removed).await.map(|_| ())
    }

    /// Says to whoever asked how far it is. Nobody may be waiting any more.
    pub async fn answer<T: Serialize>(&self, request: &str, answer: &Answer<T>) -> Result<()> {
        let answer = bson::serialize_to_bson(answer);
        let answer = answer.map_err(|e| Error::internal("an answer can't be encoded").because(e))?;
        let update = doc! {"$set": {"answer": answer}};
        let stored = self.0.collection.update_one(doc! {"_id": request}, update).into_future();
        self.within("answering a request", stored).await.map(|_| ())
    }

    /// What has become of a request so far; `None`: nobody has taken it up.
    pub async fn answered<T: serde::de::DeserializeOwned>(
        &self,
        request: &Request,
    ) -> Result<Option<Answer<T>>> {
        let found = self.0.collection.find_one(doc! {"_id": &request.id}).into_future();
        let Some(found) = self.within("waiting for an answer", found).await? else { return Ok(None) };
        let answer = found.get("answer").cloned().map(bson::deserialize_from_bson).transpose();
        answer.map_err(|e| Error::internal("an answer can't be read").because(e))
    }
}

/// The request in this document; `None` where it is none, is answered, or is one that this version does not know.
pub(super) fn read(document: &Document) -> Option<Request> {
    let id = document.get_str("_id").ok().filter(|id| id.starts_with(REQUEST))?;
    if document.get_bool("done").unwrap_or(false) || instance_of(id).is_some() {
        return None;
    }
    let ask = match document.get_str("ask").ok()? {
        "reload" => Ask::Reload,
        "retry" => {
            let seqs = match document.get("seqs") {
                Some(Bson::Array(seqs)) => Some(seqs.iter().filter_map(Bson::as_i64).collect()),
                _ => None,
            };
            Ask::Retry(StreamId::parse(document.get_str("stream").ok()?)?, seqs)
        }
        _ => return None,
    };
    Some(Request { id: id.to_owned(), ask })
}

fn expiry() -> Document {
    doc! {"$add": ["$$NOW", STANDS_MILLIS]}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_told_from_leases_and_instances_and_an_answered_one_asks_for_nothing() {
        let retry = doc! {"_id": "request/h:1:x:ab", "ask": "retry", "stream": "s/2", "seqs": [4_i64, 7_i64]};
        let stream = StreamId::parse("s/2").unwrap();
        assert_eq!(read(&retry).unwrap().ask, Ask::Retry(stream.clone(), Some(vec![4, 7])));
        let all = doc! {"_id": "request/h:1:x:ab", "ask": "retry", "stream": "s/2", "seqs": Bson::Null};
        assert_eq!(read(&all).unwrap().ask, Ask::Retry(stream, None));
        let reload = doc! {"_id": "request/h:1:x:ab", "ask": "reload"};
        assert_eq!(read(&reload).unwrap().ask, Ask::Reload);
        for other in [
            doc! {"_id": "request/h:1:x:ab", "ask": "reload", "done": true},
            doc! {"_id": "request/h:1:x:ab", "ask": "dance"},
            doc! {"_id": "instance/h:1:x", "ask": "reload"},
            doc! {"_id": "request/3", "holder": "h:1:x"},
        ] {
            assert_eq!(read(&other), None, "{other}");
        }
    }

    #[test]
    fn an_error_arrives_with_its_kind_and_hint() {
        let sent = Error::plugin("it trapped").hint("mend it");
        let arrived = Failed::of(&sent).into_error();
        assert_eq!((arrived.kind(), arrived.hint_text()), (Kind::Plugin, Some("mend it")));
        assert_eq!(arrived.to_string(), "it trapped");
    }
}
