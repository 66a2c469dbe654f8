//! A small model of documents, updates and path rules, written apart from the plugin.
#![allow(unreachable_pub)]

use bson::{Bson, Document, doc};
use plugin_sdk::prelude::Plugin;
use plugin_sdk::testing::run;

#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Name(String),
    Index(usize),
}

pub type RealPath = Vec<Part>;

fn joined(path: &[Part]) -> String {
    let parts: Vec<_> = path
        .iter()
        .map(|p| match p {
            Part::Name(n) => n.clone(),
            Part::Index(i) => i.to_string(),
        })
        .collect();
    parts.join(".")
}

fn ambiguous(path: &[Part]) -> bool {
    path.iter().any(|p| matches!(p, Part::Name(n) if n.contains('.') || n.parse::<usize>().is_ok()))
}

/// One update: what was set, removed and cut.
#[derive(Debug, Default)]
pub struct Update {
    set: Vec<(RealPath, Bson)>,
    removed: Vec<RealPath>,
    cut: Vec<(RealPath, usize)>,
}

impl Update {
    pub fn paths(&self) -> Vec<&RealPath> {
        self.set.iter().map(|s| &s.0).chain(&self.removed).chain(self.cut.iter().map(|c| &c.0)).collect()
    }

    /// As MongoDB would describe it.
    pub fn delta(&self) -> Document {
        let exact = self.paths().into_iter().filter(|path| ambiguous(path)).map(|path| {
            let parts: Vec<Bson> = path
                .iter()
                .map(|p| match p {
                    Part::Name(n) => Bson::String(n.clone()),
                    Part::Index(i) => Bson::Int32(*i as i32),
                })
                .collect();
            (joined(path), Bson::Array(parts))
        });
        let cut =
            self.cut.iter().map(|(p, n)| Bson::Document(doc! {"field": joined(p), "newSize": *n as i32}));
        doc! {
            "updatedFields": self.set.iter().map(|(p, v)| (joined(p), v.clone())).collect::<Document>(),
            "removedFields": self.removed.iter().map(|p| Bson::String(joined(p))).collect::<Vec<_>>(),
            "truncatedArrays": cut.collect::<Vec<_>>(),
            "disambiguatedPaths": exact.collect::<Document>(),
        }
    }
}

/// Applies a delta strictly: a path that leads nowhere is an error, unless it is only to be removed.
pub fn apply(before: &Document, delta: &Document) -> Result<Document, String> {
    let mut root = Bson::Document(before.clone());
    let exact = delta.get_document("disambiguatedPaths").cloned().unwrap_or_default();
    let path = |text: &str| -> Vec<Part> {
        match exact.get_array(text) {
            Ok(parts) => parts
                .iter()
                .map(|p| {
                    p.as_str()
                        .map_or_else(|| Part::Index(p.as_i32().unwrap() as usize), |n| Part::Name(n.into()))
                })
                .collect(),
            Err(_) => text
                .split('.')
                .map(|n| n.parse().map_or_else(|_| Part::Name(n.into()), Part::Index))
                .collect(),
        }
    };
    for entry in delta.get_array("truncatedArrays").unwrap() {
        let entry = entry.as_document().unwrap();
        let field = entry.get_str("field").unwrap();
        let Some(Bson::Array(items)) = at(&mut root, &path(field)) else {
            return Err(format!("{field} is no array"));
        };
        items.truncate(entry.get_i32("newSize").unwrap() as usize);
    }
    for field in delta.get_array("removedFields").unwrap() {
        let path = path(field.as_str().unwrap());
        let (last, parents) = path.split_last().unwrap();
        if let (Some(Bson::Document(parent)), Part::Name(name)) = (at(&mut root, parents), last) {
            parent.remove(name);
        }
    }
    for (field, value) in delta.get_document("updatedFields").unwrap() {
        let path = path(field);
        let (last, parents) = path.split_last().unwrap();
        match (at(&mut root, parents), last) {
            (Some(Bson::Document(parent)), Part::Name(name)) => {
                parent.insert(name, value.clone());
            }
            (Some(Bson::Document(parent)), Part::Index(i)) if parents.is_empty() => {
                parent.insert(i.to_string(), value.clone());
            }
            (Some(Bson::Array(items)), Part::Index(i)) if *i < items.len() => items[*i] = value.clone(),
            (Some(Bson::Array(items)), Part::Index(i)) if *i == items.len() => items.push(value.clone()),
            _ => return Err(format!("{field} leads nowhere")),
        }
    }
    match root {
        Bson::Document(doc) => Ok(doc),
        _ => Err("no document".into()),
    }
}

fn at<'d>(value: &'d mut Bson, path: &[Part]) -> Option<&'d mut Bson> {
    path.iter().try_fold(value, |value, part| match (value, part) {
        (Bson::Document(doc), Part::Name(name)) => doc.get_mut(name),
        (Bson::Document(doc), Part::Index(i)) => doc.get_mut(i.to_string()),
        (Bson::Array(items), Part::Index(i)) => items.get_mut(*i),
        _ => None,
    })
}

