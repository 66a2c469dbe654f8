//! What every error of MongoDB or its driver means for whoever reads a change stream: whether to try again, to give up
//! the position, to step over one event, or to call somebody. The one place that decides it.

use mongodb::error::{Error as MongoError, ErrorKind, WriteFailure};

use crate::error::Kind;

/// What an error of MongoDB means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It may pass: start over from the checkpoint, with backoff and jitter.
    Passing,
    /// The events behind the position are gone. It never comes back: go on behind a recorded gap, or stop.
    PositionLost,
    /// The position's token is not one of this deployment, or not of its oplog. Only a human can know what is right.
    TokenInvalid,
    /// The next event can't be delivered as it is; those behind it can.
    PoisonousEvent,
    /// It does not pass by itself, but goes on once somebody has corrected the account, the address or the server.
    NeedsHuman,
}

impl Fault {
    /// The kind of our error, and with it the exit code.
    pub fn kind(self) -> Kind {
        match self {
            Fault::Passing | Fault::NeedsHuman => Kind::Unavailable,
            Fault::PositionLost | Fault::TokenInvalid | Fault::PoisonousEvent => Kind::HistoryLost,
        }
    }
}

const NOT_A_REPLICA_SET: &str =
    "change streams need a replica set: start mongod with --replSet rs0 and run rs.initiate() once";
const OPLOG_TOO_SHORT: &str =
    "the oplog no longer holds the events after the checkpoint; enlarge the oplog, and see docs/operating.md";
const TOO_LARGE: &str =
    "MongoDB can't deliver the next event, not even without its contents; docs/guarantees.md";
const FOREIGN_TOKEN: &str =
    "the stored position is not one of this deployment; check [mongodb] uri, and see docs/operating.md";
const TOO_OLD: &str =
    "the server does not know a stage or an option that change streams need; MongoDB 6.0 or newer is needed";

/// The errors that mean something of their own: code, name, meaning, and what the operator is told. All others pass.
#[rustfmt::skip]
const TABLE: [(i32, &str, Fault, &str); 16] = [
    // Opening or reading: the oplog has rolled on.
    (286,   "ChangeStreamHistoryLost",  Fault::PositionLost,   OPLOG_TOO_SHORT),
    // Reading: the server gives this stream up. Opening: the oplog reaches back to the token and does not hold its event, because
    // the deployment was restored, or is another one.
    (280,   "ChangeStreamFatalError",   Fault::PositionLost,   "MongoDB has given this change stream up for good; where it was only opened, the deployment was restored or is another one; see docs/operating.md"),
    (464,   "ShardRemovedError",        Fault::PositionLost,   "a shard was removed, and its events after the checkpoint with it; see docs/operating.md"),
    // Opening only.
    (260,   "InvalidResumeToken",       Fault::TokenInvalid,   FOREIGN_TOKEN),
    (50811, "KeyString",                Fault::TokenInvalid,   FOREIGN_TOKEN),
    // Reading: one event.
    (10334, "BSONObjectTooLarge",       Fault::PoisonousEvent, TOO_LARGE),
    (13548, "BufBuilder",               Fault::PoisonousEvent, TOO_LARGE),
    (47,    "NoMatchingDocument",       Fault::PoisonousEvent, "an image that the change stream requires is missing"),
    // The account.
    (13,    "Unauthorized",             Fault::NeedsHuman,     "the account lacks a privilege; `archiver check` names it, deploy/mongodb-roles.js grants it"),
    (18,    "AuthenticationFailed",     Fault::NeedsHuman,     "check the user, password and authSource in the MongoDB URI"),
    (11,    "UserNotFound",             Fault::NeedsHuman,     "check the user, password and authSource in the MongoDB URI"),
    // The server.
    (40573, "Location40573",            Fault::NeedsHuman,     NOT_A_REPLICA_SET),
    (76,    "NoReplicationEnabled",     Fault::NeedsHuman,     NOT_A_REPLICA_SET),
    (20,    "IllegalOperation",         Fault::NeedsHuman,     NOT_A_REPLICA_SET),
    (40415, "Location40415",            Fault::NeedsHuman,     TOO_OLD),
    (40324, "Location40324",            Fault::NeedsHuman,     TOO_OLD),
];

