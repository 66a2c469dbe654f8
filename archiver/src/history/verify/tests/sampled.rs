//! A part of the segments at a time: the parts together are everything.

use super::*;

const PARTS: u32 = 4;

#[tokio::test]
async fn so_many_runs_read_every_segment_once_and_check_the_structure_of_all_each_time() {
    let stored = Stored::of(&shop(), &[2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]).await;
    let (mut segments, mut records) = (0, 0);
    for day in 100..100 + u64::from(PARTS) {
        let scope = Scope { level: Level::Structure, part: Part::at(day, PARTS) };
        let report = stored.verify_as(&Request { scope, ..Request::default() }).await;
        assert!(report.is_clean());
        assert_eq!(report.sources[0].files, 13);
        segments += report.sources[0].segments;
        records += report.sources[0].records;
    }
    assert_eq!((segments, records), (13, 13));
}

#[tokio::test]
async fn damage_is_found_in_the_run_whose_turn_the_segment_is_and_sooner_where_all_files_are_read() {
    let stored = Stored::of(&shop(), &[3, 5, 7, 9, 11]).await;
    for key in stored.segments() {
        let original = stored.read(key).await;
        let mut changed = original.to_vec();
        changed[original.len() / 2] ^= 1;
        stored.write(key, changed);
        for (level, expected) in [(Level::Listing, 1), (Level::Structure, PARTS)] {
            let mut found = 0;
            for number in 1..=PARTS {
                let scope = Scope { level, part: Part::new(number, PARTS).unwrap() };
                let report = stored.verify_as(&Request { scope, ..Request::default() }).await;
                found += u32::from(codes(&report) == [Code::SegmentDigest]);
            }
            assert_eq!(found, expected, "{key} {level:?}");
        }
        stored.write(key, original);
    }
}
