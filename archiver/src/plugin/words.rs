//! What a plugin says, as the operator may see it: bounded, marked as its own words, and, once there are events,
//! without anything that could quote one. Does not decide when something is shown.

use std::sync::OnceLock;

use wasmparser::{Parser, Payload};

use super::contract::Level;
use super::limits::{MAX_LITERALS, MAX_SAID, MAX_WORDS};

/// The shortest run of characters that is recognised as the plugin's own.
const SHORTEST_RUN: usize = 4;

/// Digits of a line number at most.
const LINE_DIGITS: usize = 6;

/// One thing that a plugin said, as it said it: it may quote an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) said: String,
}

/// The text in a plugin's file, by which its own words are told from an event's.
///
/// A plugin whose author means well says literals with values between them, and the values are hidden. One whose author
/// means to smuggle values out could hold every word there is: that is what reviewing and pinning its file is for.
#[derive(Debug)]
pub(super) struct Literals {
    /// Runs of printable text in the file's data, each with a zero byte behind it.
    text: Vec<u8>,
    /// Where characters begin in it, in the order of what follows; made when it is first asked for.
    order: OnceLock<Vec<u32>>,
}

impl Literals {
    /// The texts in a file's data segments. A file that can't be read has none, so that nothing is shown.
    pub(super) fn of(file: &[u8]) -> Self {
        let mut text = Vec::new();
        for payload in Parser::new(0).parse_all(file).map_while(Result::ok) {
            let Payload::DataSection(segments) = payload else { continue };
            for segment in segments.into_iter().map_while(Result::ok) {
                let runs = segment.data.utf8_chunks().flat_map(|chunk| chunk.valid().split(char::is_control));
                for run in runs.filter(|run| run.chars().nth(SHORTEST_RUN - 1).is_some()) {
                    if text.len() + run.len() < MAX_LITERALS {
                        text.extend_from_slice(run.as_bytes());
                        text.push(0);
                    }
                }
            }
        }
        Literals { text, order: OnceLock::new() }
    }

    /// What may be shown of something said about events: runs that stand in the plugin's file, and the line number behind a
    /// source file's name. Everything else becomes `…`.
    pub(super) fn shown(&self, said: &str) -> String {
        let mut rest = cut(said, MAX_SAID);
        let mut shown = String::new();
        while !rest.is_empty() && shown.len() < MAX_WORDS {
            let length = line_number(&shown, rest).max(self.run(rest));
            let (run, after) = rest.split_at(length);
            shown.extend(run.chars().flat_map(char::escape_debug));
            rest = after;
            if length == 0 {
                if !shown.ends_with('…') {
                    shown.push('…');
                }
                rest = &rest[rest.chars().next().map_or(0, char::len_utf8)..];
            }
        }
        if !rest.is_empty() && !shown.ends_with('…') {
            shown.push('…');
        }
        bounded(&shown)
    }

    /// How many bytes of the beginning are the plugin's own. Mostly digits are nobody's own: the table from which numbers
    /// are printed is in every file, and would vouch for the end of a card number.
    fn run(&self, said: &str) -> usize {
        let order = self.order.get_or_init(|| self.sorted());
        let said_bytes = said.as_bytes();
        let at = order.partition_point(|&at| self.from(at) < said_bytes);
        let common = |&at: &u32| {
            let pairs = self.from(at).iter().zip(said_bytes);
            pairs.take_while(|(own, said)| own == said && **own != 0).count()
        };
        let neighbours = order[at.saturating_sub(1)..].iter().take(2);
        let mut length = neighbours.map(common).max().unwrap_or(0);
        while !said.is_char_boundary(length) {
            length -= 1;
        }
        let run = &said[..length];
        let (chars, letters) = (run.chars().count(), run.chars().filter(|c| c.is_alphabetic()).count());
        if chars >= SHORTEST_RUN && letters * 2 >= chars { length } else { 0 }
    }

    /// As much of the text from there on as is ever compared.
    fn from(&self, at: u32) -> &[u8] {
        let rest = &self.text[at as usize..];
        &rest[..rest.len().min(MAX_WORDS)]
    }

    fn sorted(&self) -> Vec<u32> {
        let begins = |at: &u32| !matches!(self.text[*at as usize], 0 | 0x80..=0xbf);
        let mut order: Vec<u32> = (0..self.text.len() as u32).filter(begins).collect();
        order.sort_unstable_by(|a, b| self.from(*a).cmp(self.from(*b)));
        order
    }
}

/// How many bytes of `rest` are the number of a line: `:42` behind `….rs`, with the colon that ends it.
fn line_number(shown: &str, rest: &str) -> usize {
    let Some(number) = rest.strip_prefix(':').filter(|_| shown.ends_with(".rs")) else { return 0 };
    let digits = number.bytes().take_while(u8::is_ascii_digit).count();
    if !(1..=LINE_DIGITS).contains(&digits) {
        return 0;
    }
    let end = if number[digits..].starts_with(": ") { 2 } else { 0 };
    1 + digits + end
}

/// A plugin's own words while there are no events, made harmless: bounded, and without anything that could end a line or move
/// a cursor.
pub(super) fn untrusted(words: &str) -> String {
    let shown: String = cut(words, MAX_WORDS).chars().flat_map(char::escape_debug).collect();
    if shown.len() > MAX_WORDS || words.len() > MAX_WORDS { bounded(&(shown + "…")) } else { shown }
}

/// The beginning of a text, in whole characters.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

fn bounded(shown: &str) -> String {
    if shown.len() <= MAX_WORDS {
        return shown.to_owned();
    }
    let kept = cut(shown, MAX_WORDS).trim_end_matches('…');
    format!("{kept}…")
}

/// Passes a line on to the operator, `words` being what may be shown of it. A plugin does not decide what wakes a human: its
/// errors are warnings here.
pub(super) fn pass_on(plugin: &str, level: Level, words: &str) {
    const TEXT: &str = "a plugin's own words";
    match level {
        Level::Debug => tracing::debug!(plugin, untrusted = words, "{TEXT}"),
        Level::Info => tracing::info!(plugin, untrusted = words, "{TEXT}"),
        Level::Warn | Level::Error => tracing::warn!(plugin, untrusted = words, "{TEXT}"),
    }
}
