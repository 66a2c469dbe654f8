//! The collections that a replay writes into: what may be written to, and MongoDB's commands for it.

use bson::{Document, RawDocumentBuf, doc};
use bson_walker::{Doc, Writer, kind};
use bytes::Bytes;
use futures_util::TryStreamExt;
use mongodb::error::{Error as MongoError, ErrorKind};
use mongodb::{Client, ClientSession, Collection, Database};

use super::baselines::Survivors;
use crate::audit_log::{MARKER, mongo_error};
use crate::config::{Config, Secret};
use crate::deployment::{code, connect, durable, server};
use crate::error::{Error, Result};
use crate::history::Namespace;
use crate::history::id::Id;
use crate::history::states::Identity;

const NAMESPACE_NOT_FOUND: i32 = 26;
const NAMESPACE_EXISTS: i32 = 48;
const DUPLICATE_KEY: i32 = 11000;
/// Of documents in one command: it is one BSON document itself.
const COMMAND_BYTES: usize = 12 << 20;
/// Of documents in one command, in number: MongoDB's `maxWriteBatchSize`.
const COMMAND_WRITES: usize = 100_000;
/// How often a transaction is tried that collides with another writer's.
const ATTEMPTS: usize = 5;

/// Where records are applied to.
#[derive(Debug, Clone)]
pub(super) struct Target {
    client: Client,
    database: Database,
    /// The one collection; `None`: each into the one of its name.
    pub(super) collection: Option<String>,
    /// For people, and to know it again: without credentials.
    pub(super) name: String,
}

/// One write: a document as it is afterwards; `None`: there is none.
#[derive(Debug, Clone)]
pub(super) struct Write {
    pub(super) collection: String,
    pub(super) identity: Identity,
    pub(super) after: Option<Bytes>,
    /// There was none before, as far as is known.
    pub(super) is_new: bool,
}

/// Splits `mongodb://…/db.collection?…` into a URI that the driver takes, and its database and collection.
fn split(uri: &str) -> Result<(String, String, Option<String>)> {
    let wrong = || {
        Error::invalid("--output is not ndjson, nor a MongoDB URI with a database").hint(
            "for example ndjson, mongodb://host:27017/shop.orders for one collection, or mongodb://host:27017/shop for all of a database",
        )
    };
    let (scheme, rest) = uri.split_once("://").ok_or_else(wrong)?;
    if !matches!(scheme, "mongodb" | "mongodb+srv") {
        return Err(wrong());
    }
    let (hosts, path) = rest.split_once('/').ok_or_else(wrong)?;
    let (namespace, options) = path.split_once('?').map_or((path, ""), |(n, o)| (n, o));
    let (db, collection) = match namespace.split_once('.') {
        Some((db, collection)) => (db, Some(collection).filter(|c| !c.is_empty())),
        None => (namespace, None),
    };
    if db.is_empty() || namespace.ends_with('.') {
        return Err(wrong());
    }
    let options = if options.is_empty() { String::new() } else { format!("?{options}") };
    Ok((format!("{scheme}://{hosts}/{db}{options}"), db.to_owned(), collection.map(str::to_owned)))
}

impl Target {
    /// Connects. Fails as invalid where nothing may be written there: into what is watched, or into an audit database.
    pub(super) async fn open(output: &str, config: &Config) -> Result<Target> {
        let (uri, db, collection) = split(output)?;
        let hosts = uri.split_once("://").map_or("", |(_, rest)| rest).split('/').next().unwrap_or_default();
        let hosts = hosts.rsplit('@').next().unwrap_or_default();
        let name = match &collection {
            Some(collection) => format!("{hosts}/{db}.{collection}"),
            None => format!("{hosts}/{db}"),
        };
        let client = connect(&Secret::new(uri)).await?;
        let target = Target { database: client.database(&db), client, collection, name };
        target.refuse_what_is_archived(config).await?;
        Ok(target)
    }

