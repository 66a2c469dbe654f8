//! Applies records to collections: what each document was after each record, in the order in which it happened.
//!
//! A change without an image is applied to what the target has, which is what the source had. Every write says what the document is
//! afterwards, so that it can be made again.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use bson_walker::Doc;
use bytes::Bytes;
use tracing::warn;

use super::baselines::Survivors;
use super::merge::Item;
use super::scope::Scope;
use super::state::{Bases, Ends, State, StateFile};
use super::tail::{Place, Step};
use super::target::{Target, Write};
use super::write::write_all;
use super::{Counted, change};
use crate::error::{Error, Result};
use crate::fail_point::fail_point;
use crate::history::Namespace;
use crate::history::detail::{is_from_watched, target as renamed_to};
use crate::history::document::{Contents, apply};
use crate::history::gaps::GapRecord;
use crate::history::policies::Policies;
use crate::history::released::notes;
use crate::history::states::Identity;
use crate::post_image;
use crate::record::Record;
use crate::stream_id::StreamId;

/// Changes that are applied together at most, in bytes.
const BATCH_BYTES: usize = 16 << 20;
/// Documents that are read from the target for one batch, in bytes, and how many are asked for at once.
const BASE_BYTES: usize = if cfg!(test) { 1 << 10 } else { 64 << 20 };
const BASES_ASKED: usize = 500;

/// One change of one document.
#[derive(Debug)]
struct Op {
    collection: String,
    identity: Identity,
    what: What,
    /// The record, for messages.
    name: String,
    stream: StreamId,
    place: Place,
}

#[derive(Debug)]
enum What {
    Put { document: Bytes, is_new: bool },
    Delta { delta: Bytes, contents: Contents },
    Remove,
}

/// The changes of one transaction of the source, and how far the streams are behind it.
#[derive(Debug, Default)]
struct Unit {
    ops: Vec<Op>,
    time: (u32, u32),
    txn: Vec<u8>,
    places: BTreeMap<StreamId, Place>,
}

/// How history is applied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Transactions stay together.
    pub(super) atomic: bool,
    /// Where history is missing, what is known is applied all the same.
    pub(super) allow_gaps: bool,
    /// Writers at the same time.
    pub(super) parallel: usize,
    /// Changes that are applied together at most.
    pub(super) batch: usize,
}

/// Applies items to a target.
pub(super) struct Applier {
    pub(super) target: Target,
    scope: Scope,
    manner: Manner,
    policies: HashMap<String, Policies>,
    ops: Vec<Op>,
    bytes: usize,
    unit: Option<Unit>,
    /// How far the streams are once `ops` is applied.
    places: BTreeMap<StreamId, Place>,
    /// Of changes that an earlier run may have made: what their documents were before.
    uncertain: Bases,
    /// How far the streams are behind these changes. Until then the state stays what it is: documents are known behind one only.
    until: Ends,
    /// What documents were before the changes behind the saved state.
    bases: Bases,
    state: State,
    file: Option<StateFile>,
    pub(super) counted: Counted,
}

impl Applier {
    pub(super) fn new(
        target: Target,
        scope: Scope,
        manner: Manner,
        policies: HashMap<String, Policies>,
        (file, state): (Option<StateFile>, State),
    ) -> Result<Applier> {
        let (uncertain, until) = file.as_ref().map_or(Ok(Default::default()), |file| file.bases(&state))?;
        Ok(Applier {
            target,
            scope,
            manner,
            policies,
            ops: Vec::new(),
            bytes: 0,
            unit: None,
            places: BTreeMap::new(),
            uncertain,
            until,
            bases: Bases::new(),
            state,
            file,
            counted: Counted::default(),
        })
    }

    /// Takes the next items in; everything before `reached` has come.
    pub(super) async fn take(&mut self, items: Vec<Item>, reached: Option<(u32, u32)>) -> Result<()> {
        for item in items {
            if self.unit.as_ref().is_some_and(|unit| unit.time < item.time) {
                self.close_unit().await?;
            }
            self.item(item).await?;
            if self.ops.len() >= self.manner.batch || self.bytes >= BATCH_BYTES {
                self.flush().await?;
            }
        }
        if let Some(reached) = reached {
            if self.unit.as_ref().is_some_and(|unit| unit.time < reached) {
                self.close_unit().await?;
            }
            self.flush().await?;
        }
        Ok(())
    }

