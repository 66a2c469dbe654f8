//! What a string takes from outside of the configuration file: `${NAME}` from the environment, `${file:PATH}` from a file.

use std::io::Read;
use std::path::Path;

/// A secret is a key, a password or a connection string.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Where values come from; other places in tests.
pub(super) struct Outside<'a> {
    /// An environment variable's value.
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    /// A file's contents, or what is wrong with it.
    pub(super) file: &'a dyn Fn(&Path) -> Result<String, String>,
}

/// Reads the file of a `${file:…}`: text, of which one line end at the end is cut. The message never quotes contents.
pub(super) fn read_file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let failed = |e: std::io::Error| format!("the file {shown} can't be read: {e}");
    // Opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(format!("{shown} is not a file"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!(
            "the file {shown} is larger than {} KiB, which no secret is",
            MAX_FILE_BYTES >> 10
        ));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| format!("the file {shown} is not UTF-8"))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        return Err(format!("the file {shown} is empty"));
    }
    Ok(text)
}

/// Puts the values in; `$${` stands for `${`. What is put in is handed to `note`, and not read again. Relative paths are
/// taken from `folder`.
pub(super) fn substitute(
    text: &str,
    folder: &Path,
    outside: &Outside<'_>,
    note: &mut dyn FnMut(&str),
) -> Result<String, String> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            result.push_str(&rest[..at]);
            result.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        result.push_str(&rest[..at]);
        let after = &rest[at + 2..];
        let Some(end) = after.find('}') else {
            return Err("has a ${ without its }; write $${ for a literal ${".to_owned());
        };
        let value = value(&after[..end], folder, outside)?;
        note(&value);
        result.push_str(&value);
        rest = &after[end + 1..];
    }
    result.push_str(rest);
    Ok(result)
}

/// The value of what stands between the braces.
fn value(name: &str, folder: &Path, outside: &Outside<'_>) -> Result<String, String> {
    if let Some(path) = name.strip_prefix("file:") {
        if path.is_empty() {
            return Err("${file:} names no file; write ${file:/path/to/it}".to_owned());
        }
        return (outside.file)(&folder.join(path));
    }
    let valid = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.bytes().next().is_none_or(|b| b.is_ascii_digit());
    if !valid {
        return Err(format!(
            "${{{name}}} names no environment variable and, without file: before it, no file; write $${{ for a literal ${{"
        ));
    }
    (outside.env)(name).ok_or_else(|| format!("the environment variable {name} is not set"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn put_in(text: &str, file: &dyn Fn(&Path) -> Result<String, String>) -> Result<String, String> {
        let env = |name: &str| match name {
            "A" => Some("${B}".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        substitute(text, Path::new("/conf"), &Outside { env: &env, file }, &mut |_| {})
    }

    #[test]
    fn a_variables_value_is_put_in_once_and_never_read_again() {
        let put_in = |text: &str| put_in(text, &|_| Err("no files".to_owned()));
        assert_eq!(put_in("x${A}y${A}").unwrap(), "x${B}y${B}");
        assert_eq!(put_in("[${EMPTY}]").unwrap(), "[]");
        assert_eq!(put_in("$${A}").unwrap(), "${A}");
        assert_eq!(put_in("$${file:a}").unwrap(), "${file:a}");
        assert_eq!(put_in("cost: 5$ {A} $A").unwrap(), "cost: 5$ {A} $A");
        assert!(put_in("${B}").unwrap_err().contains("B is not set"));
        assert!(put_in("${A").unwrap_err().contains("without its }"));
        assert!(put_in("${A-b}").unwrap_err().contains("names no environment variable"));
        assert!(put_in("${}").unwrap_err().contains("names no environment variable"));
        assert!(put_in("${1A}").unwrap_err().contains("names no environment variable"));
        assert!(put_in("${file:}").unwrap_err().contains("names no file"));
    }

    #[test]
    fn files_are_found_from_the_configurations_folder() {
        let echo = |path: &Path| Ok(path.display().to_string());
        assert_eq!(put_in("${file:secrets/key}!", &echo).unwrap(), "/conf/secrets/key!");
        assert_eq!(put_in("a${file:/run/key}", &echo).unwrap(), "a/run/key");
        assert_eq!(put_in("${file:k}", &|_| Ok("${A}".into())).unwrap(), "${A}", "never read again");
    }

    #[test]
    fn one_line_end_is_cut_from_a_file_and_what_can_be_no_secret_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let read = |contents: &[u8]| {
            let path = folder.path().join("secret");
            std::fs::write(&path, contents).unwrap();
            read_file(&path)
        };
        for (contents, text) in
            [("key\n", "key"), ("key\r\n", "key"), (" key \n\n", " key \n"), ("key", "key")]
        {
            assert_eq!(read(contents.as_bytes()).unwrap(), text);
        }
        let largest = "k".repeat(64 << 10);
        assert_eq!(read(largest.as_bytes()).unwrap(), largest);
        assert!(read(format!("{largest}k").as_bytes()).unwrap_err().contains("larger than 64 KiB"));
        assert!(read(b"").unwrap_err().ends_with("secret is empty"));
        assert!(read(b"\n").unwrap_err().ends_with("secret is empty"));
        let error = read(b"s3cret\xff").unwrap_err();
        assert!(error.ends_with("is not UTF-8") && !error.contains("s3cret"), "{error}");
        assert!(read_file(folder.path()).unwrap_err().ends_with("is not a file"));
        let gone = read_file(&folder.path().join("gone")).unwrap_err();
        assert!(gone.contains("gone can't be read"), "{gone}");
    }
}
