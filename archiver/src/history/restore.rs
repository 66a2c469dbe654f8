//! Puts recovered documents into a collection: says first what would happen, and overwrites nothing unless told to. What is there
//! already, byte for byte, is left as it is: so a recovery that was interrupted is finished by running it again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};

use bson::{Bson, RawDocumentBuf, doc};
use bson_walker::{Doc, Writer};
use bytes::Bytes;
use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::error::ErrorKind;

use super::Namespace;
use super::id::Id;
use crate::audit_log::account_of;
use crate::config::Config;
use crate::deployment::{code, connect, mongo_error};
use crate::error::{Error, Result};
use crate::fail_point::fail_point;

const DUPLICATE_KEY: i32 = 11000;

/// A collection that documents are put into.
#[derive(Debug)]
pub struct Target {
    collection: Collection<RawDocumentBuf>,
    apply: bool,
    overwrite: bool,
    /// Digests of the `_id`s that were put there, or would be, and of the documents: several can have one `_id`, those of several
    /// collections and those whose `_id`s are masked. Only where the collection itself does not tell.
    put: HashMap<u64, u64>,
    digests: RandomState,
}

/// What happens, or would happen, to one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is not there and would be inserted.
    WillInsert,
    /// It was inserted.
    Inserted,
    /// It is there, byte for byte.
    Identical,
    /// Another one with this id is there, and stays.
    Conflict,
    /// It took the place of another one with this id.
    Replaced,
    /// Plugins have changed it, or may have, and it is not put anywhere.
    Redacted,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::WillInsert => "will insert",
            Action::Inserted => "inserted",
            Action::Identical => "identical",
            Action::Conflict => "conflict",
            Action::Replaced => "replaced",
            Action::Redacted => "redacted",
        })
    }
}

impl Target {
    fn refused_by_an_index(&self) -> Error {
        Error::invalid(format!(
            "a unique index of {} refuses a recovered document: another document has one of its values",
            self.collection.namespace()
        ))
        .hint("values that redaction replaced are often equal; recover into a collection without that index, or print the documents")
    }

    /// The collection in the watched deployment. Writes only where `apply` is set, over live documents only with `overwrite`.
    pub async fn open(
        config: &Config,
        namespace: &Namespace,
        apply: bool,
        overwrite: bool,
    ) -> Result<Target> {
        let client = connect(&config.mongodb_uri).await?;
        let collection = client.database(&namespace.db).collection(&namespace.coll);
        Ok(Target { collection, apply, overwrite, put: HashMap::new(), digests: RandomState::new() })
    }

    /// Whether it writes, or only says what it would do.
    pub fn writes(&self) -> bool {
        self.apply
    }

    /// Whether it writes over live documents.
    pub fn overwrites(&self) -> bool {
        self.overwrite
    }

    /// Where it is.
    pub fn namespace(&self) -> String {
        self.collection.namespace().to_string()
    }

    /// Whoever is logged in there, as `user@database`; `None` without access control.
    pub async fn account(&self) -> Result<Option<String>> {
        let status =
            self.collection.client().database("admin").run_command(doc! {"connectionStatus": 1}).await;
        status.map(|status| account_of(&status)).map_err(|e| mongo_error("asking who is logged in", e))
    }

