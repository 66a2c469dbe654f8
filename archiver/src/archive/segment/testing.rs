//! Forges segments for tests: the file of another one, with something in it changed.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, Int32Array, Int64Array, ListArray, ListBuilder, RecordBatch, StringArray,
    StringBuilder, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{DataType, Field};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};

use super::super::schema;
use super::read::begin;

/// The file with other rows, written as segments are; statistics and bloom filters are those of the other rows.
pub(crate) fn rewritten(file: &Bytes, change: impl FnOnce(&mut Vec<ArrayRef>)) -> Bytes {
    written(file, change, WriterPropertiesBuilder::build)
}

/// The file with so many rows in each page.
pub(crate) fn in_pages_of(rows: usize, file: &Bytes) -> Bytes {
    let properties = |builder: WriterPropertiesBuilder| {
        builder.set_data_page_row_count_limit(rows).set_write_batch_size(rows).build()
    };
    written(file, |_| (), properties)
}

fn written(
    file: &Bytes,
    change: impl FnOnce(&mut Vec<ArrayRef>),
    properties: impl FnOnce(WriterPropertiesBuilder) -> WriterProperties,
) -> Bytes {
    let (builder, footer) = begin(file.clone()).unwrap();
    let batches: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
    let all = concat_batches(&batches[0].schema(), &batches).unwrap();
    let mut columns = all.columns().to_vec();
    change(&mut columns);
    let footer = schema::Footer {
        stream: &footer.stream,
        first_seq: footer.first_seq,
        end_seq: footer.end_seq,
        merkle_root: footer.merkle_root.clone(),
    };
    let options = ArrowWriterOptions::new()
        .with_properties(properties(schema::writer_properties(&footer).unwrap().into_builder()))
        .with_skip_arrow_metadata(true)
        .with_schema_root("record".to_owned());
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), schema::columns(), options).unwrap();
    writer.write(&RecordBatch::try_new(schema::columns(), columns).unwrap()).unwrap();
    writer.into_inner().unwrap().into()
}

/// Changes one value of a column.
pub(crate) fn change_value(columns: &mut [ArrayRef], name: &str, row: usize) {
    let n = schema::columns().index_of(name).unwrap();
    columns[n] = changed(&columns[n], row);
}

/// The rows in another order, or fewer, or some of them twice.
pub(crate) fn take_rows(columns: &mut [ArrayRef], rows: &[u32]) {
    let rows = UInt32Array::from(rows.to_vec());
    for column in columns {
        *column = take(column, &rows, None).unwrap();
    }
}

fn changed(column: &ArrayRef, row: usize) -> ArrayRef {
    fn at<T: Clone>(
        values: impl Iterator<Item = Option<T>>,
        row: usize,
        new: impl Fn(Option<T>) -> T,
    ) -> Vec<Option<T>> {
        values.enumerate().map(|(n, v)| if n == row { Some(new(v)) } else { v }).collect()
    }
    let any = column.as_any();
    if let Some(values) = any.downcast_ref::<Int64Array>() {
        return Arc::new(Int64Array::from(at(values.iter(), row, |v| v.unwrap_or(0) + 1)));
    }
    if let Some(values) = any.downcast_ref::<Int32Array>() {
        return Arc::new(Int32Array::from(at(values.iter(), row, |v| v.unwrap_or(0) ^ 1)));
    }
    if let Some(values) = any.downcast_ref::<TimestampMicrosecondArray>() {
        let values = at(values.iter(), row, |v| v.unwrap_or(0) + 1_000_000);
        return Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"));
    }
    if let Some(values) = any.downcast_ref::<StringArray>() {
        let values = values.iter().map(|v| v.map(str::to_owned));
        return Arc::new(StringArray::from(at(values, row, |v| another_text(v.as_deref()))));
    }
    if let Some(values) = any.downcast_ref::<BinaryArray>() {
        let values: Vec<Option<Vec<u8>>> = at(values.iter().map(|v| v.map(<[u8]>::to_vec)), row, |v| {
            if v.is_some() { b"m\0".to_vec() } else { b"l".to_vec() }
        });
        return Arc::new(values.iter().map(Option::as_deref).collect::<BinaryArray>());
    }
    let found: &ListArray = any.downcast_ref().unwrap();
    let field = Field::new("element", DataType::Utf8, true);
    let mut lists = ListBuilder::new(StringBuilder::new()).with_field(field);
    for (n, list) in found.iter().enumerate() {
        let texts = list.as_ref().map(|list| list.as_any().downcast_ref::<StringArray>().unwrap().iter());
        let forged = (n == row).then_some(Some("forged"));
        lists.append_option(match (texts, forged) {
            (None, None) => None,
            (texts, forged) => Some(texts.into_iter().flatten().chain(forged).collect::<Vec<_>>()),
        });
    }
    Arc::new(lists.finish())
}

/// What still reads as the column's form, where it has one, but says something else.
fn another_text(text: Option<&str>) -> String {
    match text {
        Some(json) if json.starts_with('{') => json.replacen('{', "{\"forged\":1,", 1).replace(",}", "}"),
        Some(text) => format!("{text}x"),
        None => "{\"forged\":true}".to_owned(),
    }
}