    async fn refuse_what_is_archived(&self, config: &Config) -> Result<()> {
        let db = self.database.name();
        let marker = self.database.collection::<Document>(MARKER).find_one(doc! {}).await;
        if marker.map_err(|e| mongo_error("looking at the target", e))?.is_some() {
            return Err(Error::invalid(format!("--output is in an archiver's audit database database={db}"))
                .hint("choose another database"));
        }
        let watched = connect(&config.mongodb_uri).await?;
        let covers = |watch: &crate::config::Watch| match (&self.collection, watch) {
            (Some(collection), watch) => watch.covers(db, collection),
            (None, crate::config::Watch::Collection(watched, _)) => watched == db,
            (None, watch) => watch.covers(db, ""),
        };
        let source = config.sources.iter().find(|source| source.watch.iter().any(covers));
        if let Some(source) = source
            && is_same(&watched, &self.client).await?
        {
            return Err(Error::invalid(format!(
                "--output is watched itself, so its changes would be archived again source={}",
                source.name
            ))
            .hint("choose a namespace that no source watches, or another deployment"));
        }
        Ok(())
    }

    /// Fails as invalid where there are documents already.
    pub(super) async fn require_empty(&self) -> Result<()> {
        let failed = |e| mongo_error("looking at the target", e);
        let names = match &self.collection {
            Some(collection) => vec![collection.clone()],
            None => self.database.list_collection_names().await.map_err(failed)?,
        };
        for name in names.iter().filter(|name| !name.starts_with("system.")) {
            let found = self.collection_of(name).find_one(doc! {}).projection(doc! {"_id": 1}).await;
            if found.map_err(failed)?.is_some() {
                return Err(Error::invalid(format!(
                    "the target is not empty collection={}.{name}",
                    self.database.name()
                ))
                .hint("history is applied to what is there: --allow-nonempty where it is the state at --from, such as a restored backup; \
                       to go on with a replay that was cut short, give its --state file"));
            }
        }
        Ok(())
    }

    fn collection_of(&self, name: &str) -> Collection<RawDocumentBuf> {
        self.database.collection(name)
    }

    /// The documents of these identities that are there, all of one collection, until they take this many bytes together; at least one.
    /// Whether that was all.
    pub(super) async fn read(
        &self,
        collection: &str,
        identities: &[&Identity],
        budget: usize,
    ) -> Result<(Vec<(Identity, Bytes)>, bool)> {
        let failed = |e| mongo_error("reading documents of the target", e);
        let filter = Writer::build(|filter| {
            let mut id = filter.begin_doc(b"_id");
            let mut list = id.begin_array(b"$in");
            for (n, identity) in identities.iter().enumerate() {
                list.raw(identity.id.0, n.to_string().as_bytes(), &identity.id.1);
            }
            list.end();
            id.end();
        });
        let filter: Document = bson::deserialize_from_slice(&filter)
            .map_err(|e| Error::corrupt("a record's _id is not valid BSON").because(e))?;
        let mut cursor = self.collection_of(collection).find(filter).await.map_err(failed)?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        while let Some(document) = cursor.try_next().await.map_err(failed)? {
            let document = Bytes::from(document.into_bytes());
            let id = Doc::new(&document).ok().and_then(|d| d.get("_id"));
            let its = |identity: &&&Identity| id.is_some_and(|id| Id::of(&id) == identity.id);
            if let Some(identity) = identities.iter().find(its) {
                bytes += document.len();
                found.push(((*identity).clone(), document));
            }
            if bytes > budget {
                return Ok((found, false));
            }
        }
        Ok((found, true))
    }

    /// Inserts documents that are not there; those that are, are replaced.
    pub(super) async fn insert(&self, collection: &str, writes: &[&Write]) -> Result<()> {
        let mut documents = Vec::with_capacity(writes.len());
        for write in writes {
            documents.push(raw(write.after.as_deref().unwrap_or_default())?);
        }
        let inserted = self.collection_of(collection).insert_many(&documents).ordered(false).await;
        let Err(error) = inserted else { return Ok(()) };
        let Some(there) = duplicates(&error) else {
            return Err(mongo_error("inserting into the target", error));
        };
        let there: Vec<&Write> = there.into_iter().filter_map(|n| writes.get(n).copied()).collect();
        self.replace(collection, &there, None).await
    }

