//! Compares what history says of one program's documents with the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;

use archiver::Kind as ErrorKind;
use archiver::history::detail::is_whole;
use archiver::history::document::Unapplied;
use archiver::history::id::DocumentId;
use archiver::history::recover::{Answer, Recovered, by_id, deleted_since};
use archiver::history::states::{Known, Reason, State};
use archiver::history::timeline::{Entry, Timeline};
use archiver::history::{History, Namespace};
use archiver::record::Record;
use archiver_tests::Fixture;
use archiver_tests::program::{By, Key, Kind, Program, Version, id_key, id_of};
use bson::{Document, RawDocumentBuf, Timestamp, doc};
use bson_walker::{Doc, Element, Writer, kind};
use plugin_sdk::plugin::Plugin as _;
use redact::Redact;

/// Every how manieth document is asked for by the second, too.
const EACH: usize = 3;
const OWN: [&str; 4] = ["insert", "update", "replace", "delete"];

/// What was compared, and how much of it history can't tell.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    /// States that are the truth.
    pub(super) exact: usize,
    /// States of documents that are not known yet: their changes come before the baseline has read them, or they may have been renamed
    /// before it did.
    pub(super) before_baseline: usize,
    /// States behind a path with several readings.
    pub(super) ambiguous: usize,
    /// Documents given back as of a second.
    pub(super) at_a_second: usize,
    /// Those of them that are not marked as redacted, …
    pub(super) unmarked: usize,
    /// … and those that are, though nothing is missing: what had been redacted went away.
    pub(super) marked_own: usize,
    /// Deleted documents given back.
    pub(super) deleted: usize,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.exact += other.exact;
        self.before_baseline += other.before_baseline;
        self.ambiguous += other.ambiguous;
        self.at_a_second += other.at_a_second;
        self.unmarked += other.unmarked;
        self.marked_own += other.marked_own;
        self.deleted += other.deleted;
    }
}

impl Tally {
    /// What is not marked as redacted is MongoDB's own.
    fn note_mark(&mut self, found: &Recovered, own: &RawDocumentBuf) {
        let is_own = found.document[..] == *own.as_bytes();
        assert!(is_own || found.is_redacted, "not marked: {}", decoded(&found.document));
        self.unmarked += usize::from(!found.is_redacted);
        self.marked_own += usize::from(is_own && found.is_redacted);
    }

    /// Panics where too much of it tells nothing.
    pub(super) fn assert_telling(&self) {
        assert!(self.exact > 500 && self.at_a_second > 50 && self.deleted > 20, "{self:?}");
        assert!(self.before_baseline * 10 < self.exact, "{self:?}");
        assert!(self.ambiguous * 5 < self.exact, "{self:?}");
    }
}

/// What a source's plugin makes of a document: the same rules, run natively.
pub(super) struct Redaction {
    plugin: Option<Redact>,
    /// What the nulls become up to which an update has filled an array, where a rule, or the want of one, hides values of arrays.
    filled: Option<Filled>,
    /// Whether whatever no rule names is removed.
    removes: bool,
}

impl Redaction {
    /// By these rules, as TOML; empty: none.
    pub(super) fn new(rules: &str) -> Redaction {
        // The rules are written so that this makes JSON of them.
        let mut json = rules.to_owned();
        for name in ["rules", "path", "action", "keep_last", "value", "mode", "unnamed"] {
            json = json.replace(&format!("{name} = "), &format!("\"{name}\": "));
        }
        let plugin = (!rules.is_empty()).then(|| Redact::configure(&json).expect("rules"));
        let filled = match (
            rules.contains("\"mask\""),
            rules.contains("path = \"c.*\", action = \"replace\", value = 7"),
        ) {
            (true, _) => Some((kind::STRING, &b"\x04\0\0\0***\0"[..])),
            (_, true) => Some((kind::INT32, &b"\x07\0\0\0"[..])),
            _ => None,
        };
        let removes = rules.contains("mode = \"allow\"") && !rules.contains("unnamed = \"mask\"");
        Redaction { plugin, filled, removes }
    }

    fn is_none(&self) -> bool {
        self.plugin.is_none()
    }

    /// Whether what was found is what it makes of the truth.
    fn is_of(&self, found: &[u8], truth: &RawDocumentBuf) -> bool {
        self.is_same(found, &self.of(truth))
    }