    /// Ends; what may be the half of a transaction is left out.
    pub(super) async fn finish(&mut self) -> Result<()> {
        self.flush().await?;
        if let Some(unit) = &self.unit {
            let changes = unit.ops.len();
            warn!(
                "the last transaction may not have been captured as a whole, and is left out changes={changes}"
            );
            return Ok(());
        }
        // Whoever goes on behind the state meets the changes once more that an earlier run may have made.
        if let Some(file) = self.file.as_ref().filter(|_| self.uncertain.is_empty()) {
            file.forget_bases();
        }
        Ok(())
    }

    async fn item(&mut self, item: Item) -> Result<()> {
        let Item { stream, step, time, survivors, place } = item;
        let (bytes, is_in_baseline) = match step {
            Step::Expired(expired) => {
                let name = change::record_name(&stream, expired.start);
                self.gap(&name, "history has been removed by retention").await?;
                self.pass(stream, place);
                return Ok(());
            }
            Step::Record(bytes, is_in_baseline) => (Bytes::from(bytes), is_in_baseline),
        };
        let record = Record::new(&bytes)?;
        if let Some(policies) = self.policies.get_mut(&stream.source) {
            policies.note(&record)?;
        }
        if !self.scope.concerns(&record) || is_in_baseline {
            self.pass(stream, place);
            return Ok(());
        }
        self.counted.events += 1;
        let name = change::record_name(&stream, record.seq()?);
        self.scope.require_its_database(&record, &name)?;
        if record.late().is_some_and(|quarantine| quarantine != place.next - 1) {
            self.gap(&name, "a change was released after later ones had been applied").await?;
            self.pass(stream, place);
            return Ok(());
        }
        match record.op() {
            "drop" | "dropDatabase" | "rename" | "create" => {
                self.flush().await?;
                self.collection(&record, survivors.as_ref()).await?;
                self.pass(stream, place);
                return self.flush().await;
            }
            "gap" if matches!(GapRecord::of(&record)?, GapRecord::Opens(_)) => {
                self.gap(&name, "history is missing").await?
            }
            "quarantine" if notes(&record).is_none() => self.gap(&name, "a change is withheld").await?,
            _ => {}
        }
        let Some(what) = self.what(&stream, &record, &bytes)? else {
            self.pass(stream, place);
            return Ok(());
        };
        let namespace = Namespace::of(&record);
        let (Some(namespace), Some(identity)) = (namespace, Identity::of(&record)) else {
            return Err(Error::invalid(format!(
                "a change has no _id, so nobody can say of which document it is record={name}"
            ))
            .hint("a plugin removed it; such history can be printed, not applied"));
        };
        let collection = self.scope.collection(&namespace).to_owned();
        self.bytes += bytes.len();
        let op = Op { collection, identity, what, name, stream, place };
        self.push(op, time, &record);
        Ok(())
    }

    /// What a record does to its document; `None` where it does nothing.
    fn what(&self, stream: &StreamId, record: &Record<'_>, bytes: &Bytes) -> Result<Option<What>> {
        let after = || match post_image::after(record)? {
            Cow::Borrowed(document) => Some(bytes.slice_ref(document)),
            Cow::Owned(document) => Some(Bytes::from(document)),
        };
        let delta = || record.part("delta").map(|doc| bytes.slice_ref(doc.as_bytes()));
        let put = |document, is_new| What::Put { document, is_new };
        Ok(match record.op() {
            "insert" | "snapshot" | "replace" | "update" => match (after(), delta()) {
                (Some(document), _) => Some(put(document, matches!(record.op(), "insert" | "snapshot"))),
                (None, Some(delta)) => {
                    let contents = self.policies.get(&stream.source).map(|p| p.contents(record));
                    Some(What::Delta { delta, contents: contents.unwrap_or(Contents::Redacted) })
                }
                (None, None) => {
                    return Err(Error::corrupt(format!(
                        "a change has neither document nor delta record={}",
                        change::record_name(stream, record.seq()?)
                    )));
                }
            },
            "delete" => Some(What::Remove),
            // One change of it is missing: it is not known any more.
            "gap" if record.id().is_some() => Some(What::Remove),
            _ => None,
        })
    }