    /// Puts documents, in this order, and reads back what was written. `actions` gets what became, or would become, of each; where this
    /// fails, of those of which it is known, else `None`.
    pub async fn put_all(&mut self, documents: &[Bytes], actions: &mut Vec<Option<Action>>) -> Result<()> {
        *actions = self.repeated(documents);
        let is_repeated: Vec<bool> = actions.iter().map(Option::is_some).collect();
        for (action, live) in actions.iter_mut().zip(self.compare(documents).await?) {
            // Without --overwrite a second one meets what is there, as the first one does.
            *action = if self.overwrite { action.or(live) } else { live.or(*action) };
        }
        if !self.apply {
            actions.iter_mut().for_each(|action| *action = action.or(Some(Action::WillInsert)));
            return Ok(());
        }
        let mut missing: Vec<usize> = (0..documents.len()).filter(|n| actions[*n].is_none()).collect();
        while !missing.is_empty() {
            let (inserted, met) = self.insert(documents, &missing).await;
            for n in missing.drain(..inserted) {
                actions[n] = Some(Action::Inserted);
            }
            if met? && !missing.is_empty() {
                // Somebody was faster with this one, or an index is in its way.
                let n = missing.remove(0);
                actions[n] = Some(self.put(&documents[n]).await?);
            }
        }
        fail_point!("restore:inserted");
        for n in (0..documents.len()).filter(|n| self.overwrite && !is_repeated[*n]) {
            if actions[n] == Some(Action::Conflict) {
                actions[n] = Some(self.put(&documents[n]).await?);
            }
        }
        let inserted: Vec<Bytes> = (0..documents.len())
            .filter(|n| actions[*n] == Some(Action::Inserted))
            .map(|n| documents[n].clone())
            .collect();
        let there = self.compare(&inserted).await?;
        if there.iter().any(|action| *action != Some(Action::Identical)) {
            return Err(changed());
        }
        fail_point!("restore:batch");
        Ok(())
    }

    /// What becomes of documents whose `_id` one before them has; `None`: of the first ones.
    fn repeated(&mut self, documents: &[Bytes]) -> Vec<Option<Action>> {
        let mut repeated = vec![None; documents.len()];
        // Without these, a second one meets the first one in the collection.
        if self.apply && !self.overwrite {
            return repeated;
        }
        for (action, document) in repeated.iter_mut().zip(documents) {
            let id = Doc::new(document).ok().and_then(|doc| doc.get("_id")).map(|id| Id::of(&id).key());
            let digest = self.digests.hash_one(document);
            match self.put.entry(self.digests.hash_one(id)) {
                Entry::Vacant(first) => drop(first.insert(digest)),
                Entry::Occupied(first) if *first.get() == digest => *action = Some(Action::Identical),
                Entry::Occupied(_) => *action = Some(Action::Conflict),
            }
        }
        repeated
    }

    /// Which documents are there, the same or others; `None`: not there.
    async fn compare(&self, documents: &[Bytes]) -> Result<Vec<Option<Action>>> {
        let mut places: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        let mut ids = Vec::with_capacity(documents.len());
        for (n, document) in documents.iter().enumerate() {
            ids.push(filter(document)?.get_document("_id").ok().and_then(|id| id.get("$eq")).cloned());
            places.entry(id_of(document)).or_default().push(n);
        }
        let ids: Vec<Bson> = ids.into_iter().flatten().collect();
        let mut actions = vec![None; documents.len()];
        if ids.is_empty() {
            return Ok(actions);
        }
        let failed = |e| mongo_error("looking for the live documents", e);
        let mut live = self.collection.find(doc! {"_id": {"$in": ids}}).await.map_err(failed)?;
        let mut others = false;
        while let Some(live) = live.try_next().await.map_err(failed)? {
            let found = places.get(&id_of(live.as_bytes()));
            others |= found.is_none();
            for n in found.into_iter().flatten() {
                let same = live.as_bytes() == &documents[*n][..];
                actions[*n] = Some(if same { Action::Identical } else { Action::Conflict });
            }
        }
        // The same `_id` in other bytes, such as 5 and 5.0, or under the collection's collation.
        for n in (0..documents.len()).filter(|_| others) {
            if actions[n].is_none() && self.live(&documents[n]).await?.is_some() {
                actions[n] = Some(Action::Conflict);
            }
        }
        Ok(actions)
    }

