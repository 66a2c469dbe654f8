//! The DuckDB statements that create views and macros over an archive. Reads nothing itself.

use crate::config::Secret;
use crate::error::{Error, Result};

/// A source, and whether it has segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// Whether the archive holds any segment of it: DuckDB makes no view over files that do not exist.
    pub has_segments: bool,
}

/// Statements for the archive at `url`: a view of each of `sources`, one of all, and macros. `options` are those of the object
/// store: only harmless ones are used, secrets become placeholders. `missing` says what the views do not have, a line each.
///
/// Kind Invalid for a URL of no known kind, NotFound where no source has segments: a view needs files to look at.
pub fn statements(
    url: &str,
    options: &[(String, Secret)],
    sources: &[Source],
    missing: &[String],
) -> Result<String> {
    let (root, secret) = location(url, options)?;
    if !sources.iter().any(|source| source.has_segments) {
        return Err(Error::not_found(format!("the archive holds no segments yet: {url}"))
            .hint("`archiver roll` writes them; DuckDB can't create a view over files that do not exist"));
    }
    let mut sql = format!("-- The archive at {}\n", url.replace(['\n', '\r'], " "));
    for line in missing {
        sql.push_str(&format!("-- {}\n", line.replace(['\n', '\r'], " ")));
    }
    sql.push_str(INTRODUCTION);
    sql.push_str(&secret);
    sql.push_str("-- Every record of every source. Filter on source and date: DuckDB then opens only the files it needs.\n");
    sql.push_str(&view("all_changes", &format!("{root}/source=*/date=*/*.parquet")));
    sql.push_str("\n-- One view for each source.\n");
    for source in sources {
        let Source { name: source, has_segments } = source;
        // A source may be named like the view of all of them.
        let name = if source == "all_changes" { "source_all_changes" } else { source };
        match has_segments {
            true => sql.push_str(&view(name, &format!("{root}/source={source}/date=*/*.parquet"))),
            false => sql.push_str(&format!(
                "-- No segments yet.\nCREATE OR REPLACE VIEW \"{name}\" AS SELECT * FROM all_changes WHERE source = {};\n",
                literal(source)
            )),
        }
    }
    sql.push_str(MACROS);
    Ok(sql)
}

fn view(name: &str, files: &str) -> String {
    format!(
        "CREATE OR REPLACE VIEW \"{name}\" AS SELECT *, CAST(extra->>'$.partition' AS INTEGER) AS partition\n\
         FROM read_parquet(\n  {},\n  hive_partitioning = true, hive_types = {{'source': VARCHAR, 'date': DATE}});\n",
        literal(files)
    )
}

/// A string as SQL writes it.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The root as DuckDB writes it, ready for a glob, and the statement that lets DuckDB in.
fn location(url: &str, options: &[(String, Secret)]) -> Result<(String, String)> {
    let parsed =
        url::Url::parse(url).map_err(|e| Error::invalid(format!("not an archive URL: {url}")).because(e))?;
    let root = url.trim_end_matches('/').to_owned();
    let secret = match parsed.scheme() {
        "file" => {
            let path =
                parsed.to_file_path().map_err(|()| Error::invalid(format!("not a local path: {url}")))?;
            let path =
                path.to_str().ok_or_else(|| Error::invalid("DuckDB can't open a path that is not UTF-8"))?;
            return Ok((escape_glob(path.trim_end_matches('/')), String::new()));
        }
        "s3" => s3_secret(&root, options),
        "gs" => format!(
            "{REPLACE}(TYPE gcs, KEY_ID '<HMAC key id>', SECRET '<HMAC secret>', SCOPE {});\n\n",
            literal(&root)
        ),
        "az" => azure_secret(&root, options),
        _ => {
            return Err(Error::invalid(format!("DuckDB has no name for this location: {url}"))
                .hint("use file:///…, s3://…, az://… or gs://…"));
        }
    };
    Ok((escape_glob(&root), secret))
}

const REPLACE: &str = "-- Put your own read-only credentials in here.\nCREATE OR REPLACE SECRET archive ";

/// Glob characters in the archive's own path stand for themselves.
fn escape_glob(path: &str) -> String {
    let escape = |c: char| if "*?[".contains(c) { format!("[{c}]") } else { c.to_string() };
    path.chars().map(escape).collect()
}

/// An option by its name without the provider's prefix.
fn option<'a>(options: &'a [(String, Secret)], name: &str) -> Option<&'a str> {
    let bare = |key: &str| {
        let key = key.to_ascii_lowercase();
        let bare = ["azure_storage_", "azure_", "aws_"].iter().find_map(|prefix| key.strip_prefix(prefix));
        bare.map_or(key.clone(), str::to_owned)
    };
    options.iter().find(|(key, _)| bare(key) == name).map(|(_, value)| value.expose())
}