    /// Puts a change where it belongs: into its transaction, if it is of one that must stay together.
    fn push(&mut self, op: Op, time: (u32, u32), record: &Record<'_>) {
        let txn = record.part("txn").filter(|_| self.manner.atomic).map(|txn| txn.as_bytes().to_vec());
        match (&mut self.unit, txn) {
            // What a baseline read amid a transaction is no part of it, but of a document that is.
            (Some(unit), txn)
                if txn.as_ref() == Some(&unit.txn) || unit.ops.iter().any(|o| o.identity == op.identity) =>
            {
                unit.places.insert(op.stream.clone(), op.place.clone());
                unit.ops.push(op);
            }
            (Some(unit), _) => {
                unit.places.insert(op.stream.clone(), op.place.clone());
                self.ops.push(op);
            }
            (None, Some(txn)) => {
                let places = BTreeMap::from([(op.stream.clone(), op.place.clone())]);
                self.unit = Some(Unit { ops: vec![op], time, txn, places });
            }
            (None, None) => {
                self.places.insert(op.stream.clone(), op.place.clone());
                self.ops.push(op);
            }
        }
    }

    /// Notes that a stream has come to a place, without a change.
    fn pass(&mut self, stream: StreamId, place: Place) {
        let places = self.unit.as_mut().map_or(&mut self.places, |unit| &mut unit.places);
        places.insert(stream, place);
    }

    /// Fails where history is missing, unless that is allowed; what comes before it is applied.
    async fn gap(&mut self, name: &str, what: &str) -> Result<()> {
        self.counted.gaps += 1;
        if self.manner.allow_gaps {
            warn!("{what}: from here on the target may differ from what the source was record={name}");
            return Ok(());
        }
        self.flush().await?;
        Err(Error::history_lost(format!("{what}, so it can't be applied as it happened record={name}")).hint(
            "everything before it is applied; --allow-gaps goes on with what is known: a comparison behind a gap sets right what it \
             found, and a document of which a change is missing stays as it was, or is left out",
        ))
    }

    /// Does what happened to a whole collection.
    async fn collection(&mut self, record: &Record<'_>, survivors: Option<&Survivors>) -> Result<()> {
        let Some(namespace) = Namespace::of(record) else {
            // Each of its collections has had an event of its own.
            return Ok(());
        };
        match (record.op(), renamed_to(record)) {
            ("create", _) => self.target.create(self.scope.collection(&namespace)).await,
            ("drop", _) => self.end(&namespace, survivors).await,
            ("rename", Some(to)) => self.rename(&namespace, &to, is_from_watched(record), survivors).await,
            _ => Ok(()),
        }
    }

    async fn end(&self, namespace: &Namespace, survivors: Option<&Survivors>) -> Result<()> {
        let collection = self.scope.collection(namespace);
        match survivors.filter(|left| left.are_in(namespace)) {
            None => self.target.drop(collection).await,
            Some(left) => self.target.thin_out(namespace, collection, |id| !left.holds(id)).await,
        }
    }

