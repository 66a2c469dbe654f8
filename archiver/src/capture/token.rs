//! What can be told from resume tokens: the cluster time in one, and which of two comes first.
//!
//! A token is `{_data: <hex>}`. Its first bytes are a cluster time and the version of its form; for tokens of one version the
//! text sorts like the stream: within one cluster time first the high-water mark ("everything before this time has been
//! read"), then the events in their order. Tried on MongoDB 6.0 with transactions; see `tests/tests/positions.rs`.

use std::cmp::Ordering;

use bson::Timestamp;
use bson_walker::Doc;

use crate::error::{Error, Result};
use crate::event::Position;

/// Behind the type byte 0x82 (a timestamp, in the server's KeyString encoding): seconds and ordinal, big endian.
const TIME: std::ops::Range<usize> = 2..18;
/// A small integer.
const VERSION: std::ops::Range<usize> = 18..22;
/// How the text of a token ends.
const END: &str = "04";

/// The place that a token stands for; `None` for tokens of another shape.
pub(super) fn position(token: Vec<u8>) -> Option<Position> {
    let time = data(&token)?.get(..TIME.end)?;
    let number = |range| u32::from_str_radix(time.get(range)?, 16).ok();
    let cluster_time = Timestamp { time: number(2..10)?, increment: number(10..18)? };
    time.starts_with("82").then_some(Position { token: Some(token), cluster_time })
}

/// The order of two tokens; `None` where their forms differ.
fn order(one: &[u8], other: &[u8]) -> Option<Ordering> {
    let (one, other) = (data(one)?, data(other)?);
    (one.get(VERSION)? == other.get(VERSION)?).then(|| one.cmp(other))
}

/// The text of a token.
pub(super) fn data(token: &[u8]) -> Option<&str> {
    Doc::new(token).ok()?.get("_data")?.as_str()
}

/// Whether going from one place to another would be going back.
pub(super) fn goes_back(from: &Position, to: &Position) -> bool {
    match from.cluster_time.cmp(&to.cluster_time) {
        Ordering::Less => false,
        Ordering::Greater => true,
        // A transaction's events, a rename and what follows from it, and the high-water mark before them share one time.
        Ordering::Equal => match (&from.token, &to.token) {
            (Some(from), Some(to)) => order(from, to) == Some(Ordering::Greater),
            // Without a token the stream starts before the first event of that time.
            (from, to) => from.is_some() && to.is_none(),
        },
    }
}

/// Knows the events that were recorded already, in a stream that is reopened by its cluster time because the token is not
/// one of its options.
#[derive(Debug, Clone)]
pub(super) struct Recorded(Position);

impl Recorded {
    /// Everything up to this place is recorded.
    pub(super) fn up_to(position: Position) -> Self {
        Recorded(position)
    }

    /// Whether this place of a quiet stream is before what is recorded.
    pub(super) fn is_ahead_of(&self, position: &Position) -> bool {
        goes_back(&self.0, position)
    }

    /// Whether the event at this place is recorded. Fails as invalid where the tokens can't be compared.
    pub(super) fn holds(&self, event: &Position) -> Result<bool> {
        match (event.cluster_time.cmp(&self.0.cluster_time), &self.0.token, &event.token) {
            (Ordering::Less, ..) => Ok(true),
            (Ordering::Greater, ..) | (_, None, _) => Ok(false),
            (Ordering::Equal, Some(last), Some(token)) if is_part(last, token) => Ok(true),
            (Ordering::Equal, Some(last), Some(token)) => match order(token, last) {
                Some(order) => Ok(order != Ordering::Greater),
                None => Err(incomparable()),
            },
            (Ordering::Equal, Some(_), None) => Err(incomparable()),
        }
    }
}

