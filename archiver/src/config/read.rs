//! Reading the parsed TOML: every value knows its key and line, and every problem is kept until all are found.

use std::cell::{Cell, RefCell};
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::Secret;
use super::substitute::{Outside, substitute};
use super::suggest::nearest;
use crate::error::{Error, Result};

/// The file being read, and the problems found in it so far.
pub(super) struct File<'a> {
    path: &'a Path,
    text: &'a str,
    outside: &'a Outside<'a>,
    /// Line (0: the file as a whole), key and what is wrong with it.
    problems: RefCell<Vec<(usize, String)>>,
    /// Every value that came from outside of the file.
    secrets: RefCell<Vec<Secret>>,
}

impl<'a> File<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str, outside: &'a Outside<'a>) -> Self {
        File { path, text, outside, problems: RefCell::default(), secrets: RefCell::default() }
    }

    /// Keeps a problem; `at` is its place in the text, where it has one.
    pub(super) fn problem(&self, at: Option<usize>, what: String) {
        let line =
            at.map_or(0, |at| 1 + self.text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count());
        self.problems.borrow_mut().push((line, what));
    }

    /// The value, or all problems as one error.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T> {
        let mut problems = self.problems.into_inner();
        let path = self.path.display();
        match value {
            Some(value) if problems.is_empty() => return Ok(value),
            None if problems.is_empty() => {
                return Err(Error::internal("a configuration without value or problem"));
            }
            _ => {}
        }
        problems.sort_by_key(|(line, _)| *line);
        let count = match problems.len() {
            1 => "a problem".to_owned(),
            n => format!("{n} problems"),
        };
        let mut what = format!("the configuration has {count}:");
        for (line, problem) in problems {
            match line {
                0 => what.push_str(&format!("\n  {path}: {problem}")),
                _ => what.push_str(&format!("\n  {path}:{line}: {problem}")),
            }
        }
        Err(Error::invalid(what))
    }
}

/// A table with fixed keys.
pub(super) struct Section<'a> {
    file: &'a File<'a>,
    /// Stands before each key in messages: `[archive] `, `[[source]] `, or nothing at the top.
    label: String,
    table: &'a DeTable<'a>,
    at: Option<usize>,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    pub(super) fn top(file: &'a File<'a>, table: &'a DeTable<'a>) -> Self {
        Section { file, label: String::new(), table, at: None, known: RefCell::default() }
    }

    /// The value of a key, if it is there.
    pub(super) fn value(&self, key: &'static str) -> Option<Value<'a>> {
        self.known.borrow_mut().push(key);
        let (_, value) = self.table.get_key_value(key)?;
        Some(self.wrap(key, value))
    }

    /// The value of a key that must be there.
    pub(super) fn required(&self, key: &'static str, form: &str) -> Option<Value<'a>> {
        let value = self.value(key);
        if value.is_none() {
            self.problem(&format!("{}{key}: is missing; it must be {form}", self.label));
        }
        value
    }

    /// Every value, in the file's order, for tables with free keys.
    pub(super) fn entries(&self) -> Vec<(String, Value<'a>)> {
        let mut entries: Vec<_> = self.table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries
            .into_iter()
            .map(|(key, value)| (key.get_ref().to_string(), self.wrap(key.get_ref(), value)))
            .collect()
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for (key, _) in self.table.iter().filter(|(key, _)| !known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let advice = match nearest(name, known.iter().copied()) {
                Some(word) => format!("did you mean {word}?"),
                None => format!("allowed: {}", known.join(", ")),
            };
            self.file.problem(Some(key.span().start), format!("{}{name}: unknown key; {advice}", self.label));
        }
    }

    /// Keeps a problem of the section as a whole.
    pub(super) fn problem(&self, what: &str) {
        self.file.problem(self.at, what.to_owned());
    }

    fn wrap(&self, key: &str, value: &'a toml::Spanned<DeValue<'a>>) -> Value<'a> {
        let name = format!("{}{key}", self.label);
        Value {
            file: self.file,
            name,
            value: value.get_ref(),
            at: value.span().start,
            broken: Cell::new(false),
        }
    }
}

/// One value with its key and place.
pub(super) struct Value<'a> {
    file: &'a File<'a>,
    name: String,
    value: &'a DeValue<'a>,
    at: usize,
    broken: Cell<bool>,
}

/// A string with what it takes from outside of the file put in.
pub(super) struct Text {
    /// What to use.
    pub(super) value: String,
    /// What messages may show: as it stands in the file, so that no secret from outside is shown.
    pub(super) shown: String,
}

impl<'a> Value<'a> {
    /// All of the file.
    pub(super) fn top(file: &'a File<'a>, value: &'a DeValue<'a>) -> Self {
        Value { file, name: "config".to_owned(), value, at: 0, broken: Cell::new(false) }
    }

