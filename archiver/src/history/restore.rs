//! Puts recovered documents into a collection: says first what would happen, and overwrites nothing unless told to.

use std::fmt;

use bson::{RawDocumentBuf, doc};
use bson_walker::{Doc, Writer};
use mongodb::Collection;

use super::Namespace;
use crate::config::Config;
use crate::deployment::{code, connect, mongo_error};
use crate::error::{Error, Result};

const DUPLICATE_KEY: i32 = 11000;

/// A collection that documents are put into.
#[derive(Debug)]
pub struct Target {
    collection: Collection<RawDocumentBuf>,
    apply: bool,
    overwrite: bool,
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
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::WillInsert => "will insert",
            Action::Inserted => "inserted",
            Action::Identical => "identical",
            Action::Conflict => "conflict",
            Action::Replaced => "replaced",
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
        Ok(Target { collection, apply, overwrite })
    }

    /// Whether it writes, or only says what it would do.
    pub fn writes(&self) -> bool {
        self.apply
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
                        // Somebody was faster.
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
            _ => Err(Error::corrupt("MongoDB has not stored a recovered document as it was given").hint(
                "another writer changed it meanwhile, or it holds an empty Timestamp, which MongoDB fills in",
            )),
        }
    }

    async fn live(&self, document: &[u8]) -> Result<Option<RawDocumentBuf>> {
        let found = self.collection.find_one(filter(document)?).await;
        found.map_err(|e| mongo_error("looking for the live document", e))
    }
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
