//! Random secrets of 128 bits in every kind of value and in every position of documents and changes.

use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Document, JavaScriptCodeWithScope, Regex, Timestamp, doc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::canary::Canary;
use crate::updates::Update;

/// Makes secrets, and remembers them.
#[derive(Debug)]
pub struct Secrets {
    rng: StdRng,
    /// Those in values and names.
    pub canaries: Vec<Canary>,
    /// Those in `_id`s and in definitions, which resume tokens hold too.
    pub ids: Vec<Canary>,
}

/// Which kinds of values [`Secrets::value`] makes before it nests them.
const KINDS: u32 = 16;

impl Secrets {
    /// None yet.
    pub fn new(seed: u64) -> Secrets {
        Secrets { rng: StdRng::seed_from_u64(seed), canaries: Vec::new(), ids: Vec::new() }
    }

    /// A secret as text, good for a name: 32 hexadecimal digits behind a letter.
    pub fn name(&mut self) -> String {
        let text = format!("s{:032x}", self.rng.random::<u128>());
        self.canaries.push(Canary::text(&text));
        text
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let bytes: [u8; N] = std::array::from_fn(|_| self.rng.random());
        self.canaries.push(Canary::bytes(&bytes));
        bytes
    }

    /// A secret of any type, perhaps below documents and arrays, perhaps as a name in them.
    pub fn value(&mut self) -> Bson {
        let kind = self.rng.random_range(0..KINDS + 6);
        if kind < KINDS { self.leaf(kind) } else { self.nested(kind - KINDS) }
    }

    fn leaf(&mut self, kind: u32) -> Bson {
        match kind {
            0 | 1 => self.name().into(),
            2 => format!("Dear {}, your order is on its way.", self.name()).into(),
            3 => format!("{{\"card\": {{\"pan\": \"{}\"}}}}", self.name()).into(),
            4 => Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: self.bytes::<16>().to_vec() }),
            5 => Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: self.bytes::<16>().to_vec() }),
            6 => Bson::Binary(Binary {
                subtype: BinarySubtype::UserDefined(0x83),
                bytes: self.name().into_bytes(),
            }),
            7 => Bson::JavaScriptCode(format!("function() {{ return '{}'; }}", self.name())),
            8 => Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
                code: format!("f('{}')", self.name()),
                scope: doc! {self.name(): self.name()},
            }),
            9 => Bson::RegularExpression(Regex {
                pattern: format!("^{}$", self.name()).try_into().expect("a pattern"),
                options: "i".try_into().expect("options"),
            }),
            10 => Bson::Symbol(self.name()),
            11 => Bson::ObjectId(ObjectId::from_bytes(self.bytes::<12>())),
            12 => {
                let number = self.rng.random_range(1_000_000_000_000_000_000..i64::MAX);
                self.canaries.push(Canary::number(number));
                Bson::Int64(number)
            }
            13 => {
                // Ten digits before the point: no shorter text stands for it.
                let number: f64 = self.rng.random_range(1e9..9e9);
                self.canaries.push(Canary::bytes(&number.to_le_bytes()));
                self.canaries.push(Canary::text(&number.to_string()));
                Bson::Double(number)
            }
            14 => {
                let text = format!("{}", self.rng.random_range(10_u128.pow(32)..10_u128.pow(33)));
                self.canaries.push(Canary::text(&text));
                Bson::Decimal128(text.parse().expect("a number"))
            }
            _ => {
                // Centuries away, so that no date of today is taken for it.
                let millis = self.rng.random_range(100_000_000_000_000..200_000_000_000_000);
                self.canaries.push(Canary::bytes(&i64::to_le_bytes(millis)));
                let date = DateTime::from_millis(millis);
                self.canaries.push(Canary::text(&date.try_to_rfc3339_string().expect("a date")));
                Bson::DateTime(date)
            }
        }
    }

    fn nested(&mut self, kind: u32) -> Bson {
        match kind {
            0 => Bson::Array(vec![self.value(), 1.into(), Bson::Null, self.value()]),
            1 => Bson::Array(vec![Bson::Array(vec![Bson::Array(vec![self.value()]), self.value()])]),
            2 => Bson::Array(vec![doc! {"deep": self.value()}.into(), self.value()]),
            3 => doc! {self.name(): 1, "b": {self.name(): [self.value()]}}.into(),
            4 => doc! {"$ref": "people", "$id": self.value()}.into(),
            _ => doc! {format!("{}@example.org", self.name()): self.value(), "": self.value()}.into(),
        }
    }

    /// A secret that stands in what resume tokens hold: a document's key, or what an event about a collection says of it.
    pub fn in_tokens(&mut self) -> String {
        let name = self.name();
        self.ids.extend(self.canaries.pop());
        name
    }

    /// A secret `_id`.
    pub fn id(&mut self) -> Bson {
        let known = self.canaries.len();
        let id = match self.rng.random_range(0..6) {
            0 | 1 => self.leaf(0),
            2 => self.leaf(4),
            3 => self.leaf(11),
            4 => self.leaf(12),
            _ => doc! {"of": self.name(), self.name(): Timestamp { time: 7, increment: 1 }}.into(),
        };
        self.ids.extend(self.canaries.drain(known..));
        id
    }

    /// A document with secrets below `field` only.
    pub fn document(&mut self, id: Bson, field: &str) -> Document {
        let values: Vec<Bson> = (0..3).map(|_| self.value()).collect();
        let list: Vec<Bson> =
            (0..4).map(|n| doc! {"n": n, "text": self.name(), self.name(): n}.into()).collect();
        doc! {"_id": id, "n": 1, "kind": "order", field: {"list": list, "values": values, "one": self.value()}}
    }

    /// Changes that carry secrets below `field` only, in every shape that MongoDB reports: dotted, indexed, a parent set whole,
    /// removed names, truncated arrays, pipelines.
    pub fn changes(&mut self, field: &str) -> Vec<Update> {
        let at = |below: &str| format!("{field}.{below}");
        let name = self.name();
        vec![
            Update::operators(doc! {"$set": {at("one"): self.value(), at(&name): self.value()}}),
            Update::operators(
                doc! {"$set": {at("list.0.text"): self.name(), at("list.1"): {self.name(): 1}}},
            ),
            Update::operators(doc! {"$set": {at("list.2.deep"): self.value(), "n": 2}}),
            Update::operators(doc! {"$push": {at("values"): {"$each": [self.value()], "$slice": -2}}}),
            Update::operators(doc! {"$push": {at("values"): self.value()}}),
            Update::operators(doc! {"$unset": {at(&name): ""}}),
            Update::operators(doc! {"$pop": {at("list"): 1}}),
            Update::operators(doc! {"$rename": {at("one"): at(&self.name())}}),
            Update::pipeline(vec![doc! {"$set": {at("list"): {"$slice": [format!("${field}.list"), 1]}}}]),
            Update::pipeline(vec![doc! {"$set": {field: {"$setField": {
                "field": {"$literal": format!("{}.{}", self.name(), self.name())},
                "input": format!("${field}"),
                "value": {"$literal": self.value()},
            }}}}]),
            Update::operators(doc! {"$set": {field: self.value()}}),
            Update::operators(
                doc! {"$set": {field: {self.name(): [[self.value()], {self.name(): self.value()}]}}},
            ),
            Update::operators(doc! {"$unset": {field: ""}}),
        ]
    }
}
