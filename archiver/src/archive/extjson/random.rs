//! Random raw BSON for tests: every type, and with `odd` everything that a document can be but should not.

use bson_walker::{Writer, kind};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// A source of random documents that a seed determines.
pub(crate) struct Random {
    rng: StdRng,
    /// Whether documents may hold what plain Extended JSON can't say.
    odd: bool,
}

impl Random {
    pub(crate) fn new(seed: u64, odd: bool) -> Self {
        Random { rng: StdRng::seed_from_u64(seed), odd }
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.rng.random_range(0..bound)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One document's bytes.
    pub(crate) fn document(&mut self) -> Vec<u8> {
        Writer::build(|w| self.fields(w, 1))
    }

    fn fields(&mut self, w: &mut Writer<'_>, depth: usize) {
        for n in 0..self.below(7) {
            let name = self.name(n);
            self.field(w, &name, depth);
        }
    }

    /// Names are unique unless odd.
    fn name(&mut self, n: usize) -> Vec<u8> {
        if self.odd && self.one_in(6) {
            let odd: [&[u8]; 12] = [
                b"",
                b"a",
                b"a",
                b"$oid",
                b"$numberLong",
                b"$date",
                b"$code",
                b"$scope",
                b"a.b",
                b"\xff\xfe",
                b"\x01\"\\\n",
                b"$ref",
            ];
            return odd[self.below(odd.len())].to_vec();
        }
        let names = ["name", "größe", "with space", "q\"uote", "$set", "日本", "tab\t", "/"];
        format!("{}{n}", names[self.below(names.len())]).into_bytes()
    }

    fn string(&mut self) -> Vec<u8> {
        if self.odd && self.one_in(8) {
            return [&b"ab\xf0\x28"[..], &b"\xed\xa0\x80"[..], &b"\xff"[..]][self.below(3)].to_vec();
        }
        let texts = [
            "",
            "plain",
            "a\"b\\c",
            "\u{0}\u{1}\u{1f}\u{7f}\r\n\t",
            "𝄞 ünï 漢字",
            "</script>",
            "{\"$oid\":\"x\"}",
            "\u{2028}",
        ];
        texts[self.below(texts.len())].repeat(1 + self.below(3)).into_bytes()
    }

    fn bson_string(&mut self) -> Vec<u8> {
        let text = self.string();
        [&(text.len() as i32 + 1).to_le_bytes()[..], &text, &[0]].concat()
    }

    fn integer(&mut self) -> i64 {
        let edges = [
            0,
            1,
            -1,
            42,
            i64::from(i32::MAX),
            i64::from(i32::MIN),
            i64::from(i32::MAX) + 1,
            i64::MAX,
            i64::MIN,
        ];
        if self.one_in(2) {
            edges[self.below(edges.len())]
        } else {
            self.rng.random::<i64>() >> self.below(64)
        }
    }

    fn double(&mut self) -> f64 {
        if self.odd && self.one_in(3) {
            let nans =
                [0x7FF8_0000_0000_0000, 0x7FF8_0000_0000_0001, 0xFFF8_0000_0000_0000, 0x7FF0_0000_0000_0001];
            let any = self.rng.random();
            return f64::from_bits(if self.one_in(2) { any } else { nans[self.below(nans.len())] });
        }
        let edges = [
            0.0,
            -0.0,
            1.0,
            0.1,
            -1e300,
            5e-324,
            f64::MAX,
            1e16,
            1e15,
            123_456_789.125,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ];
        edges[self.below(edges.len())]
    }

    fn date(&mut self) -> i64 {
        let edges =
            [0, -1, 1, 253_402_300_799_999, 253_402_300_800_000, i64::MIN, i64::MAX, 1_795_239_000_123];
        edges[self.below(edges.len())]
    }

    fn decimal(&mut self) -> [u8; 16] {
        if self.odd && self.one_in(3) {
            return self.rng.random();
        }
        let texts = [
            "0",
            "-0.00",
            "12345.6789",
            "1E+6111",
            "-9.999999999999999999999999999999999E-6143",
            "Infinity",
            "NaN",
        ];
        texts[self.below(texts.len())].parse::<bson::Decimal128>().unwrap_or_else(|_| unreachable!()).bytes()
    }

    fn binary(&mut self) -> Vec<u8> {
        let data: Vec<u8> = (0..self.below(20)).map(|_| self.rng.random()).collect();
        let subtypes = [0, 1, 3, 4, 5, 6, 7, 0x80, 0xFF, 2];
        let subtype = subtypes[self.below(subtypes.len())];
        let data = if subtype == 2 && !(self.odd && self.one_in(2)) {
            [&(data.len() as i32).to_le_bytes()[..], &data].concat()
        } else {
            data
        };
        [&(data.len() as i32).to_le_bytes()[..], &[subtype], &data].concat()
    }

    fn regex(&mut self) -> Vec<u8> {
        let options: &[u8] = if self.odd && self.one_in(2) { b"xmi" } else { b"imx" };
        let pattern = [&b"^a.*\\d\"$"[..], b"", "größe".as_bytes()][self.below(3)];
        [pattern, &[0], options, &[0]].concat()
    }

    fn field(&mut self, w: &mut Writer<'_>, name: &[u8], depth: usize) {
        match self.below(if depth > 6 { 21 } else { 25 }) {
            0 => w.raw(kind::DOUBLE, name, &self.double().to_le_bytes()),
            1 => w.raw(kind::STRING, name, &self.bson_string()),
            2 => w.raw(kind::BINARY, name, &self.binary()),
            3 => w.raw(kind::UNDEFINED, name, &[]),
            4 => w.raw(kind::OBJECT_ID, name, &self.rng.random::<[u8; 12]>()),
            5 => w.raw(kind::BOOLEAN, name, &[u8::from(self.one_in(2))]),
            6 => w.raw(kind::DATE, name, &self.date().to_le_bytes()),
            7 => w.raw(kind::NULL, name, &[]),
            8 => w.raw(kind::REGEX, name, &self.regex()),
            9 => w.raw(kind::DB_POINTER, name, &[self.bson_string(), vec![7; 12]].concat()),
            10 => w.raw(kind::CODE, name, &self.bson_string()),
            11 => w.raw(kind::SYMBOL, name, &self.bson_string()),
            12 | 13 => w.raw(kind::INT32, name, &(self.integer() as i32).to_le_bytes()),
            14 | 15 => w.raw(kind::INT64, name, &self.integer().to_le_bytes()),
            16 => w.raw(kind::TIMESTAMP, name, &self.rng.random::<[u8; 8]>()),
            17 => w.raw(kind::DECIMAL128, name, &self.decimal()),
            18 => w.raw(kind::MIN_KEY, name, &[]),
            19 => w.raw(kind::MAX_KEY, name, &[]),
            20 => {
                let code = self.bson_string();
                let scope = if depth > 6 {
                    vec![5, 0, 0, 0, 0]
                } else {
                    Writer::build(|w| self.fields(w, depth + 1))
                };
                let len = (4 + code.len() + scope.len()) as i32;
                w.raw(kind::CODE_WITH_SCOPE, name, &[&len.to_le_bytes()[..], &code, &scope].concat());
            }
            21 | 22 => {
                let mut inner = w.begin_doc(name);
                self.fields(&mut inner, depth + 1);
                inner.end();
            }
            _ => {
                let mut inner = w.begin_array(name);
                for n in 0..self.below(13) {
                    let odd = self.odd && self.one_in(40);
                    let index = if odd { b"01".to_vec() } else { n.to_string().into_bytes() };
                    self.field(&mut inner, &index, depth + 1);
                }
                inner.end();
            }
        }
    }
}