    /// Keeps a problem of this value.
    pub(super) fn problem(&self, what: impl AsRef<str>) {
        self.broken.set(true);
        self.file.problem(Some(self.at), format!("{}: {}", self.name, what.as_ref()));
    }

    /// The same value under another name in messages.
    pub(super) fn named(mut self, name: String) -> Self {
        self.name = name;
        self
    }

    /// The TOML itself.
    pub(super) fn raw(&self) -> &'a DeValue<'a> {
        self.value
    }

    /// A string, values from outside put in.
    pub(super) fn text(&self, form: &str) -> Option<Text> {
        let DeValue::String(text) = self.value else {
            self.problem(format!("is {}; it must be {form}", kind(self.value)));
            return None;
        };
        let folder = self.file.path.parent().unwrap_or(Path::new(""));
        let mut note = |value: &str| self.file.secrets.borrow_mut().push(Secret::new(value));
        match substitute(text, folder, self.file.outside, &mut note) {
            Ok(value) => Some(Text { value, shown: format!("{text:?}") }),
            Err(what) => {
                self.problem(what);
                None
            }
        }
    }

    /// A string read by `parse`.
    pub(super) fn parse<T>(&self, form: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(form)?;
        let parsed = parse(&text.value);
        if parsed.is_none() {
            self.problem(format!("{} is not allowed; it must be {form}", text.shown));
        }
        parsed
    }

    /// One of some words.
    pub(super) fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.parse(&names.join(" or "), |text| words.iter().find(|(word, _)| *word == text).map(|(_, v)| *v))
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Option<bool> {
        let DeValue::Boolean(value) = self.value else {
            self.problem(format!("is {}; it must be true or false", kind(self.value)));
            return None;
        };
        Some(*value)
    }

    /// A whole number.
    pub(super) fn integer(&self, form: &str) -> Option<i64> {
        let number = integer(self.value);
        if number.is_none() {
            self.problem(format!("is {}; it must be {form}", kind(self.value)));
        }
        number
    }

    /// The items of an array.
    pub(super) fn items(&self, form: &str) -> Option<Vec<Value<'a>>> {
        let DeValue::Array(items) = self.value else {
            self.problem(format!("is {}; it must be {form}", kind(self.value)));
            return None;
        };
        let item = |(n, item): (usize, &'a toml::Spanned<DeValue<'a>>)| Value {
            file: self.file,
            name: format!("{}[{n}]", self.name),
            value: item.get_ref(),
            at: item.span().start,
            broken: Cell::new(false),
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// A table, whose keys are shown after `label`.
    pub(super) fn section(&self, label: &str) -> Option<Section<'a>> {
        let DeValue::Table(table) = self.value else {
            self.problem(format!("is {}; it must be a table", kind(self.value)));
            return None;
        };
        let label = format!("{label} ");
        Some(Section { file: self.file, label, table, at: Some(self.at), known: RefCell::default() })
    }

    /// The table as JSON text, keys in the file's order, values from outside put into its strings; and these values.
    pub(super) fn json(&self) -> Option<(String, Vec<Secret>)> {
        let DeValue::Table(_) = self.value else {
            self.problem(format!("is {}; it must be a table", kind(self.value)));
            return None;
        };
        let known = self.file.secrets.borrow().len();
        let json = self.to_json();
        let secrets = self.file.secrets.borrow()[known..].to_vec();
        (!self.broken.get()).then(|| (json.to_string(), secrets))
    }

    fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        let nested = |value: Value<'a>| {
            let json = value.to_json();
            self.broken.set(self.broken.get() || value.broken.get());
            json
        };
        match self.value {
            DeValue::String(_) => self.text("a string").map_or(Json::Null, |text| Json::String(text.value)),
            DeValue::Boolean(value) => Json::Bool(*value),
            DeValue::Integer(_) => {
                self.integer("a whole number of at most 64 bits").map_or(Json::Null, Json::from)
            }
            DeValue::Float(float) => {
                let number = float.as_str().parse().ok().and_then(serde_json::Number::from_f64);
                if number.is_none() {
                    self.problem("is not finite, which JSON can't say");
                }
                number.map_or(Json::Null, Json::Number)
            }
            DeValue::Datetime(_) => {
                self.problem("is a date or time, which JSON can't say; write it as a string");
                Json::Null
            }
            DeValue::Array(_) => {
                Json::Array(self.items("").unwrap_or_default().into_iter().map(nested).collect())
            }
            DeValue::Table(table) => {
                let label = format!("{}.", self.name);
                let section =
                    Section { file: self.file, label, table, at: Some(self.at), known: RefCell::default() };
                Json::Object(section.entries().into_iter().map(|(key, value)| (key, nested(value))).collect())
            }
        }
    }
}

/// A whole number of at most 64 bits.
pub(super) fn integer(value: &DeValue<'_>) -> Option<i64> {
    let DeValue::Integer(number) = value else { return None };
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
