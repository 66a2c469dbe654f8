//! Entries of `watch`: which namespaces a source may name.

use std::fmt;

use super::Watch;

/// MongoDB's own databases, whose changes are no application's.
const INTERNAL: [&str; 3] = ["admin", "local", "config"];

/// What an entry looks like.
pub(super) const WATCH_FORM: &str = "\"db.collection\", \"db.*\" or \"*\"";

impl Watch {
    /// Reads what [`fmt::Display`] wrote. Not for configurations: it refuses nothing that names something.
    pub fn parse(text: &str) -> Option<Watch> {
        match text.split_once('.') {
            None if text == "*" => Some(Watch::Everything),
            None => None,
            Some((db, "*")) => Some(Watch::Database(db.to_owned())),
            Some((db, coll)) => Some(Watch::Collection(db.to_owned(), coll.to_owned())),
        }
    }

    /// Whether it names this collection.
    pub fn covers(&self, database: &str, collection: &str) -> bool {
        match self {
            Watch::Everything => true,
            Watch::Database(db) => db == database,
            Watch::Collection(db, coll) => db == database && coll == collection,
        }
    }
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Watch::Everything => write!(f, "*"),
            Watch::Database(db) => write!(f, "{db}.*"),
            Watch::Collection(db, coll) => write!(f, "{db}.{coll}"),
        }
    }
}

/// Reads one entry of `watch`; the error says what is wrong with it.
pub(super) fn watch(text: &str, audit_database: &str) -> Result<Watch, String> {
    if text == "*" {
        return Ok(Watch::Everything);
    }
    let Some((db, coll)) = text.split_once('.') else {
        return Err(format!("is no namespace; allowed: {WATCH_FORM}"));
    };
    database(db)?;
    if db.eq_ignore_ascii_case(audit_database) {
        return Err(format!(
            "is inside the audit database {audit_database:?}: the archiver would archive its own writes for ever; \
             choose another database under [audit]"
        ));
    }
    if coll == "*" {
        return Ok(Watch::Database(db.to_owned()));
    }
    collection(coll)?;
    if text.len() > 255 {
        return Err("is longer than the 255 bytes MongoDB allows".to_owned());
    }
    Ok(Watch::Collection(db.to_owned(), coll.to_owned()))
}

/// Checks a database's name; the error says what is wrong with it.
pub(super) fn database(db: &str) -> Result<(), String> {
    if db == "*" {
        return Err(format!("names no database; allowed: {WATCH_FORM}"));
    }
    if db.is_empty() || db.len() > 63 {
        return Err("has a database name that is empty or longer than the 63 bytes MongoDB allows".to_owned());
    }
    if let Some(c) = db.chars().find(|c| "/\\. \"$*<>:|?\0".contains(*c)) {
        return Err(format!("has {c:?} in the database name, which MongoDB does not allow"));
    }
    if INTERNAL.contains(&db) {
        return Err(format!("is inside MongoDB's own database {db:?}, which has no change stream"));
    }
    Ok(())
}

fn collection(coll: &str) -> Result<(), String> {
    if coll.is_empty() || coll.starts_with('.') || coll.ends_with('.') {
        return Err(format!("names no collection; allowed: {WATCH_FORM}"));
    }
    if let Some(c) = coll.chars().find(|c| "$\0".contains(*c)) {
        return Err(format!("has {c:?} in the collection name, which MongoDB does not allow"));
    }
    if coll.contains('*') {
        return Err(format!("has a '*' inside a name; allowed: {WATCH_FORM}"));
    }
    if coll.starts_with("system.") {
        return Err("is one of MongoDB's system collections, which have no change stream".to_owned());
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_may_have_dots_in_its_name() {
        assert_eq!(
            watch("shop.orders.eu", "audit"),
            Ok(Watch::Collection("shop".into(), "orders.eu".into()))
        );
        assert_eq!(watch("shop.*", "audit"), Ok(Watch::Database("shop".into())));
        assert_eq!(watch("*", "audit"), Ok(Watch::Everything));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["shop.orders.eu", "shop.*", "*"] {
            let entry = watch(text, "audit").unwrap();
            assert_eq!(entry.to_string(), text);
            assert_eq!(Watch::parse(text), Some(entry));
        }
        assert_eq!(Watch::parse("shop"), None);
    }

    #[test]
    fn what_has_no_change_stream_or_would_feed_itself_is_refused() {
        for (entry, reason) in [
            ("shop", "is no namespace"),
            ("", "is no namespace"),
            ("shop.", "names no collection"),
            (".orders", "database name that is empty"),
            ("*.orders", "names no database"),
            ("shop.or*", "'*' inside a name"),
            ("shop.system.views", "system collections"),
            ("admin.users", "MongoDB's own database"),
            ("local.*", "MongoDB's own database"),
            ("config.transactions", "MongoDB's own database"),
            ("audit.payments", "inside the audit database"),
            ("Audit.*", "inside the audit database"),
            ("sh op.orders", "' ' in the database name"),
            ("shop.$cmd", "'$' in the collection name"),
        ] {
            let error = watch(entry, "audit").unwrap_err();
            assert!(error.contains(reason), "{entry}: {error}");
        }
    }
}