    async fn rename(
        &mut self,
        from: &Namespace,
        to: &Namespace,
        from_watched: bool,
        survivors: Option<&Survivors>,
    ) -> Result<()> {
        let (has_from, has_to) = (self.scope.covers(from) && from_watched, self.scope.covers(to));
        if has_to && from_watched && !has_from {
            return Err(Error::invalid(format!(
                "another collection of the history takes the name {to}, and its documents are not replayed"
            ))
            .hint("replay into a database, --output mongodb://…/db, so that all collections of the source are there"));
        }
        match (has_from, has_to) {
            (true, true) => {}
            // They leave the history.
            (true, false) => return self.end(from, survivors).await,
            // A comparison tells of those that come.
            (false, true) => return self.end(to, survivors).await,
            (false, false) => return Ok(()),
        }
        let left = survivors.filter(|left| left.are_in(from) || left.are_in(to));
        let begun = self.state.renaming;
        if left.is_some() && !begun {
            self.end(to, left).await?;
        }
        // It can't be made twice: that it is begun is noted, so that what is not there any more is known to have been moved.
        self.state.renaming = true;
        self.save().await?;
        let name = |namespace| self.scope.collection(namespace);
        match left {
            Some(left) => self.target.move_all_but(left, (from, name(from)), (to, name(to))).await?,
            None => {
                if !self.target.rename(name(from), name(to)).await? && !begun {
                    self.target.drop(name(to)).await?;
                }
            }
        }
        fail_point!("replay:renamed");
        self.state.renaming = false;
        Ok(())
    }

    /// Makes the state durable, where one is kept.
    pub(super) async fn save(&self) -> Result<()> {
        match &self.file {
            Some(file) => file.save(&self.state).await,
            None => Ok(()),
        }
    }

    /// Applies what has been taken in, but for an open transaction: until that is applied, nothing behind it is done with.
    async fn flush(&mut self) -> Result<()> {
        self.bytes = 0;
        while !self.ops.is_empty() {
            let (bases, count) = self.read_bases(&self.ops, &Bases::new()).await?;
            let rest = self.ops.split_off(count);
            let ops = std::mem::replace(&mut self.ops, rest);
            let writes = self.resolve(&ops, bases).await?;
            write_all(&self.target, writes, self.manner.parallel).await?;
            fail_point!("replay:applied");
            if self.unit.is_none() && self.uncertain.is_empty() && !self.ops.is_empty() {
                self.advance(ops.into_iter().map(|op| (op.stream, op.place))).await?;
            }
        }
        if self.unit.is_none() && !self.places.is_empty() && self.is_certain() {
            let places = std::mem::take(&mut self.places);
            self.advance(places).await?;
        }
        Ok(())
    }

    /// Whether everything has come once more that an earlier run may have done.
    fn is_certain(&mut self) -> bool {
        let has_come = |(stream, end): (&String, &i64)| {
            let next =
                self.places.iter().find(|(id, _)| id.to_string() == *stream).map(|(_, place)| place.next);
            next.or(self.state.next(stream)).is_some_and(|next| next >= *end)
        };
        if self.until.iter().all(has_come) {
            self.uncertain.clear();
        }
        self.uncertain.is_empty()
    }

    /// How far the streams are once everything is applied that was taken in, and what an earlier run did.
    fn ends(&self) -> Ends {
        let mut ends = self.until.clone();
        for (stream, place) in self.places.iter().chain(self.unit.iter().flat_map(|unit| &unit.places)) {
            let end = ends.entry(stream.to_string()).or_insert(place.next);
            *end = place.next.max(*end);
        }
        ends
    }

    /// Applies a transaction that is complete, however large it is.
    async fn close_unit(&mut self) -> Result<()> {
        self.flush().await?;
        let Some(unit) = self.unit.take() else { return Ok(()) };
        self.places.extend(unit.places);
        let mut bases = Bases::new();
        loop {
            let (more, count) = self.read_bases(&unit.ops, &bases).await?;
            bases.extend(more);
            if count == unit.ops.len() {
                break;
            }
        }
        let writes = self.resolve(&unit.ops, bases).await?;
        self.target.write_at_once(&writes).await?;
        fail_point!("replay:transaction");
        self.flush().await
    }

    /// Saves how far the streams are.
    async fn advance(&mut self, places: impl IntoIterator<Item = (StreamId, Place)>) -> Result<()> {
        for (stream, place) in places {
            self.state.set(&stream, &place);
        }
        self.save().await?;
        self.bases.clear();
        self.until.clear();
        Ok(())
    }