    /// Whether two are the same, as far as deltas tell.
    fn is_same(&self, found: &[u8], truth: &[u8]) -> bool {
        let blurred = |bytes| blurred(bytes, self.filled, self.removes);
        found == truth || (self.filled.is_some() || self.removes) && blurred(found) == blurred(truth)
    }

    fn of(&self, document: &RawDocumentBuf) -> Vec<u8> {
        let Some(redact) = &self.plugin else { return document.as_bytes().to_vec() };
        let mut event = RawDocumentBuf::new();
        event.append(bson::raw::cstr!("op"), "insert");
        event.append(bson::raw::cstr!("ns"), bson::rawdoc! {"db": "d", "coll": "c"});
        let mut key = RawDocumentBuf::new();
        key.append(bson::raw::cstr!("_id"), bson::RawBson::from(document.get("_id").unwrap().unwrap()));
        event.append(bson::raw::cstr!("key"), key);
        event.append(bson::raw::cstr!("clusterTime"), Timestamp { time: 1, increment: 1 });
        event.append(bson::raw::cstr!("after"), document.clone());
        let outcome = plugin_sdk::testing::run(redact, event.as_bytes()).expect("no rule fails");
        let bytes = outcome.into_bytes(event.as_bytes()).expect("nothing is dropped");
        Doc::new(&bytes).unwrap().get("after").unwrap().as_doc().unwrap().as_bytes().to_vec()
    }
}

/// One document of a program in one source.
struct Case<'a> {
    source: &'a str,
    program: &'a Program,
    redaction: &'a Redaction,
    key: &'a Key,
    versions: &'a [Version],
    /// When the capture of the last partition began.
    began: Timestamp,
}

/// Where in a document's history something is compared.
struct Place<'a> {
    entries: &'a [Entry],
    record: &'a Record<'a>,
    /// Whether a record before it, or it, tells what the document was.
    has_begun: bool,
}

/// Compares everything that this source has of a program's documents.
pub(super) async fn all(history: &History, source: &str, program: &Program, redaction: &Redaction) -> Tally {
    let wide = history.wide(source).await.unwrap();
    // Each partition begins with its policy record.
    let policies =
        wide.iter().map(|bytes| Record::new(bytes).unwrap()).filter(|record| record.op() == "policy");
    let began = policies.map(|record| record.cluster_time().unwrap()).max().unwrap();
    let mut tally = Tally::default();
    let mut gone = BTreeMap::new();
    for (key, versions) in &program.versions {
        if !redaction.is_none() && key.0 != Kind::Plain {
            continue;
        }
        let case = Case { source, program, redaction, key, versions, began };
        let is_known = case.timeline(history, &mut tally).await;
        if is_known {
            gone.extend(case.gone().map(|document| (key.clone(), document)));
        }
    }
    deleted(history, source, program, redaction, gone, &mut tally).await;
    tally
}

