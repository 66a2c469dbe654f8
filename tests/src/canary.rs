//! Searching everything that was stored or printed for values that must not be there.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bson::{RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::Database;
use serde_json::Value;

use crate::duckdb;
use crate::fixture::files_in;

/// No form of a canary is shorter: what is, would be found by chance.
const KEY: usize = 8;

/// A secret value, and every form in which it could leak.
#[derive(Debug, Clone)]
pub struct Canary {
    name: String,
    forms: Vec<Vec<u8>>,
    /// The form in which resume tokens hold values: upper-case hex.
    in_tokens: Vec<u8>,
}

impl Canary {
    /// A text: as it is, in UTF-16, hex and base64.
    pub fn text(text: &str) -> Canary {
        let mut canary = Canary::bytes(text.as_bytes());
        canary.name = text.to_owned();
        canary.forms.push(text.bytes().flat_map(|b| [b, 0]).collect());
        canary
    }

    /// Bytes: as they are, in hex and base64, and the hex in UTF-16.
    pub fn bytes(bytes: &[u8]) -> Canary {
        assert!(bytes.len() >= KEY, "too short to be a canary: {bytes:?}");
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let in_tokens = hex.to_uppercase().into_bytes();
        let mut forms = vec![bytes.to_vec(), in_tokens.clone(), hex.clone().into_bytes()];
        forms.push(hex.bytes().flat_map(|b| [b, 0]).collect());
        for shift in 0..3 {
            // In the middle of something longer, base64 looks different at each of three offsets; the edges are cut.
            let encoded = BASE64_STANDARD.encode([&vec![0; shift], bytes, &[0; 3]].concat());
            forms.push(encoded.as_bytes()[4..encoded.len() - 8].to_vec());
        }
        Canary { name: hex, forms, in_tokens }
    }

    /// Without the form in which resume tokens hold values.
    pub fn outside_tokens(&self) -> Canary {
        let forms = self.forms.iter().filter(|form| **form != self.in_tokens).cloned().collect();
        Canary { forms, ..self.clone() }
    }

    /// An integer: as digits and as the eight bytes of an Int64.
    pub fn number(number: i64) -> Canary {
        let mut canary = Canary::text(&number.to_string());
        canary.forms.push(number.to_le_bytes().to_vec());
        canary
    }
}

/// Everything that an archiver left behind, with a name for each piece.
#[derive(Debug, Default)]
pub struct Haystack {
    pieces: Vec<(String, Vec<u8>)>,
}

impl Haystack {
    /// The whole audit database, the archive raw and decompressed, and this output.
    pub async fn of(audit: &Database, archive: &Path, output: &str) -> Haystack {
        let mut haystack = Haystack::default();
        haystack.pieces.push(("the output".to_owned(), output.as_bytes().to_vec()));
        for name in audit.list_collection_names().await.expect("collections can be listed") {
            let collection = audit.collection::<RawDocumentBuf>(&name);
            let documents: Vec<_> =
                collection.find(doc! {}).await.expect("readable").try_collect().await.expect("readable");
            let bytes = documents.iter().flat_map(|d| d.as_bytes().to_vec()).collect();
            haystack.pieces.push((format!("the audit collection {name}"), bytes));
        }
        for file in files_in(archive) {
            haystack.add_file(&file);
        }
        haystack
    }

    /// Adds one piece.
    pub fn add(&mut self, name: &str, bytes: &[u8]) {
        self.pieces.push((name.to_owned(), bytes.to_vec()));
    }

    /// Adds the files of a folder, whatever they are.
    pub fn add_folder(&mut self, folder: &Path) {
        for file in files_in(folder) {
            let name = file.strip_prefix(folder).unwrap_or(&file).display().to_string();
            // A server may remove one at any moment.
            if let Ok(bytes) = std::fs::read(&file) {
                self.pieces.push((name, bytes));
            }
        }
    }

    fn add_file(&mut self, file: &Path) {
        let name = file.file_name().expect("a file has a name").to_string_lossy().into_owned();
        self.add(&name, &std::fs::read(file).expect("readable"));
        if file.extension().is_some_and(|e| e == "parquet") {
            let rows = duckdb::query(&format!("SELECT * FROM read_parquet('{}')", file.display()));
            let mut bytes = serde_json::to_vec(&rows).expect("JSON");
            for value in rows.iter().flat_map(|r| r.as_object().expect("a row").values()) {
                bytes.extend(value.as_str().and_then(|s| BASE64_STANDARD.decode(s).ok()).unwrap_or_default());
                bytes.extend(
                    value
                        .as_str()
                        .and_then(|s| serde_json::from_str::<Value>(s).ok())
                        .map(|v| v.to_string())
                        .unwrap_or_default()
                        .bytes(),
                );
            }
            self.add(&format!("{name}, decompressed"), &bytes);
            let metadata = duckdb::query(&format!("SELECT * FROM parquet_metadata('{}')", file.display()));
            self.add(&format!("{name}, statistics"), &serde_json::to_vec(&metadata).expect("JSON"));
        }
    }

    /// Where these canaries are, each as "canary in piece".
    pub fn search(&self, canaries: &[Canary]) -> Vec<String> {
        // By their first eight bytes, so that one pass finds all of them; and before that by their first three in a table, because
        // a server's files are large.
        let mut beginnings: HashMap<&[u8], Vec<(&str, &[u8])>> = HashMap::new();
        let mut table = vec![false; 1 << 24];
        for canary in canaries {
            for form in canary.forms.iter().filter(|form| form.len() >= KEY) {
                beginnings.entry(&form[..KEY]).or_default().push((&canary.name, form));
                table[usize::from(form[0]) << 16 | usize::from(form[1]) << 8 | usize::from(form[2])] = true;
            }
        }
        let mut found = BTreeSet::new();
        for (place, bytes) in &self.pieces {
            let mut at = 0;
            while let Some(window) = bytes.get(at..at + KEY) {
                if window == [0; KEY] {
                    at += zeros(&bytes[at..]);
                    continue;
                }
                let three =
                    usize::from(window[0]) << 16 | usize::from(window[1]) << 8 | usize::from(window[2]);
                if table[three] {
                    for (name, form) in beginnings.get(window).into_iter().flatten() {
                        if bytes[at..].starts_with(form) {
                            found.insert(format!("{name} in {place}"));
                        }
                    }
                }
                at += 1;
            }
        }
        found.into_iter().collect()
    }
}

/// How many zero bytes to skip: no form begins with so many, and files are full of them.
fn zeros(bytes: &[u8]) -> usize {
    const PAGE: [u8; 4_096] = [0; 4_096];
    if bytes.starts_with(&PAGE) { PAGE.len() - KEY } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_is_found_in_every_form_and_place() {
        let canary = Canary::text("4111111111111111");
        let mut haystack = Haystack::default();
        haystack.add("plain", b"xx4111111111111111yy");
        haystack.add("end", b"xx4111111111111111");
        haystack.add("hex", b"34313131313131313131313131313131");
        for shift in 0..3 {
            let encoded =
                BASE64_STANDARD.encode([&vec![7; shift], &b"4111111111111111"[..], b"more"].concat());
            haystack.add(&format!("base64 {shift}"), encoded.as_bytes());
        }
        haystack.add("nothing", b"411111111111111 1");
        assert_eq!(haystack.search(&[canary]).len(), 6);
        let mut haystack = Haystack::default();
        haystack.add("int64", &4_111_111_111_111_111_i64.to_le_bytes());
        assert_eq!(haystack.search(&[Canary::number(4_111_111_111_111_111)]).len(), 1);
    }
}