    /// Inserts documents in order up to the first one whose `_id`, or value in another unique index, is there. How many, and whether
    /// there was such a one.
    async fn insert(&self, documents: &[Bytes], which: &[usize]) -> (usize, Result<bool>) {
        let raw = which.iter().map(|n| RawDocumentBuf::from_bytes(documents[*n].to_vec()));
        let raw: Vec<RawDocumentBuf> = match raw.collect::<std::result::Result<_, _>>() {
            Ok(raw) => raw,
            Err(e) => return (0, Err(Error::corrupt("a recovered document is not valid BSON").because(e))),
        };
        let Err(error) = self.collection.insert_many(raw).ordered(true).await else {
            return (which.len(), Ok(false));
        };
        let first = match error.kind.as_ref() {
            ErrorKind::InsertMany(many) => many.write_errors.as_deref().and_then(<[_]>::first),
            _ => None,
        };
        match first.map(|first| (first.index, first.code)) {
            Some((index, DUPLICATE_KEY)) => (index, Ok(true)),
            other => {
                let inserted = other.map_or(0, |(index, _)| index);
                (inserted, Err(mongo_error("inserting recovered documents", error)))
            }
        }
    }

    /// Puts one document, as its bytes are, and reads it back.
    pub async fn put(&self, document: &[u8]) -> Result<Action> {
        let invalid = |e| Error::corrupt("a recovered document is not valid BSON").because(e);
        let raw = RawDocumentBuf::from_bytes(document.to_vec()).map_err(invalid)?;
        let action = match self.live(document).await? {
            None if !self.apply => return Ok(Action::WillInsert),
            None => match self.collection.insert_one(&raw).await {
                Ok(_) => Action::Inserted,
                Err(e) if code(&e) == Some(DUPLICATE_KEY) => {
                    return match self.live(document).await? {
                        // Somebody was faster, perhaps with the same.
                        Some(live) if live.as_bytes() == document => Ok(Action::Identical),
                        Some(_) => Ok(Action::Conflict),
                        None => Err(self.refused_by_an_index()),
                    };
                }
                Err(e) => return Err(mongo_error("inserting a recovered document", e)),
            },
            Some(live) if live.as_bytes() == document => return Ok(Action::Identical),
            Some(_) if !(self.apply && self.overwrite) => return Ok(Action::Conflict),
            Some(_) => {
                let replaced = self.collection.replace_one(filter(document)?, &raw).await;
                replaced.map_err(|e| mongo_error("replacing a document with a recovered one", e))?;
                Action::Replaced
            }
        };
        // MongoDB changes a few documents as it stores them: a top-level Timestamp(0, 0) becomes the present time.
        match self.live(document).await? {
            Some(live) if live.as_bytes() == document => Ok(action),
            _ => Err(changed()),
        }
    }

    async fn live(&self, document: &[u8]) -> Result<Option<RawDocumentBuf>> {
        let found = self.collection.find_one(filter(document)?).await;
        found.map_err(|e| mongo_error("looking for the live document", e))
    }
}

fn changed() -> Error {
    Error::corrupt("MongoDB has not stored a recovered document as it was given")
        .hint("another writer changed it meanwhile, or it holds an empty Timestamp, which MongoDB fills in")
}

/// A document's `_id`: its type byte and value; empty where it has none.
fn id_of(document: &[u8]) -> Vec<u8> {
    let id = Doc::new(document).ok().and_then(|doc| doc.get("_id"));
    id.map(|id| [&[id.kind()], id.value()].concat()).unwrap_or_default()
}

fn filter(document: &[u8]) -> Result<bson::Document> {
    let id = Doc::new(document).ok().and_then(|doc| doc.get("_id"));
    let id = id.ok_or_else(|| {
        Error::invalid("a recovered document has no _id")
            .hint("a plugin removed it; it can be printed, not written")
    })?;
    let equal = Writer::build(|w| w.append_as("$eq", &id));
    let equal: bson::Document = bson::deserialize_from_slice(&equal)
        .map_err(|e| Error::corrupt("a recovered document's _id is not valid BSON").because(e))?;
    Ok(doc! {"_id": equal})
}