    /// Reads the documents to which the first changes are to be applied, and says how many changes these are; not those that are known.
    async fn read_bases(&self, ops: &[Op], known: &Bases) -> Result<(Bases, usize)> {
        let mut seen: HashSet<&Identity> = HashSet::new();
        let mut wanted: BTreeMap<&str, Vec<&Identity>> = BTreeMap::new();
        for op in ops {
            let is_first = seen.insert(&op.identity);
            let is_known = known.contains_key(&op.identity) || self.uncertain.contains_key(&op.identity);
            if is_first && !is_known && matches!(op.what, What::Delta { .. }) {
                wanted.entry(&op.collection).or_default().push(&op.identity);
            }
        }
        let (mut bases, mut bytes) = (Bases::new(), 0);
        let mut unread: HashSet<&Identity> = HashSet::new();
        for (collection, identities) in wanted {
            for asked in identities.chunks(BASES_ASKED) {
                if bytes > BASE_BYTES {
                    unread.extend(asked);
                    continue;
                }
                let (found, is_all) = self.target.read(collection, asked, BASE_BYTES - bytes).await?;
                bytes += found.iter().map(|(_, document)| document.len()).sum::<usize>();
                for (identity, document) in found {
                    bases.insert(identity, Some(document));
                }
                let missing = asked.iter().filter(|identity| !bases.contains_key(identity)).copied();
                let missing: Vec<&Identity> = missing.collect();
                match is_all {
                    true => bases.extend(missing.into_iter().map(|identity| (identity.clone(), None))),
                    false => unread.extend(missing),
                }
            }
        }
        let first = ops.iter().position(|op| unread.contains(&op.identity)).unwrap_or(ops.len());
        if first > 0 || ops.is_empty() {
            return Ok((bases, first));
        }
        // Others came first, and there was room for no more.
        let (found, _) = self.target.read(&ops[0].collection, &[&ops[0].identity], 0).await?;
        let base = found.into_iter().next().map(|(_, document)| document);
        Ok((Bases::from([(ops[0].identity.clone(), base)]), 1))
    }

    /// What each document is after each change; what they were before is saved.
    async fn resolve(&mut self, ops: &[Op], bases: Bases) -> Result<Vec<Write>> {
        let mut now: HashMap<&Identity, Option<Bytes>> = HashMap::new();
        let mut writes = Vec::with_capacity(ops.len());
        for op in ops {
            let (after, is_new) = match &op.what {
                What::Put { document, is_new } => (Some(document.clone()), *is_new),
                What::Remove => (None, false),
                What::Delta { delta, contents } => {
                    let before = now.get(&op.identity).or_else(|| self.uncertain.get(&op.identity));
                    let Some(before) = before.or_else(|| bases.get(&op.identity)).cloned().flatten() else {
                        self.counted.unknown += 1;
                        continue;
                    };
                    let delta = Doc::new(delta)
                        .map_err(|e| Error::corrupt("a record's delta is not valid").because(e))?;
                    match apply(&before, delta, *contents) {
                        Ok(after) => (Some(Bytes::from(after)), false),
                        Err(why) => (self.unapplied(op, why)?, false),
                    }
                }
            };
            now.insert(&op.identity, after.clone());
            writes.push(Write {
                collection: op.collection.clone(),
                identity: op.identity.clone(),
                after,
                is_new,
            });
        }
        if let Some(file) = &self.file {
            let known = ops.iter().filter_map(|op| self.uncertain.remove_entry(&op.identity));
            for (identity, base) in bases.into_iter().chain(known.collect::<Vec<_>>()) {
                self.bases.entry(identity).or_insert(base);
            }
            let mut saved = self.bases.clone();
            saved.extend(self.uncertain.iter().map(|(identity, base)| (identity.clone(), base.clone())));
            file.save_bases(&self.state, &self.ends(), &saved).await?;
        }
        Ok(writes)
    }

    /// What becomes of a document of which can't be told what it is: it is left out, where that is allowed.
    fn unapplied(&mut self, op: &Op, why: crate::history::document::Unapplied) -> Result<Option<Bytes>> {
        self.counted.gaps += 1;
        if self.manner.allow_gaps {
            return Ok(None);
        }
        Err(Error::history_lost(format!("history can't tell what a document became: {why} record={}", op.name)).hint(
            "images before and after changes would have told; --allow-gaps goes on and leaves the document out until a record has it whole",
        ))
    }
}