/// An error's meaning, with the kind of our error and what to tell the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meaning {
    pub(crate) fault: Fault,
    pub(crate) kind: Kind,
    pub(crate) hint: Option<&'static str>,
}

/// What an error means: by its code, or by what the driver says of it.
pub(crate) fn meaning(error: &MongoError) -> Meaning {
    if let Some(known) = code(error).and_then(meaning_of_code) {
        return known;
    }
    let (fault, kind, hint) = match error.kind.as_ref() {
        ErrorKind::Authentication { .. } => (
            Fault::NeedsHuman,
            Kind::Unavailable,
            Some("check the user, password and authSource in the MongoDB URI"),
        ),
        ErrorKind::ServerSelection { .. } | ErrorKind::Io(_) | ErrorKind::DnsResolve { .. } => (
            Fault::Passing,
            Kind::Unavailable,
            Some("check that the server runs and that host, port and replicaSet in the URI are right"),
        ),
        ErrorKind::InvalidArgument { .. } | ErrorKind::InvalidTlsConfig { .. } => {
            (Fault::NeedsHuman, Kind::Invalid, None)
        }
        ErrorKind::Bson(_) | ErrorKind::Internal { .. } => (Fault::Passing, Kind::Internal, None),
        // Elections, cut connections, overload, and what nobody has met yet.
        _ => (Fault::Passing, Kind::Unavailable, None),
    };
    Meaning { fault, kind, hint }
}

fn meaning_of_code(code: i32) -> Option<Meaning> {
    let (_, _, fault, hint) = TABLE.iter().find(|(listed, ..)| *listed == code)?;
    Some(Meaning { fault: *fault, kind: fault.kind(), hint: Some(hint) })
}

/// The server's error code, where there is one.
pub fn code(error: &MongoError) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(e) => Some(e.code),
        ErrorKind::Write(WriteFailure::WriteError(e)) => Some(e.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(e)) => Some(e.code),
        ErrorKind::InsertMany(e) => e.write_errors.as_ref().and_then(|w| w.first()).map(|w| w.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(code: i32) -> Option<Fault> {
        meaning_of_code(code).map(|m| m.fault)
    }

    #[test]
    fn lost_invalid_and_poisonous_are_told_apart() {
        for (codes, expected) in [
            (vec![286, 280, 464], Fault::PositionLost),
            (vec![260, 50811], Fault::TokenInvalid),
            (vec![10334, 13548, 47], Fault::PoisonousEvent),
            (vec![13, 18, 11, 40573, 76, 20, 40324, 40415], Fault::NeedsHuman),
        ] {
            for code in codes {
                assert_eq!(fault(code), Some(expected), "{code}");
            }
        }
    }

    #[test]
    fn each_code_stands_once_with_a_sentence_for_the_operator() {
        for (n, (code, name, _, sentence)) in TABLE.iter().enumerate() {
            assert!(TABLE[..n].iter().all(|(other, ..)| other != code), "{code} twice");
            assert!(sentence.len() > 20 && !name.is_empty(), "{code}");
        }
    }

    #[test]
    fn what_no_retry_can_mend_has_the_exit_code_of_lost_history() {
        for fault in [Fault::PositionLost, Fault::TokenInvalid, Fault::PoisonousEvent] {
            assert_eq!(fault.kind().exit_code(), 12);
        }
        for fault in [Fault::Passing, Fault::NeedsHuman] {
            assert_eq!(fault.kind().exit_code(), 11);
        }
    }

    #[test]
    fn errors_of_the_network_and_unknown_ones_pass() {
        let cut = MongoError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert_eq!(meaning(&cut).fault, Fault::Passing);
        assert_eq!(meaning(&cut).kind, Kind::Unavailable);
        let own = MongoError::custom("of our own");
        assert_eq!((meaning(&own).fault, meaning(&own).hint), (Fault::Passing, None));
        // An election, a shutdown, a cursor that was killed: the server's code is not listed, so it passes.
        for code in [91, 189, 11602, 10107, 43, 237, 262, 50] {
            assert_eq!(fault(code), None, "{code}");
        }
    }
}