impl Case<'_> {
    fn namespace(&self) -> Namespace {
        Namespace { db: self.program.db().to_owned(), coll: self.program.collection(self.key.0) }
    }

    fn id(&self) -> DocumentId {
        DocumentId::of(&Doc::new(&self.key.1).unwrap().get("_id").unwrap())
    }

    /// The truth at a time.
    fn as_of(&self, is_then: impl Fn(Timestamp) -> bool) -> Option<&RawDocumentBuf> {
        self.versions.iter().rfind(|version| is_then(version.time))?.document.as_ref()
    }

    /// Whether everything is known of it; compares what is told of it.
    async fn timeline(&self, history: &History, tally: &mut Tally) -> bool {
        let (id, namespace) = (self.id(), self.namespace());
        let timeline = match history.timeline(self.source, &id, Some(&namespace)).await {
            Ok(timeline) => timeline,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // What went away with its collection before the baseline read it has none.
                let is_old = |version: &Version| version.time <= self.began || version.by != By::Itself;
                assert!(self.versions.iter().all(is_old), "no record\n{}", self.told(&[]));
                let last = self.versions.last().unwrap();
                assert!(last.document.is_none(), "not in the baseline\n{}", self.told(&[]));
                return false;
            }
            Err(error) => panic!("{error:?}\n{}", self.told(&[])),
        };
        let is_exact = self.entries(&timeline, tally);
        if self.program.seed() as usize % EACH == (self.key.1.len() + self.source.len()) % EACH {
            self.seconds(history, &timeline, is_exact, tally).await;
        }
        is_exact
    }

    fn entries(&self, timeline: &Timeline, tally: &mut Tally) -> bool {
        let entries = &timeline.entries;
        let own: Vec<&Version> = self.versions.iter().filter(|version| version.by == By::Itself).collect();
        let records = |entry: &&Entry| OWN.contains(&Record::new(&entry.record).unwrap().op());
        let Some(missing) = own.len().checked_sub(entries.iter().filter(records).count()) else {
            panic!("more records than changes\n{}", self.told(entries));
        };
        let early = |version: &&Version| version.time <= self.began;
        assert!(own[..missing].iter().all(early), "changes have no record\n{}", self.told(entries));
        let mut own = own[missing..].iter();
        let (mut has_begun, mut is_exact) = (false, true);
        for entry in entries {
            let record = Record::new(&entry.record).unwrap();
            let time = record.cluster_time().unwrap();
            let (before, after) = match OWN.contains(&record.op()) {
                true => {
                    let version = own.next().unwrap();
                    assert_eq!(version.time, time, "another change\n{}", self.told(entries));
                    let at = self.versions.iter().position(|other| std::ptr::eq(*version, other)).unwrap();
                    (
                        at.checked_sub(1).and_then(|at| self.versions[at].document.as_ref()),
                        version.document.as_ref(),
                    )
                }
                false if record.op() == "snapshot" => (None, self.as_of(|then| then <= time)),
                false => (self.as_of(|then| then < time), self.as_of(|then| then <= time)),
            };
            if record.op() != "snapshot" {
                let place = Place { entries, record: &record, has_begun };
                is_exact &= self.check("before", &entry.before, before, &place, tally);
            }
            // A rename can bring what no baseline has read yet.
            has_begun &= record.op() != "rename";
            has_begun |= ["insert", "replace", "snapshot", "delete"].contains(&record.op());
            let place = Place { entries, record: &record, has_begun };
            is_exact &= self.check("after", &entry.after, after, &place, tally);
        }
        is_exact
    }

    #[track_caller]
    fn check(
        &self,
        side: &str,
        known: &Known,
        truth: Option<&RawDocumentBuf>,
        at: &Place<'_>,
        tally: &mut Tally,
    ) -> bool {
        let wrong = |what: &str| -> ! {
            let truth = truth.map(|t| decoded(&self.redaction.of(t)));
            let found = match &known.state {
                State::Present(bytes) => decoded(bytes).to_string(),
                other => format!("{other:?}"),
            };
            let (op, seq) = (at.record.op(), at.record.record_id().unwrap());
            let (found, truth) = (short(&found), short(&format!("{truth:?}")));
            panic!("{what} {side} {op} seq={seq}\nfound {found}\ntruth {truth}\n{}", self.told(at.entries))
        };
        match (&known.state, truth) {
            (State::Present(found), Some(truth)) if self.redaction.is_of(found, truth) => tally.exact += 1,
            (State::Absent, None) => tally.exact += 1,
            (State::Unknown(Reason::BeforeBaseline), _) | (State::Absent, Some(_))
                if self.is_unread(known, at) =>
            {
                tally.before_baseline += 1;
                return false;
            }
            (State::Unknown(Reason::Renamed(rename)), _)
                if self.is_unread_under_another_name(*rename, at) =>
            {
                tally.before_baseline += 1;
                return false;
            }
            (State::Unknown(Reason::Delta(_, Unapplied::Ambiguous)), _) if self.may_be_ambiguous() => {
                tally.ambiguous += 1;
                return false;
            }
            (State::Unknown(_), _) => wrong("not told"),
            _ => wrong("not the truth"),
        }
        true
    }

    /// Whether it is one that no baseline had read; nor, where it is not known at all, ever will.
    fn is_unread(&self, known: &Known, at: &Place<'_>) -> bool {
        let came = self.key.0 == Kind::Moved && at.record.op() == "rename";
        !at.has_begun && (came || known.state != State::Absent)
    }

    /// Whether a document may have come with this rename that no baseline had read: the rename does not say that all had been.
    fn is_unread_under_another_name(&self, rename: i64, at: &Place<'_>) -> bool {
        let is_whole = |entry: &Entry| {
            let record = Record::new(&entry.record).unwrap();
            record.op() == "rename" && record.seq().unwrap() == rename && is_whole(&record)
        };
        self.key.0 == Kind::Moved && !at.entries.iter().any(is_whole)
    }

    fn may_be_ambiguous(&self) -> bool {
        self.key.0 == Kind::Dotted || !self.redaction.is_none()
    }

    /// Compares what is given back as of every second.
    async fn seconds(&self, history: &History, timeline: &Timeline, is_exact: bool, tally: &mut Tally) {
        let (id, namespace) = (self.id(), self.namespace());
        for at in self.asked() {
            let own = self.as_of(|then| i64::from(then.time) < at);
            let truth = own.map(|own| (own, self.redaction.of(own)));
            let found = by_id(history, self.source, &id, Some(at), Some(&namespace)).await;
            match (found, truth) {
                (Ok((found, _)), Some((own, truth))) if self.redaction.is_same(&found.document, &truth) => {
                    tally.note_mark(&found, own);
                    tally.at_a_second += 1;
                }
                (Err(error), None) if error.to_string().contains("did not exist") => tally.at_a_second += 1,
                (Err(error), _)
                    if error.to_string().contains("can't tell")
                        && (!is_exact || at <= self.first_told(timeline)) => {}
                // It came with a renamed collection and ended, and no record tells of it.
                (Err(_), Some(_)) if !is_exact && self.key.0 == Kind::Moved => {}
                (found, truth) => {
                    let found = found.map(|(found, _)| decoded(&found.document));
                    let truth = truth.map(|(_, truth)| decoded(&truth));
                    panic!("at {at}\nfound {found:?}\ntruth {truth:?}\n{}", self.told(&timeline.entries))
                }
            }
        }
    }

    /// Around its changes, and around the beginning of the capture.
    fn asked(&self) -> BTreeSet<i64> {
        let changes = self.versions.iter().map(|version| version.time).filter(|time| *time > self.began);
        let seconds = changes.chain([self.began]).map(|time| i64::from(time.time));
        seconds.flat_map(|second| [second, second + 1]).collect()
    }

    /// Up to which second nothing is known.
    fn first_told(&self, timeline: &Timeline) -> i64 {
        let first = Record::new(&timeline.entries[0].record).unwrap();
        // What was there before the collection's name went to another one may not have been read.
        let may_turn = matches!(self.key.0, Kind::Numbers | Kind::Moved);
        let time =
            if may_turn || first.op() == "snapshot" { first.cluster_time().unwrap() } else { self.began };
        i64::from(time.time)
    }

    /// The document that `recover --deleted-since` must give back, if it is deleted.
    fn gone(&self) -> Option<Vec<u8>> {
        let last = self.versions.last()?;
        let is_gone = last.document.is_none() && last.by != By::Rename && last.time > self.began;
        let before = self.versions.iter().rev().find_map(|version| version.document.as_ref());
        before.filter(|_| is_gone).map(|document| self.redaction.of(document))
    }

    fn told(&self, entries: &[Entry]) -> String {
        let mut text = format!(
            "source {} collection {} {} ARCHIVER_TEST_SEED of the program {}\n",
            self.source,
            self.program.collection(self.key.0),
            short(&decoded(&self.key.1).to_string()),
            self.program.seed()
        );
        for version in self.versions {
            let document = version.document.as_ref().map(|d| decoded(d.as_bytes()));
            text += &format!("truth {} {:?} {}\n", version.time, version.by, short(&format!("{document:?}")));
        }
        for entry in entries {
            let after = match &entry.after.state {
                State::Present(bytes) => decoded(bytes).to_string(),
                other => format!("{other:?}"),
            };
            text += &format!(
                "record {}\n    after {}\n",
                short(&decoded(&entry.record).to_string()),
                short(&after)
            );
        }
        text
    }
}