fn s3_secret(root: &str, options: &[(String, Secret)]) -> String {
    let region = option(options, "region").or(option(options, "default_region")).unwrap_or("us-east-1");
    let mut parts = format!(
        "(TYPE s3, KEY_ID '<access key id>', SECRET '<secret access key>', REGION {}",
        literal(region)
    );
    if let Some(endpoint) = option(options, "endpoint").or(option(options, "endpoint_url")) {
        let (scheme, host) = endpoint.split_once("://").unwrap_or(("https", endpoint));
        parts.push_str(&format!(
            ", ENDPOINT {}, USE_SSL {}",
            literal(host.trim_end_matches('/')),
            scheme != "http"
        ));
        if option(options, "virtual_hosted_style_request") != Some("true") {
            parts.push_str(", URL_STYLE 'path'");
        }
    }
    format!(
        "{REPLACE}{parts}, SCOPE {});\n-- With roles or profiles instead: CREATE OR REPLACE SECRET archive (TYPE s3, PROVIDER \
         credential_chain);\n\n",
        literal(root)
    )
}

fn azure_secret(root: &str, options: &[(String, Secret)]) -> String {
    let account = option(options, "account_name").unwrap_or("<account>");
    let endpoint = option(options, "endpoint").map(|e| format!("BlobEndpoint={e};")).unwrap_or_default();
    let text =
        format!("DefaultEndpointsProtocol=https;AccountName={account};AccountKey=<account key>;{endpoint}");
    let text = if endpoint.contains("=http://") { text.replacen("=https;", "=http;", 1) } else { text };
    format!(
        "{REPLACE}(TYPE azure, CONNECTION_STRING {}, SCOPE {});\n-- With identities instead: CREATE OR REPLACE SECRET archive (TYPE \
         azure, PROVIDER credential_chain, ACCOUNT_NAME {});\n\n",
        literal(&text),
        literal(root),
        literal(account)
    )
}

const INTRODUCTION: &str = "\
-- Statements for DuckDB 1.5 or newer; nothing here changes the archive. For example:
--   archiver sql > archive.sql && duckdb -init archive.sql
-- before, after, delta, images, detail and doc_key are Extended JSON: after->>'$.status', after->>'$.card.pan'.
-- doc_id is the _id: hex for an ObjectId, plain for a string, else relaxed Extended JSON.
-- One document's history is ordered by cluster_time, cluster_inc, seq (seq counts within a partition, where a source has several). All times are UTC (Python needs pytz for them).
SET TimeZone = 'UTC';

";

/// Parameters are named so that they can't be taken for columns.
const MACROS: &str = include_str!("sql/macros.sql");

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn options(list: &[(&str, &str)]) -> Vec<(String, Secret)> {
        list.iter().map(|(k, v)| ((*k).to_owned(), Secret::new(*v))).collect()
    }

    fn sql(url: &str, list: &[(&str, &str)]) -> String {
        let source = |name: &str, has_segments| Source { name: name.to_owned(), has_segments };
        let sources = [source("payments", true), source("all_changes", true), source("new", false)];
        statements(url, &options(list), &sources, &[]).unwrap()
    }

    #[test]
    fn a_local_archive_needs_no_secret_and_its_path_stands_for_itself() {
        let text = sql("file:///var/o%27clock/a%20b%5Bc/", &[]);
        assert!(text.contains("'/var/o''clock/a b[[]c/source=*/date=*/*.parquet'"), "{text}");
        assert!(text.contains("VIEW \"payments\"") && text.contains("VIEW \"source_all_changes\""));
        assert!(text.contains("VIEW \"new\" AS SELECT * FROM all_changes WHERE source = 'new';"));
        assert!(!text.contains("SECRET"));
    }

    #[test]
    fn secrets_are_placeholders_and_the_rest_is_filled_in() {
        let list = [
            ("aws_access_key_id", "AKIA"),
            ("secret_access_key", "s3cret"),
            ("AWS_REGION", "eu-west-1"),
            ("endpoint", "http://minio:9000/"),
        ];
        let text = sql("s3://bucket/prefix/", &list);
        assert!(!text.contains("AKIA") && !text.contains("s3cret"));
        assert!(text.contains("REGION 'eu-west-1', ENDPOINT 'minio:9000', USE_SSL false, URL_STYLE 'path', SCOPE 's3://bucket/prefix'"));
        assert!(text.contains("'s3://bucket/prefix/source=payments/date=*/*.parquet'"), "{text}");
        let text = sql(
            "az://c/p",
            &[("azure_storage_account_name", "acc"), ("azure_storage_account_key", "s3cret")],
        );
        assert!(text.contains("AccountName=acc;AccountKey=<account key>;'") && !text.contains("s3cret"));
        assert!(sql("gs://b/p", &[]).contains("TYPE gcs"));
    }

    #[test]
    fn an_archive_without_segments_is_not_found() {
        let error = statements("file:///a", &[], &[], &[]).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::NotFound);
        let source = Source { name: "a".to_owned(), has_segments: false };
        let error = statements("file:///a", &[], std::slice::from_ref(&source), &[]).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::NotFound);
        assert_eq!(statements("ftp://a", &[], &[source], &[]).unwrap_err().kind(), crate::Kind::Invalid);
    }
}