/// Every string in a document, with its path.
pub fn leaves(doc: &Document) -> Vec<(RealPath, String)> {
    fn walk(value: &Bson, path: &mut RealPath, out: &mut Vec<(RealPath, String)>) {
        match value {
            Bson::Document(doc) => doc.iter().for_each(|(name, value)| {
                path.push(Part::Name(name.clone()));
                walk(value, path, out);
                path.pop();
            }),
            Bson::Array(items) => items.iter().enumerate().for_each(|(i, value)| {
                path.push(Part::Index(i));
                walk(value, path, out);
                path.pop();
            }),
            Bson::String(text) => out.push((path.clone(), text.clone())),
            _ => {}
        }
    }
    let mut out = Vec::new();
    walk(&Bson::Document(doc.clone()), &mut Vec::new(), &mut out);
    out
}

/// Whether any reading of the path is covered by any rule: numbers may be indexes, dots may cut names.
pub fn covered(rules: &[(String, &str)], path: &[Part]) -> bool {
    let mut readings: Vec<Vec<String>> = vec![Vec::new()];
    for part in path {
        let options: Vec<Vec<String>> = match part {
            Part::Index(i) => vec![vec![], vec![i.to_string()]],
            Part::Name(n) if n.parse::<usize>().is_ok() => vec![vec![], vec![n.clone()]],
            Part::Name(n) if n.contains('.') => {
                // As one name; as a path; as a path whose numbers are indexes.
                let names = || n.split('.').map(String::from);
                vec![
                    vec![n.clone()],
                    names().collect(),
                    names().filter(|n| n.parse::<usize>().is_err()).collect(),
                ]
            }
            Part::Name(n) => vec![vec![n.clone()]],
        };
        readings = readings
            .iter()
            .flat_map(|reading| options.iter().map(move |option| [reading.as_slice(), option].concat()))
            .collect();
    }
    rules.iter().any(|(rule, _)| {
        let rule: Vec<&str> = rule.split('.').collect();
        readings.iter().any(|reading| (1..=reading.len()).any(|n| fits(&rule, &reading[..n])))
    })
}

fn fits(rule: &[&str], names: &[String]) -> bool {
    match (rule.split_first(), names.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => (0..=names.len()).any(|n| fits(rest, &names[n..])),
        (Some((&"*", rest)), Some((_, names))) => fits(rest, names),
        (Some((name, rest)), Some((first, names))) => name == first && fits(rest, names),
        _ => false,
    }
}

/// Random documents, updates and rules from a seed (splitmix64).
pub struct Random {
    state: u64,
    texts: u32,
    /// Whether values and names are also such as value rules find.
    findable: bool,
}