/// Whether a token is that of a fragment of the event that the other stands for.
fn is_part(whole: &[u8], fragment: &[u8]) -> bool {
    let (Some(whole), Some(fragment)) = (data(whole), data(fragment)) else { return false };
    whole.strip_suffix(END).is_some_and(|event| fragment.starts_with(event))
}

fn incomparable() -> Error {
    Error::invalid("what this source watches has changed, and so has the form of MongoDB's resume tokens").hint(
        "restore `watch` as it was, let the source run until it has recorded something, and change `watch` then",
    )
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    /// Tokens of MongoDB 6.0.5 at one cluster time: a high-water mark, then two events of one transaction.
    const MARK: &str = "826B0194F4000000042B0229296E04";
    const FIRST: &str =
        "826B0194F4000000042B022C0100296E5A10044413ACE697B54602A8B4BE0780DCFCC8461E5F6964002B020004";
    const SECOND: &str =
        "826B0194F4000000042B022C01002B026E5A10047CB7CE26204941D08221F8941151E619461E5F6964002B020004";
    const LATER: &str = "826B0194F40000001A2B0229296E04";

    fn token(data: &str) -> Vec<u8> {
        bson::serialize_to_vec(&doc! {"_data": data}).unwrap()
    }

    fn at(data: &str) -> Position {
        position(token(data)).unwrap()
    }

    #[test]
    fn the_time_of_a_token_is_read_from_its_first_bytes() {
        assert_eq!(at(FIRST).cluster_time, Timestamp { time: 0x6B01_94F4, increment: 4 });
        for odd in ["", "82", "8264A1B2C3", "7F64A1B2C3000000052B04", "82é"] {
            assert_eq!(position(token(odd)), None, "{odd}");
        }
    }

    #[test]
    fn a_place_goes_back_by_time_or_within_one_time_by_its_token() {
        let places = [MARK, FIRST, SECOND, LATER].map(at);
        for (n, from) in places.iter().enumerate() {
            for (m, to) in places.iter().enumerate() {
                assert_eq!(goes_back(from, to), m < n, "{n} to {m}");
            }
        }
        let no_token = Position { token: None, ..at(FIRST) };
        assert!(goes_back(&at(FIRST), &no_token) && !goes_back(&no_token, &at(FIRST)));
        assert!(!goes_back(&no_token, &no_token));
    }

    #[test]
    fn events_up_to_the_last_recorded_one_are_known_and_those_after_it_are_not() {
        assert!(Recorded::up_to(at(SECOND)).holds(&at(FIRST)).unwrap());
        let recorded = Recorded::up_to(at(FIRST));
        assert!(recorded.holds(&at(FIRST)).unwrap());
        assert!(!recorded.holds(&at(SECOND)).unwrap());
        assert!(!recorded.holds(&at(LATER)).unwrap());
        assert!(
            !Recorded::up_to(at(MARK)).holds(&at(FIRST)).unwrap(),
            "a mark stands before its time's events"
        );
        let from_the_start = Recorded::up_to(Position { token: None, ..at(FIRST) });
        assert!(!from_the_start.holds(&at(FIRST)).unwrap());
    }

    #[test]
    fn fragments_of_the_last_recorded_event_are_known_too() {
        let fragment = FIRST.strip_suffix("04").unwrap().to_owned() + "2B0204";
        assert!(Recorded::up_to(at(FIRST)).holds(&at(&fragment)).unwrap());
        assert!(!Recorded::up_to(at(MARK)).holds(&at(&fragment)).unwrap());
    }

    #[test]
    fn tokens_of_another_version_are_refused_only_where_it_matters() {
        let other = FIRST.replacen("2B02", "2B04", 1);
        let error = Recorded::up_to(at(FIRST)).holds(&at(&other)).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Invalid);
        assert!(!Recorded::up_to(at(FIRST)).holds(&at(&LATER.replacen("2B02", "2B04", 1))).unwrap());
        assert!(!goes_back(&at(&other), &at(FIRST)), "what can't be compared is not accused");
    }
}
