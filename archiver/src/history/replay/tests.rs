//! Reading in order, from wherever a replay was cut short.
#![allow(clippy::unwrap_used)]

use bson::doc;

use super::merge::{Ending, Merge, Next};
use super::range::{Bound, Range};
use super::tail::{Place, Step};
use crate::history::History;
use crate::history::testing::{DAY, Shop};
use crate::record::Record;
use crate::stream_id::StreamId;

/// What was read: the seq, and whether a baseline has it already.
type Told = (i64, bool);

/// Documents that were read ahead of the stream, and a withheld event that was released at the end.
fn shop() -> Shop {
    let mut shop = Shop::with_plugins(&[]);
    let early = shop.second;
    for id in 1..4 {
        shop.second = early + 20;
        shop.change("snapshot", id, doc! {"after": {"_id": id}});
    }
    shop.second = early;
    let head = || doc! {"op": "quarantine", "ns": {"db": "shop", "coll": "orders"}};
    let withheld = shop.push(head(), doc! {"detail": {"op": "update", "plugin": "p", "error": "trap"}});
    for id in [1, 9, 2] {
        shop.change("update", id, doc! {"delta": {"updatedFields": {"n": id}}});
    }
    shop.second = early + 21;
    shop.change("update", 1, doc! {"delta": {"updatedFields": {"n": 5}}});
    let now = shop.second;
    shop.second = early;
    let update = doc! {"delta": {"updatedFields": {"n": 7}}, "detail": {"late": withheld}};
    let late = shop.change("update", 9, update);
    shop.second = now;
    shop.push(head(), doc! {"detail": {"released": [{"seq": withheld, "late": late}]}});
    shop.change("delete", 3, doc! {});
    shop
}

async fn read(
    history: &History,
    range: Range,
    place: Option<&Place>,
    most: usize,
) -> (Vec<Told>, Option<Place>) {
    let sources = ["shop".to_owned()];
    let mut merge =
        Merge::open(history, &sources, range, Ending::OfStreams, |_| place.cloned()).await.unwrap();
    let mut places: Vec<(StreamId, Place)> = merge.places().collect();
    let (mut told, mut at) = (Vec::new(), places.pop().map(|(_, place)| place));
    while told.len() < most {
        let Next::Item(item) = merge.next().await.unwrap() else { break };
        if let Step::Record(bytes, is_in_baseline) = &item.step {
            told.push((Record::new(bytes).unwrap().seq().unwrap(), *is_in_baseline));
        }
        at = Some(item.place);
    }
    (told, at)
}

#[tokio::test]
async fn from_wherever_it_was_cut_short_the_same_goes_on() {
    let shop = shop();
    for ends in [&[][..], &[3, 6, 9]] {
        let (archive, _folder) = shop.archive(ends).await;
        let history = History::new(None, archive);
        let (all, _) = read(&history, Range::default(), None, usize::MAX).await;
        // The late one, 10, stands in the place of the withheld one, 5; what was read later than it happened says so.
        let expected = [1, 2, 3, 4, 10, 6, 7, 8, 9, 11, 12].map(|seq| (seq, [6, 8].contains(&seq)));
        assert_eq!(all, expected);
        for cut in 0..=all.len() {
            let (begun, place) = read(&history, Range::default(), None, cut).await;
            let (rest, _) = read(&history, Range::default(), place.as_ref(), usize::MAX).await;
            assert_eq!([begun, rest].concat(), all, "cut after {cut}");
        }
    }
}

#[tokio::test]
async fn ranges_that_meet_give_everything_once() {
    let shop = shop();
    let (archive, _folder) = shop.archive(&[3, 6, 9]).await;
    let history = History::new(None, archive);
    let seqs = async |from, to| {
        let (mut told, _) = read(&history, Range { from, to }, None, usize::MAX).await;
        told.sort_unstable();
        told.into_iter().map(|(seq, _)| seq).collect::<Vec<_>>()
    };
    let all = seqs(None, None).await;
    let seconds = (DAY..DAY + 30).map(Bound::Second);
    for bound in (1..14).map(Bound::Seq).chain(seconds) {
        let mut both = [seqs(None, Some(bound)).await, seqs(Some(bound), None).await].concat();
        both.sort_unstable();
        assert_eq!(both, all, "{bound}");
    }
}

/// It may go on in what is not archived, or not yet.
#[tokio::test]
async fn nothing_says_that_there_is_no_more_of_the_last_time_of_an_archive_alone() {
    let (archive, _folder) = shop().archive(&[3, 6, 9]).await;
    let history = History::new(None, archive);
    let sources = ["shop".to_owned()];
    let reached = async |to| {
        let range = Range { from: None, to };
        let mut merge = Merge::open(&history, &sources, range, Ending::OfStreams, |_| None).await.unwrap();
        loop {
            if let Next::End(reached) = merge.next().await.unwrap() {
                return reached;
            }
        }
    };
    let delete = DAY + 24;
    assert_eq!(reached(None).await, (delete, 1));
    // Behind a range, the time of what comes next.
    assert_eq!(reached(Some(Bound::Seq(12))).await, (delete, 1));
    assert_eq!(reached(Some(Bound::Second(DAY + 2))).await, (DAY + 2, 1));
}
