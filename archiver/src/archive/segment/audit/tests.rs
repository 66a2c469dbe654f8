//! Whatever is changed in a segment besides its records is seen, and nothing that was written is taken for a change.
#![allow(clippy::unwrap_used)]

use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use proptest::prelude::*;

use super::super::super::extjson::random::Random;
use super::super::encode::Keep;
use super::super::testing::{change_value, in_pages_of, rewritten, take_rows};
use super::super::tests::{build, encode_as, in_partition, random_record, sample};
use super::*;

fn rows(file: Bytes) -> Vec<Audited> {
    audit(file).unwrap().collect::<Result<_>>().unwrap()
}

fn flaws(file: Bytes) -> Vec<Flaw> {
    rows(file).into_iter().flat_map(|row| row.flaws).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn nothing_is_wrong_with_what_was_written(seed: u64, odd: bool, rows in 1_i64..200, whole: bool) {
        let mut random = Random::new(seed, odd);
        let records: Vec<Vec<u8>> = (0..rows).map(|n| random_record(&mut random, 1_000 + n, odd)).collect();
        let mut found: Vec<Audited> = super::tests::rows(build(&records).file);
        found.sort_by_key(|row| row.seq);
        prop_assert!(found.iter().all(|row| row.flaws.is_empty()), "{:?}", found);
        let given: Vec<Vec<u8>> = found.into_iter().map(|row| row.record.unwrap()).collect();
        prop_assert_eq!(&given, &records);
        // As written where columns fail to give a record back; in the order of the records, so that alone is a flaw.
        let keep = if whole { Keep::Whole } else { Keep::Columns };
        let flaws = flaws(encode_as(&records, keep));
        prop_assert!(flaws.iter().all(|flaw| *flaw == Flaw::Order), "{:?}", flaws);
    }
}

#[test]
fn nothing_is_wrong_with_many_row_groups_or_with_a_partition() {
    assert_eq!(flaws(sample(1, 40_000).0.file), []);
    let records: Vec<Vec<u8>> = sample(1, 50).1.iter().map(|record| in_partition(3, record)).collect();
    let mut builder =
        super::super::SegmentBuilder::new(&crate::stream_id::StreamId::parse("shop/3").unwrap());
    records.iter().for_each(|record| builder.push(record).unwrap());
    assert_eq!(flaws(builder.finish().unwrap().file), []);
}

#[test]
fn a_change_in_any_column_is_a_flaw_or_another_record() {
    let mut random = Random::new(11, false);
    let records: Vec<Vec<u8>> = (1..13).map(|seq| random_record(&mut random, seq, false)).collect();
    let file = build(&records).file;
    let before = rows(file.clone());
    for field in schema::columns().fields() {
        for row in 0..before.len() {
            let forged = rewritten(&file, |columns| change_value(columns, field.name(), row));
            let after = rows(forged);
            let same_record = after[row].record.as_ref().ok() == before[row].record.as_ref().ok();
            let derived = matches!(field.name().as_str(), "doc_id" | "changed");
            assert!(!derived || same_record, "{} is not needed for the record", field.name());
            let found = after[row].flaws.contains(&Flaw::Column(field.name().clone()));
            assert!(found || !same_record, "column {} of row {row}", field.name());
        }
    }
}

/// Such a row's columns are for reading only, so nothing but this comparison sees them.
#[test]
fn a_change_in_any_column_of_a_record_that_is_kept_whole_is_a_flaw() {
    let file = encode_as(&sample(1, 5).1, Keep::Whole);
    for field in schema::columns().fields().iter().filter(|f| !matches!(f.name().as_str(), "seq" | "extra")) {
        let forged = rewritten(&file, |columns| change_value(columns, field.name(), 2));
        let row = &rows(forged)[2];
        assert!(
            row.record.is_ok() && row.flaws.contains(&Flaw::Column(field.name().clone())),
            "{}",
            field.name()
        );
    }
}

#[test]
fn rows_in_another_order_or_twice_are_flaws() {
    let file = sample(1, 100).0.file;
    let mut order: Vec<u32> = (0..100).collect();
    order.swap(40, 41);
    assert_eq!(flaws(rewritten(&file, |columns| take_rows(columns, &order))), [Flaw::Order]);
    order.swap(40, 41);
    order[50] = 49;
    assert_eq!(flaws(rewritten(&file, |columns| take_rows(columns, &order))), [Flaw::Order]);
}

#[test]
fn a_bloom_filter_that_leaves_documents_out_is_a_flaw() {
    let file = sample(1, 300).0.file;
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).unwrap();
    let column = metadata.metadata().row_group(0).column(schema::position(DOC_ID).unwrap()).clone();
    let (at, length) =
        (column.bloom_filter_offset().unwrap() as usize, column.bloom_filter_length().unwrap() as usize);
    let mut forged = file.to_vec();
    // Behind its header, which is some bytes long.
    forged[at + 32..at + length].fill(0);
    let found = flaws(forged.into());
    assert!(found.len() > 100 && found.iter().all(|flaw| *flaw == Flaw::Bloom), "{found:?}");
}