/// What value rules find, each with the rule's `find`.
pub const FINDABLE: [(&str, &str); 6] = [
    ("bob@example.com", r#""email""#),
    ("4111111111111111", r#""card""#),
    ("5555 5555 5555 4444", r#""card""#),
    ("DE89370400440532013000", r#""iban""#),
    ("tok-4711", r#"{"regex":"tok-[0-9]+"}"#),
    ("bob@sub.example.org", r#""email""#),
];

impl Random {
    pub fn new(seed: u64) -> Self {
        Random { state: seed, texts: 0, findable: false }
    }

    pub fn findable(seed: u64) -> Self {
        Random { findable: true, ..Random::new(seed) }
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn name(&mut self) -> String {
        if self.findable && self.below(6) == 0 {
            return FINDABLE[self.below(FINDABLE.len())].0.into();
        }
        ["a", "b", "c", "d", "0", "1", "a.b", "c.1.d"][self.below(8)].into()
    }

    fn value(&mut self, depth: usize) -> Bson {
        match if depth == 0 { 0 } else { self.below(5) } {
            1 | 2 => Bson::Document(self.document(depth - 1)),
            3 => Bson::Array((0..self.below(4)).map(|_| self.value(depth - 1)).collect()),
            _ if self.findable && self.below(2) == 0 => self.found(),
            _ => {
                self.texts += 1;
                Bson::String(format!("text {:04} of the document", self.texts))
            }
        }
    }

    fn found(&mut self) -> Bson {
        let (text, _) = FINDABLE[self.below(FINDABLE.len())];
        match self.below(5) {
            0 => Bson::Int64(4_111_111_111_111_111),
            1 => Bson::Double(4_111_111_111_111_111.0),
            2 => Bson::String(text.into()),
            3 => Bson::String(format!(r#"{{"a":["{text}",1]}}"#)),
            _ => Bson::String(format!("one {text}, two {text}.")),
        }
    }

    /// Rules that look at values, as JSON; those whose `find` is in the second list have no path.
    pub fn value_rules(&mut self) -> (Vec<String>, Vec<&'static str>) {
        let (mut rules, mut everywhere) = (Vec::new(), Vec::new());
        for _ in 0..1 + self.below(3) {
            let (_, find) = FINDABLE[self.below(FINDABLE.len())];
            let path = match self.below(3) {
                0 => format!(r#""path":"{}","#, self.rules(false)[0].0),
                _ => {
                    everywhere.push(find);
                    String::new()
                }
            };
            let action = [
                r#""action":"remove""#,
                r#""action":"mask""#,
                r#""action":"mask","keep_last":2"#,
                r#""action":"replace","value":"[found]""#,
            ][self.below(4)];
            rules.push(format!(r#"{{{path}"find":{find},{action}}}"#));
        }
        (rules, everywhere)
    }

    pub fn document(&mut self, depth: usize) -> Document {
        (0..1 + self.below(4)).map(|_| (self.name(), self.value(depth))).collect()
    }

    pub fn rules(&mut self, allow: bool) -> Vec<(String, &'static str)> {
        let mut rules: Vec<_> = (0..1 + self.below(4))
            .map(|_| {
                let mut names: Vec<_> = (0..1 + self.below(3))
                    .map(|_| ["a", "b", "c", "d", "a", "b", "0", "1", "*", "**"][self.below(10)])
                    .collect();
                // A `**` at the end may stand for nothing; the model has no special case for it but this.
                if names.iter().all(|n| *n == "**") {
                    names = vec!["*"];
                }
                while names.last() == Some(&"**") {
                    names.pop();
                }
                let actions = ["remove", "mask", "replace", "keep", "keep", "keep"];
                (names.join("."), actions[self.below(if allow { 6 } else { 3 })])
            })
            .collect();
        if allow {
            rules.push(("_id".into(), "keep"));
        }
        rules
    }

    /// A random place in the document to change: a container and its path.
    fn place(&mut self, doc: &Document) -> RealPath {
        let mut path = Vec::new();
        let mut value = Bson::Document(doc.clone());
        while self.below(3) > 0 {
            let next = match &value {
                Bson::Document(doc) if !doc.is_empty() => {
                    let (name, value) = doc.iter().nth(self.below(doc.len())).unwrap();
                    (Part::Name(name.clone()), value.clone())
                }
                Bson::Array(items) if !items.is_empty() => {
                    let i = self.below(items.len());
                    (Part::Index(i), items[i].clone())
                }
                _ => break,
            };
            if !matches!(next.1, Bson::Document(_) | Bson::Array(_)) {
                break;
            }
            path.push(next.0);
            value = next.1;
        }
        path
    }

    pub fn update(&mut self, before: &Document) -> (Document, Update) {
        let mut update = Update::default();
        let mut after = before.clone();
        for _ in 0..1 + self.below(4) {
            let mut path = self.place(&after);
            let mut root = Bson::Document(after.clone());
            let one = match at(&mut root, &path).unwrap() {
                Bson::Array(items) if !items.is_empty() && self.below(3) == 0 => {
                    Update { cut: vec![(path.clone(), self.below(items.len()))], ..Update::default() }
                }
                Bson::Array(items) => {
                    path.push(Part::Index(self.below(items.len() + 1)));
                    Update { set: vec![(path.clone(), self.value(2))], ..Update::default() }
                }
                Bson::Document(doc) if !doc.is_empty() && self.below(3) == 0 => {
                    let name = doc.keys().nth(self.below(doc.len())).unwrap().clone();
                    path.push(Part::Name(name));
                    Update { removed: vec![path.clone()], ..Update::default() }
                }
                _ => {
                    path.push(Part::Name(self.name()));
                    Update { set: vec![(path.clone(), self.value(2))], ..Update::default() }
                }
            };
            let conflicts = update.paths().into_iter().any(|used| {
                let cut_above = update.cut.iter().any(|(cut, _)| cut == used) && path.len() > used.len();
                let (short, long) = if used.len() < path.len() { (used, &path) } else { (&path, used) };
                (long.starts_with(short) && !cut_above) || joined(used) == joined(&path)
            });
            if conflicts {
                continue;
            }
            after = apply(&after, &one.delta()).unwrap();
            update.set.extend(one.set);
            update.removed.extend(one.removed);
            update.cut.extend(one.cut);
        }
        (after, update)
    }
}

/// What the plugin leaves of an event, which is sound BSON.
pub fn redacted<P: Plugin>(plugin: &P, event: &Document) -> Document {
    let bytes = event.to_vec().unwrap();
    let out = run(plugin, &bytes).unwrap().into_bytes(&bytes).unwrap();
    plugin_sdk::bson_walker::validate(&out, 200).unwrap();
    Document::from_reader(&out[..]).unwrap()
}

/// A value with the fields of all documents in the order of their names.
pub fn sorted(value: &Bson) -> Bson {
    match value {
        Bson::Document(doc) => {
            let mut fields: Vec<_> = doc.iter().map(|(k, v)| (k.clone(), sorted(v))).collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Bson::Document(fields.into_iter().collect())
        }
        Bson::Array(items) => Bson::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}