    /// Puts documents there, in this order.
    pub(super) async fn replace(
        &self,
        collection: &str,
        writes: &[&Write],
        mut session: Option<&mut ClientSession>,
    ) -> Result<()> {
        let mut rest = writes;
        while !rest.is_empty() {
            let count = fitting(rest, |write| {
                write.after.as_ref().map_or(0, Bytes::len) + 2 * write.identity.id.1.len() + 64
            });
            let command = self.command("update", collection, "updates", session.is_some(), |n, list| {
                let Some(write) = rest.get(n).filter(|_| n < count) else { return false };
                update(write, n, list);
                true
            });
            self.run(command, session.as_deref_mut()).await?;
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Removes documents.
    pub(super) async fn delete(
        &self,
        collection: &str,
        writes: &[&Write],
        mut session: Option<&mut ClientSession>,
    ) -> Result<()> {
        let mut rest = writes;
        while !rest.is_empty() {
            let count = fitting(rest, |write| write.identity.id.1.len() + 64);
            let command = self.command("delete", collection, "deletes", session.is_some(), |n, list| {
                let Some(write) = rest.get(n).filter(|_| n < count) else { return false };
                let mut delete = list.begin_doc(n.to_string().as_bytes());
                query(write, &mut delete);
                delete.i32("limit", 1);
                delete.end();
                true
            });
            self.run(command, session.as_deref_mut()).await?;
            rest = &rest[count..];
        }
        Ok(())
    }

    fn command(
        &self,
        name: &str,
        collection: &str,
        list: &str,
        in_transaction: bool,
        mut item: impl FnMut(usize, &mut Writer<'_>) -> bool,
    ) -> Vec<u8> {
        Writer::build(|command| {
            command.str(name, collection);
            let mut items = command.begin_array(list.as_bytes());
            let mut n = 0;
            while item(n, &mut items) {
                n += 1;
            }
            items.end();
            command.bool("ordered", true);
            if !in_transaction {
                let mut concern = command.begin_doc(b"writeConcern");
                concern.str("w", "majority");
                concern.bool("j", true);
                concern.end();
            }
        })
    }

    async fn run(&self, command: Vec<u8>, session: Option<&mut ClientSession>) -> Result<()> {
        let action = self.database.run_raw_command(raw(&command)?);
        let reply = match session {
            Some(session) => action.session(session).await,
            None => action.await,
        };
        let reply = reply.map_err(|e| mongo_error("writing into the target", e))?;
        let errors = reply.get_array("writeErrors").ok().and_then(|errors| errors.first()?.as_document());
        if let Some(error) = errors {
            return Err(refused(error.get_i32("code").unwrap_or(0)));
        }
        match reply.get_document("writeConcernError") {
            Ok(error) => Err(Error::unavailable(format!(
                "the target has not made a write durable code={}",
                error.get_i32("code").unwrap_or(0)
            ))),
            Err(_) => Ok(()),
        }
    }

    /// Makes these writes at once, in their order.
    pub(super) async fn write_at_once(&self, writes: &[Write]) -> Result<()> {
        let failed = |e| mongo_error("a transaction on the target", e);
        let mut session = self.client.start_session().await.map_err(failed)?;
        for attempt in 1.. {
            session.start_transaction().write_concern(durable()).await.map_err(failed)?;
            let written = self.write_in(&mut session, writes).await;
            let done = match written {
                Ok(()) => session.commit_transaction().await.map_err(failed),
                Err(error) => {
                    session.abort_transaction().await.ok();
                    Err(error)
                }
            };
            match done {
                Err(error) if attempt < ATTEMPTS && error.kind() == crate::Kind::Unavailable => {}
                done => return done,
            }
        }
        Ok(())
    }

    async fn write_in(&self, session: &mut ClientSession, writes: &[Write]) -> Result<()> {
        let mut rest = writes;
        while let Some(first) = rest.first() {
            let alike =
                |w: &&Write| w.collection == first.collection && w.after.is_some() == first.after.is_some();
            let run: Vec<&Write> = rest.iter().take_while(alike).collect();
            rest = &rest[run.len()..];
            match first.after {
                Some(_) => self.replace(&first.collection, &run, Some(&mut *session)).await?,
                None => self.delete(&first.collection, &run, Some(&mut *session)).await?,
            }
        }
        Ok(())
    }

    /// Makes sure that a collection is there.
    pub(super) async fn create(&self, collection: &str) -> Result<()> {
        match self.database.create_collection(collection).await {
            Err(e) if code(&e) != Some(NAMESPACE_EXISTS) => {
                Err(mongo_error("creating a collection of the target", e))
            }
            _ => Ok(()),
        }
    }

    /// Drops a collection; harmless where there is none.
    pub(super) async fn drop(&self, collection: &str) -> Result<()> {
        let dropped = self.collection_of(collection).drop().await;
        dropped.map_err(|e| mongo_error("dropping a collection of the target", e))
    }

    /// Renames a collection over another one; false where there is none.
    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<bool> {
        let full = |name: &str| format!("{}.{name}", self.database.name());
        let command = doc! {"renameCollection": full(from), "to": full(to), "dropTarget": true,
        "writeConcern": {"w": "majority", "j": true}};
        match self.client.database("admin").run_command(command).await {
            Ok(_) => Ok(true),
            Err(e) if code(&e) == Some(NAMESPACE_NOT_FOUND) => Ok(false),
            Err(e) => Err(mongo_error("renaming a collection of the target", e)),
        }
    }

    /// Removes the documents for which `goes` says so.
    pub(super) async fn thin_out(
        &self,
        namespace: &Namespace,
        collection: &str,
        goes: impl Fn(&Identity) -> bool,
    ) -> Result<()> {
        let failed = |e| mongo_error("reading documents of the target", e);
        let found = self.collection_of(collection).find(doc! {}).projection(doc! {"_id": 1}).await;
        let mut ids = found.map_err(failed)?;
        while let Some(document) = ids.try_next().await.map_err(failed)? {
            let Some(id) = Doc::new(document.as_bytes()).ok().and_then(|d| d.get("_id")) else { continue };
            let identity = Identity { namespace: namespace.clone(), id: Id::of(&id) };
            if goes(&identity) {
                let write = Write { collection: collection.to_owned(), identity, after: None, is_new: false };
                self.delete(collection, &[&write], None).await?;
            }
        }
        Ok(())
    }

    /// Moves the documents of a renamed collection: not those that are of its successor, nor over those that are there already as
    /// they were later.
    pub(super) async fn move_all_but(
        &self,
        left: &Survivors,
        from: (&Namespace, &str),
        to: (&Namespace, &str),
    ) -> Result<()> {
        let failed = |e| mongo_error("reading documents of the target", e);
        let mut documents = self.collection_of(from.1).find(doc! {}).await.map_err(failed)?;
        while let Some(document) = documents.try_next().await.map_err(failed)? {
            let document = Bytes::from(document.into_bytes());
            let Some(id) = Doc::new(&document).ok().and_then(|d| d.get("_id")) else { continue };
            let write = |(namespace, collection): (&Namespace, &str), after| {
                let identity = Identity { namespace: namespace.clone(), id: Id::of(&id) };
                Write { collection: collection.to_owned(), identity, after, is_new: false }
            };
            let (gone, come) = (write(from, None), write(to, Some(document.clone())));
            if left.holds(&gone.identity) {
                continue;
            }
            if !left.holds(&come.identity) {
                self.replace(to.1, &[&come], None).await?;
            }
            self.delete(from.1, &[&gone], None).await?;
        }
        Ok(())
    }
}

fn query(write: &Write, out: &mut Writer<'_>) {
    let mut query = out.begin_doc(b"q");
    query.raw(write.identity.id.0, b"_id", &write.identity.id.1);
    query.end();
}

fn update(write: &Write, n: usize, list: &mut Writer<'_>) {
    let document = write.after.as_deref().unwrap_or_default();
    let mut update = list.begin_doc(n.to_string().as_bytes());
    query(write, &mut update);
    if is_odd(document) {
        let mut stages = update.begin_array(b"u");
        let mut stage = stages.begin_doc(b"0");
        let mut with = stage.begin_doc(b"$replaceWith");
        with.doc("$literal", document);
        with.end();
        stage.end();
        stages.end();
    } else {
        update.doc("u", document);
    }
    update.bool("upsert", true);
    update.end();
}

/// Whether MongoDB takes such a document only from a pipeline: it fills in empty top-level timestamps, and refuses names that
/// look like operators.
pub(super) fn is_odd(document: &[u8]) -> bool {
    let Ok(doc) = Doc::new(document) else { return false };
    let odd = |e: bson_walker::Element<'_>| {
        e.kind() == kind::TIMESTAMP && e.as_timestamp() == Some((0, 0)) || e.name().starts_with(b"$")
    };
    doc.elements().map_while(std::result::Result::ok).any(odd)
}

/// How many writes, of so many bytes each, go into one command; at least one.
fn fitting(writes: &[&Write], bytes: impl Fn(&Write) -> usize) -> usize {
    let mut sum = 0;
    let fits = |write: &&&Write| {
        sum += bytes(write);
        sum <= COMMAND_BYTES
    };
    writes.iter().take(COMMAND_WRITES).take_while(fits).count().max(1)
}

fn raw(bytes: &[u8]) -> Result<RawDocumentBuf> {
    RawDocumentBuf::from_bytes(bytes.to_vec())
        .map_err(|e| Error::corrupt("a document to be written is not valid BSON").because(e))
}

/// Which of the inserted documents are there already; `None` where something else is wrong.
fn duplicates(error: &MongoError) -> Option<Vec<usize>> {
    let ErrorKind::InsertMany(many) = error.kind.as_ref() else { return None };
    let errors = many.write_errors.as_ref().filter(|_| many.write_concern_error.is_none())?;
    errors.iter().map(|e| (e.code == DUPLICATE_KEY).then_some(e.index)).collect()
}

fn refused(code: i32) -> Error {
    if code == DUPLICATE_KEY {
        return Error::invalid(
            "a unique index of the target refuses a document: another one has one of its values",
        )
        .hint("values that redaction replaced are often equal; replay into a collection without that index");
    }
    Error::unavailable(format!("the target refuses a write code={code}"))
}

/// Whether two clients are of one deployment, as far as their servers say.
async fn is_same(one: &Client, other: &Client) -> Result<bool> {
    let hello = async |client: &Client| {
        let reply = client.database("admin").run_command(doc! {"hello": 1}).await;
        reply.map_err(|e| mongo_error("asking a server who it is", e))
    };
    let (a, b) = (hello(one).await?, hello(other).await?);
    let process =
        |reply: &Document| reply.get_document("topologyVersion").ok()?.get_object_id("processId").ok();
    if process(&a).is_some() && process(&a) == process(&b) {
        return Ok(true);
    }
    let set = |reply: &Document| reply.get_str("setName").ok().map(str::to_owned);
    let shared = |reply: &Document| reply.get_array("hosts").cloned().unwrap_or_default();
    let hosts = shared(&b);
    if set(&a).is_some() && set(&a) == set(&b) && shared(&a).iter().any(|host| hosts.contains(host)) {
        return Ok(true);
    }
    let ids = (server(one).await?.deployment, server(other).await?.deployment);
    Ok(ids.0.is_some() && ids.0 == ids.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_takes_so_many_writes_and_bytes_and_at_least_one() {
        let identity = Identity {
            namespace: Namespace { db: "shop".to_owned(), coll: "orders".to_owned() },
            id: Id(kind::INT32, vec![0; 4]),
        };
        let write = Write { collection: "orders".to_owned(), identity, after: None, is_new: false };
        assert_eq!(fitting(&vec![&write; COMMAND_WRITES + 1], |_| 1), COMMAND_WRITES);
        assert_eq!(fitting(&vec![&write; 30], |_| COMMAND_BYTES / 7), 7);
        assert_eq!(fitting(&vec![&write; 30], |_| 2 * COMMAND_BYTES), 1);
    }

    #[test]
    fn an_output_names_a_database_or_a_collection_and_keeps_its_options() {
        let parts = |uri: &str| split(uri).unwrap();
        assert_eq!(
            parts("mongodb://u:p@a:1,b:2/shop.orders.eu?replicaSet=rs0"),
            ("mongodb://u:p@a:1,b:2/shop?replicaSet=rs0".into(), "shop".into(), Some("orders.eu".into()))
        );
        assert_eq!(parts("mongodb+srv://a/shop"), ("mongodb+srv://a/shop".into(), "shop".into(), None));
        for wrong in
            ["", "json", "mongodb://a", "mongodb://a/", "mongodb://a/.x", "mongodb://a/shop.", "http://a/b.c"]
        {
            assert_eq!(split(wrong).unwrap_err().kind(), crate::Kind::Invalid, "{wrong}");
        }
    }
}
