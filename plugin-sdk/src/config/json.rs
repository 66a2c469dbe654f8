//! A JSON value as serde reads it, with its place: serde_json's own errors quote values and don't say where they stand.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};

use super::Json;
use super::suggest::nearest;

/// Where a value stands.
#[derive(Clone, Copy)]
pub(super) enum At<'p> {
    Top(&'p str),
    Key(&'p At<'p>, &'p str),
    Index(&'p At<'p>, usize),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Top(place) => f.write_str(place),
            At::Key(At::Top(place), key) => write!(f, "{place}: {key}"),
            At::Key(parent, key) => write!(f, "{parent}.{key}"),
            At::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// What is wrong. The innermost value on the way out puts its place before it.
#[derive(Debug)]
pub(super) struct Error {
    what: String,
    placed: bool,
}

impl Error {
    fn new(what: String) -> Self {
        Error { what, placed: false }
    }

    fn at(self, at: At<'_>) -> Self {
        if self.placed { self } else { Error { what: format!("{at}: {}", self.what), placed: true } }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Error::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match found {
            Unexpected::Bool(_) => "true or false",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
            Unexpected::Float(_) => "a fraction",
            Unexpected::Str(_) | Unexpected::Char(_) => "a string",
            Unexpected::Unit | Unexpected::Option => "null",
            Unexpected::Seq => "an array",
            Unexpected::Map => "a table",
            _ => "something else",
        };
        Error::new(format!("invalid type: {found}, expected {expected}"))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Error::new(format!("invalid value, expected {expected}"))
    }

    fn unknown_variant(word: &str, allowed: &'static [&'static str]) -> Self {
        Error::new(format!("unknown word, expected {}{}", one_of(allowed), meant(word, allowed)))
    }

    fn unknown_field(key: &str, allowed: &'static [&'static str]) -> Self {
        Error::new(format!("unknown field `{key}`, expected {}{}", one_of(allowed), meant(key, allowed)))
    }
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    match &quoted[..] {
        [] => "nothing".into(),
        [only] => only.clone(),
        _ => format!("one of {}", quoted.join(", ")),
    }
}

fn meant(word: &str, allowed: &[&str]) -> String {
    nearest(word, allowed).map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

/// A value at its place.
pub(super) struct Part<'p> {
    pub(super) value: Json,
    pub(super) at: At<'p>,
}

impl<'de> Deserializer<'de> for Part<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let at = self.at;
        let visited = match self.value {
            Json::Null => visitor.visit_unit(),
            Json::Bool(value) => visitor.visit_bool(value),
            Json::String(text) => visitor.visit_string(text),
            Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), ..) => visitor.visit_u64(number),
                (_, Some(number), _) => visitor.visit_i64(number),
                (.., Some(number)) => visitor.visit_f64(number),
                _ => Err(Error::custom("a number out of range")),
            },
            Json::Array(items) => visitor.visit_seq(Items { items: items.into_iter().enumerate(), at: &at }),
            Json::Object(map) => visitor.visit_map(Fields { fields: map.into_iter(), value: None, at: &at }),
        };
        visited.map_err(|e| e.at(at))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Json::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let at = self.at;
        let (word, value) = match self.value {
            Json::String(word) => (word, None),
            Json::Object(map) if map.len() == 1 => match map.into_iter().next() {
                Some((word, value)) => (word, Some(value)),
                None => return Err(Error::custom("an empty table").at(at)),
            },
            _ => {
                return Err(
                    Error::custom(format!("expected {}, and nothing beside it", one_of(words))).at(at)
                );
            }
        };
        visitor.visit_enum(Variant { word, value, at: &at }).map_err(|e| e.at(at))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct Items<'p, I> {
    items: I,
    at: &'p At<'p>,
}

impl<'de, I: Iterator<Item = (usize, Json)>> SeqAccess<'de> for Items<'_, I> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some((index, value)) = self.items.next() else { return Ok(None) };
        let at = At::Index(self.at, index);
        seed.deserialize(Part { value, at }).map(Some).map_err(|e| e.at(at))
    }
}

struct Fields<'p, I> {
    fields: I,
    value: Option<(String, Json)>,
    at: &'p At<'p>,
}

impl<'de, I: Iterator<Item = (String, Json)>> MapAccess<'de> for Fields<'_, I> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some((key, value)) = self.fields.next() else { return Ok(None) };
        let read = seed.deserialize(StrDeserializer::<Error>::new(&key));
        self.value = Some((key, value));
        read.map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let (key, value) = self.value.take().ok_or_else(|| Error::custom("a value without key"))?;
        let at = At::Key(self.at, &key);
        seed.deserialize(Part { value, at }).map_err(|e| e.at(at))
    }
}

/// One word, or one word with what belongs to it: `{ drop = { … } }`.
struct Variant<'p> {
    word: String,
    value: Option<Json>,
    at: &'p At<'p>,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        Ok((seed.deserialize(StrDeserializer::<Error>::new(&self.word))?, self))
    }
}

impl Variant<'_> {
    fn content<T>(self, read: impl FnOnce(Part<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let at = At::Key(self.at, &self.word);
        let value = self.value.ok_or_else(|| Error::custom("needs a table of its own").at(at))?;
        read(Part { value, at }).map_err(|e| e.at(at))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.value {
            None => Ok(()),
            Some(_) => Err(Error::custom(format!("`{}` takes no value", self.word))),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        self.content(|part| seed.deserialize(part))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.content(|part| part.deserialize_any(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.content(|part| part.deserialize_any(visitor))
    }
}