/// A BSON type and value.
type Filled = (u8, &'static [u8]);

/// Without what no delta tells where something is hidden: the nulls up to which an update has filled an array, where values of arrays are
/// masked or replaced; and where an allow list removes the rest, the order of fields, and whether a null under a number's name is one, or a removed field that
/// was taken for an element.
fn blurred(document: &[u8], filled: Option<Filled>, removes: bool) -> Vec<u8> {
    fn write(from: Doc<'_>, is_array: bool, how: (Option<Filled>, bool), to: &mut Writer<'_>) {
        let mut elements: Vec<Element<'_>> = from.elements().map(Result::unwrap).collect();
        let (filled, removes) = how;
        if removes && !is_array {
            elements.retain(|e| e.kind() != kind::NULL || !e.name().iter().all(u8::is_ascii_digit));
            elements.sort_by_key(Element::name);
        }
        for element in elements {
            match (element.as_doc(), filled) {
                (_, Some((kind, value))) if element.kind() == kind::NULL => {
                    to.raw(kind, element.name(), value)
                }
                (Some(inner), _) if element.kind() == kind::ARRAY => {
                    let mut array = to.begin_array(element.name());
                    write(inner, true, how, &mut array);
                    array.end();
                }
                (Some(inner), _) => {
                    let mut document = to.begin_doc(element.name());
                    write(inner, false, how, &mut document);
                    document.end();
                }
                (None, _) => to.append(&element),
            }
        }
    }
    Writer::build(|to| write(Doc::new(document).unwrap(), false, (filled, removes), to))
}

fn short(text: &str) -> String {
    let mut text = text.to_owned();
    for long in ["p", "l", "6c", "long ", "x"] {
        text = text.replace(&long.repeat(16), "…");
    }
    while text.contains("……") {
        text = text.replace("……", "…");
    }
    text.chars().take(2_000).collect()
}

fn decoded(bytes: &[u8]) -> Document {
    let raw = |_| doc! {"undecodable": format!("{:?}", RawDocumentBuf::from_bytes(bytes.to_vec()))};
    bson::deserialize_from_slice(bytes).unwrap_or_else(raw)
}

/// Compares what the command gives back of some documents as they are in the end, and returns of how many.
pub(super) async fn by_command(fixture: &Fixture, source: &str, program: &Program) -> usize {
    let is_told = |key: &Key| key.0 != Kind::Dotted;
    let present = program.versions.iter().filter(|(key, _)| is_told(key));
    let present = present.filter_map(|(key, versions)| Some((key, versions.last()?.document.as_ref()?)));
    let end = program.versions.values().flatten().map(|version| i64::from(version.time.time)).max().unwrap();
    let mut compared = 0;
    for (key, document) in present.step_by(5) {
        let mut id = String::new();
        let of = bson::serialize_to_vec(&doc! {"_id": id_of(document)}).unwrap();
        let _ = archiver::archive::extjson::to_canonical(Doc::new(&of).unwrap(), &mut id);
        let id = id.trim_start_matches("{\"_id\":").strip_suffix('}').unwrap();
        let at = bson::DateTime::from_millis((end + 1) * 1_000).try_to_rfc3339_string().unwrap();
        let namespace = format!("{}.{}", program.db(), program.collection(key.0));
        let command = ["recover", "--source", source, "--namespace", &namespace, "--id", id, "--at", &at];
        let found = fixture.archiver.run_for_bytes(&[&command[..], &["--format", "bson"]].concat()).await;
        let (told, truth) = (decoded(&found), decoded(document.as_bytes()));
        assert!(
            found == document.as_bytes(),
            "{command:?}\nfound {told}\ntruth {truth}\nseed {}",
            program.seed()
        );
        compared += 1;
    }
    compared
}

/// Compares what is given back of everything that was deleted.
async fn deleted(
    history: &History,
    source: &str,
    program: &Program,
    redaction: &Redaction,
    gone: BTreeMap<Key, Vec<u8>>,
    tally: &mut Tally,
) {
    let mut found: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
    let take = async |answer: Answer| {
        let Ok(recovered) = answer else { return Ok(()) };
        let Some(kind) = program.kind(&recovered.namespace.coll) else { return Ok(()) };
        let document = RawDocumentBuf::from_bytes(recovered.document.to_vec()).unwrap();
        let key = (kind, id_key(&id_of(&document)));
        assert!(
            found.insert(key, recovered.document.to_vec()).is_none(),
            "{recovered:?} is given back twice"
        );
        Ok(())
    };
    deleted_since(history, source, 0, None, take).await.unwrap();
    for (key, document) in &gone {
        let given = found.get(key).map(|bytes| decoded(bytes));
        let what = format!("{source} {:?} {} seed {}", key.0, decoded(&key.1), program.seed());
        let is_it = found.get(key).is_some_and(|found| redaction.is_same(found, document));
        assert!(is_it, "{what}\nfound {given:?}\ntruth {}", decoded(document));
        tally.deleted += 1;
    }
    for (key, document) in found.iter().filter(|(key, _)| redaction.is_none() || key.0 == Kind::Plain) {
        let versions = &program.versions[key];
        let last = versions.iter().rev().find_map(|version| version.document.as_ref()).unwrap();
        assert!(redaction.is_of(document, last), "given back, {source} {key:?}");
        assert!(versions.last().unwrap().document.is_none(), "not deleted, {source} {key:?}");
    }
}
