//! Random archives of several sources, partitions and days: nothing that was written is a finding.

use bson_walker::{Doc, Writer};
use proptest::prelude::*;

use super::super::super::testing::{DAY, Memory, seal};
use super::*;
use crate::archive::extjson::random::Random;
use crate::archive::segment::tests::random_record;
use crate::record::{Record, RecordId};

/// The record as one of this stream, at this time.
fn placed(record: &[u8], stream: &StreamId, seq: i64, time: u32) -> Vec<u8> {
    let record = Record::new(record).unwrap();
    Writer::build(|w| {
        RecordId::new(stream, seq).write(w);
        for element in record.doc().elements().map(Result::unwrap).filter(|e| e.name() != b"_id") {
            match element.name() {
                b"clusterTime" => w.timestamp("clusterTime", time, 1),
                _ => w.append(&element),
            }
        }
    })
}

/// A record that may stand out of the order of time: it was read beside the stream, or released late.
fn out_of_order(stream: &StreamId, seq: i64, time: u32, late: bool) -> Vec<u8> {
    let body = Writer::build(|w| {
        w.str("op", if late { "update" } else { "snapshot" });
        w.timestamp("clusterTime", time, 2);
        if late {
            let mut detail = w.begin_doc(b"detail");
            detail.i64("late", 1);
            detail.end();
        }
    });
    Record::encode(RecordId::new(stream, seq), Doc::new(&body).unwrap(), 1)
}

/// Records of several days, and where their segments end.
fn stream_of(random: &mut Random, stream: &StreamId, odd: bool) -> (Vec<Vec<u8>>, Vec<i64>) {
    let (mut time, mut day) = (DAY, None);
    let (mut records, mut ends) = (Vec::new(), Vec::new());
    for seq in 1..=random.below(60) as i64 + 1 {
        let aside = random.below(6) == 0;
        if !aside && random.below(9) == 0 {
            time += random.below(90_000) as u32;
        }
        let at = if aside { time - random.below(200_000) as u32 } else { time };
        records.push(match aside {
            true => out_of_order(stream, seq, at, random.below(2) == 0),
            false => placed(&random_record(random, seq, odd), stream, seq, at),
        });
        if seq > 1 && (day != Some(at / 86_400) || random.below(12) == 0) {
            ends.push(seq);
        }
        day = Some(at / 86_400);
    }
    (records, ends)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_was_written_is_verified(seed: u64, odd: bool, jobs in 1_usize..5) {
        let mut random = Random::new(seed, odd);
        let mut streams = StreamId::all("orders", random.below(4) as u32);
        streams.extend(["a", "shop-2"].into_iter().take(random.below(3)).map(StreamId::whole));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (report, records) = runtime.block_on(async {
            let archive = Memory::new().archive;
            let mut count = 0;
            for stream in &streams {
                let (records, ends) = stream_of(&mut random, stream, odd);
                count += records.len() as u64;
                seal(&archive, stream, &records, &ends, |_| None).await;
            }
            (verify(&archive, None, &Request { jobs, ..Request::default() }).await.unwrap(), count)
        });
        prop_assert_eq!(&report.findings, &vec![]);
        prop_assert_eq!(&report.notes, &vec![]);
        prop_assert_eq!(report.sources.iter().map(|s| s.records).sum::<u64>(), records);
        prop_assert_eq!(report.sources.len(), streams.len());
    }
}
