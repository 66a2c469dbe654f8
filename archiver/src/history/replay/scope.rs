//! Which collections of the history are applied, and into which of the target.

use super::range::concerns;
use crate::config::{Config, Watch};
use crate::error::{Error, Result};
use crate::history::Namespace;
use crate::record::Record;

/// Which collections are applied where.
#[derive(Debug)]
pub(super) struct Scope {
    /// The only one; `None`: all that are watched, in one database.
    namespace: Option<Namespace>,
    watch: Vec<Watch>,
    /// The one database, where all its collections are applied.
    database: Option<String>,
    /// Into this one; `None`: into that of the same name.
    into: Option<String>,
}

impl Scope {
    /// Fails as invalid where documents of several collections would meet in one.
    pub(super) fn new(
        config: &Config,
        sources: &[String],
        namespace: Option<Namespace>,
        into: Option<String>,
    ) -> Result<Scope> {
        let watch_of = |name: &String| config.source(name).map(|source| source.watch.clone());
        let lists: Vec<Vec<Watch>> = match namespace {
            // Of a source that is not configured any more, too.
            Some(_) => sources.iter().map(|name| watch_of(name).unwrap_or_default()).collect(),
            None => sources.iter().map(watch_of).collect::<Result<_>>()?,
        };
        for (n, list) in lists.iter().enumerate() {
            let others = lists.iter().skip(n + 1).flatten();
            if list.iter().any(|one| others.clone().any(|other| meet(one, other))) {
                return Err(Error::invalid(
                    "two of the sources watch the same collection, whose changes would be applied twice",
                )
                .hint("replay one of them"));
            }
        }
        let watch: Vec<Watch> = lists.into_iter().flatten().collect();
        let namespace = match (namespace, &into, &watch[..]) {
            (Some(namespace), ..) => Some(namespace),
            (None, Some(_), [Watch::Collection(db, coll)]) => {
                Some(Namespace { db: db.clone(), coll: coll.clone() })
            }
            (None, Some(_), _) => {
                return Err(Error::invalid("the source has several collections, and --output is one").hint(
                    "say which with --namespace, or write them all into a database: --output mongodb://…/db",
                ));
            }
            (None, None, _) => None,
        };
        let databases = watch.iter().map(|watch| match watch {
            Watch::Everything => None,
            Watch::Database(db) | Watch::Collection(db, _) => Some(db),
        });
        let databases: std::collections::BTreeSet<_> = databases.map(|db| db.cloned()).collect();
        if namespace.is_none() && (databases.len() > 1 || databases.contains(&None)) {
            return Err(Error::invalid("the source has several databases, and --output is one")
                .hint("replay one collection, with --namespace"));
        }
        let database = databases.into_iter().flatten().next().filter(|_| namespace.is_none());
        Ok(Scope { namespace, watch, database, into })
    }

    /// Whether a record is about what is applied.
    pub(super) fn concerns(&self, record: &Record<'_>) -> bool {
        concerns(record, self.namespace.as_ref())
    }

    /// Fails as invalid where a record is of another database, of which the source once watched a part: its collections may have the
    /// same names.
    pub(super) fn require_its_database(&self, record: &Record<'_>, name: &str) -> Result<()> {
        match (&self.database, record.db()) {
            (Some(only), Some(db)) if db != only => Err(Error::invalid(format!(
                "the source has watched another database before, and --output is one record={name} database={db} \
                 now={only}"
            ))
            .hint("replay one collection, with --namespace")),
            _ => Ok(()),
        }
    }

    /// Whether a collection's documents are applied.
    pub(super) fn covers(&self, namespace: &Namespace) -> bool {
        match &self.namespace {
            Some(only) => only == namespace,
            None => self.watch.iter().any(|watch| watch.covers(&namespace.db, &namespace.coll)),
        }
    }

    /// The collection that one's documents go into.
    pub(super) fn collection<'a>(&'a self, namespace: &'a Namespace) -> &'a str {
        self.into.as_deref().unwrap_or(&namespace.coll)
    }
}

/// Whether a collection can be in both.
fn meet(one: &Watch, other: &Watch) -> bool {
    match (one, other) {
        (Watch::Everything, _) | (_, Watch::Everything) => true,
        (Watch::Collection(db, coll), watch) | (watch, Watch::Collection(db, coll)) => watch.covers(db, coll),
        (Watch::Database(one), Watch::Database(other)) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_meet_where_a_collection_is_in_both() {
        let watch = |text| Watch::parse(text).unwrap();
        for (one, other, expected) in [
            ("*", "a.b", true),
            ("a.*", "a.b", true),
            ("a.b", "a.b", true),
            ("a.*", "b.*", false),
            ("a.b", "a.c", false),
        ] {
            assert_eq!(meet(&watch(one), &watch(other)), expected, "{one} {other}");
            assert_eq!(meet(&watch(other), &watch(one)), expected, "{other} {one}");
        }
    }
}