#[test]
fn statistics_that_leave_values_out_are_a_flaw() {
    let file = sample(1, 300).0.file;
    let last = 300_i64.to_le_bytes();
    let mut forged = file.to_vec();
    let footer = forged.len()
        - 8
        - u32::from_le_bytes(file[file.len() - 8..file.len() - 4].try_into().unwrap()) as usize;
    let places: Vec<usize> = (footer..forged.len() - 8).filter(|at| forged[*at..*at + 8] == last).collect();
    assert!(!places.is_empty());
    for at in places {
        forged[at..at + 8].copy_from_slice(&299_i64.to_le_bytes());
    }
    assert_eq!(flaws(forged.into()), [Flaw::Statistics("seq".to_owned())]);
}

/// Two bits of every byte of the page index are changed, one after the other: where it says anything else then, that is seen.
#[test]
fn a_page_index_that_says_anything_else_is_a_flaw_or_an_error() {
    let (segment, records) = sample(1, 30);
    let file = in_pages_of(12, &segment.file);
    assert!(is_sound(file.clone(), &records));
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).unwrap();
    let chunks = metadata.metadata().row_group(0).columns().to_vec();
    let (mut tried, mut unseen) = (0, Vec::new());
    for chunk in &chunks {
        let bounds = chunk.column_index_offset().zip(chunk.column_index_length());
        let places = chunk.offset_index_offset().zip(chunk.offset_index_length());
        for (kind, range) in [("bounds", bounds), ("places", places)] {
            let Some((start, length)) = range else { continue };
            for at in start as usize..start as usize + length as usize {
                for bit in [at % 8, 7 - at % 8] {
                    let mut forged = file.to_vec();
                    forged[at] ^= 1 << bit;
                    tried += 1;
                    let forged = Bytes::from(forged);
                    // How many rows are in each page of a list, which no header says, is not compared.
                    let list = kind == "places" && chunk.column_descr().max_rep_level() > 0;
                    if !list && !says_the_same(&file, &forged) && is_sound(forged, &records) {
                        unseen.push(format!("{kind} of {} at {at} bit {bit}", chunk.column_path()));
                    }
                }
            }
        }
    }
    assert!(tried > 1_000, "{tried}");
    assert!(unseen.is_empty(), "{unseen:#?}");
}

/// Whether an audit finds nothing.
fn is_sound(file: Bytes, records: &[Vec<u8>]) -> bool {
    let Ok(audit) = audit(file) else { return false };
    let rows: Result<Vec<Audited>> = audit.collect();
    rows.is_ok_and(|rows| rows.len() == records.len() && rows.iter().all(|row| row.flaws.is_empty()))
}

/// Whether whoever searches reads the same pages in both, or more: wider bounds cost a page, and hide nothing.
fn says_the_same(file: &Bytes, forged: &Bytes) -> bool {
    let index = |file: &Bytes| {
        let metadata = ArrowReaderMetadata::load(file, ArrowReaderOptions::new()).ok()?;
        pages::with_index(file, metadata.metadata()).ok()
    };
    let (Some(before), Some(after)) = (index(file), index(forged)) else { return false };
    let (before, after) = (before.page_index_for_row_group(0), after.page_index_for_row_group(0));
    (0..schema::columns().fields().len()).all(|column| {
        before.page_locations(column) == after.page_locations(column)
            && match (before.column_index(column), after.column_index(column)) {
                (Some(before), Some(after)) => is_within(before, after),
                (_, after) => after.is_none(),
            }
    })
}

fn is_within(before: &ColumnIndexMetaData, after: &ColumnIndexMetaData) -> bool {
    fn wider<T: PartialOrd>(before: [Option<T>; 2], after: [Option<T>; 2]) -> bool {
        let [(low, high), (lower, higher)] = [before, after].map(|[min, max]| (min, max));
        lower.zip(low).is_none_or(|(new, old)| new <= old)
            && higher.zip(high).is_none_or(|(new, old)| new >= old)
    }
    let pages = 0..before.num_pages() as usize;
    before.num_pages() == after.num_pages()
        && pages.into_iter().all(|n| {
            let nulls = |index: &ColumnIndexMetaData| index.null_count(n).is_none_or(|count| count > 0);
            let same = before.is_null_page(n) == after.is_null_page(n);
            (nulls(before) == nulls(after) || nulls(after))
                && (same || before.is_null_page(n))
                && match (before, after) {
                    _ if before.is_null_page(n) => true,
                    (ColumnIndexMetaData::INT32(a), ColumnIndexMetaData::INT32(b)) => {
                        wider([a.min_value(n), a.max_value(n)], [b.min_value(n), b.max_value(n)])
                    }
                    (ColumnIndexMetaData::INT64(a), ColumnIndexMetaData::INT64(b)) => {
                        wider([a.min_value(n), a.max_value(n)], [b.min_value(n), b.max_value(n)])
                    }
                    (ColumnIndexMetaData::BYTE_ARRAY(a), ColumnIndexMetaData::BYTE_ARRAY(b)) => {
                        wider([a.min_value(n), a.max_value(n)], [b.min_value(n), b.max_value(n)])
                    }
                    _ => false,
                }
        })
}

#[test]
fn a_damaged_file_is_an_error_or_a_flaw_and_no_panic() {
    let file = sample(1, 40).0.file;
    for at in (0..file.len()).step_by(7) {
        let mut damaged = file.to_vec();
        damaged[at] ^= 1 << (at % 8);
        for row in audit(damaged.into()).into_iter().flatten() {
            if row.is_err() {
                break;
            }
        }
    }
}
