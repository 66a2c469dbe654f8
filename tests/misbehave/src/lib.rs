//! A plugin for the tests: does what the document's field `do` tells it, all of it bad. With `always` in its configuration it
//! fails on every event of a test's database, and says as much of it as it can; with `chatter` it says so and drops it.

use std::hint::black_box;

use plugin_sdk::prelude::*;

struct Misbehave {
    always: bool,
    chatter: bool,
}

impl Plugin for Misbehave {
    const NAME: &'static str = "misbehave";
    const MAY_DROP: bool = true;

    fn configure(config: &str) -> Result<Self, String> {
        Ok(Misbehave { always: config.contains("always"), chatter: config.contains("chatter") })
    }

    fn process(&self, event: Event<'_>, out: &mut Output<'_>) -> Result<Verdict, String> {
        if event.db().is_some_and(|db| db.starts_with("shop_")) {
            if self.always {
                return Err(tell_all(event));
            }
            if self.chatter {
                say_all(event.doc().as_bytes());
                return Ok(Verdict::Drop);
            }
        }
        let secret = event.str("after.secret").unwrap_or_default();
        match event.str("after.do").unwrap_or_default() {
            "panic" => Err(out_of_bounds(secret)),
            "refuse" => Err(format!("I refuse {secret}")),
            "loop" => loop {
                black_box(secret);
            },
            "memory" => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(vec![black_box(7_u8); 1 << 20]);
                }
            }
            "drop" => Ok(Verdict::Drop),
            "garbage" => Ok(out.put(b"\x06\x00\x00\x00\xee\x00")),
            "identity" => Ok(out.write(|w| {
                for element in event.doc().elements().map_while(Result::ok) {
                    if element.name() == b"op" { w.str("op", "delete") } else { w.append(&element) }
                }
            })),
            _ => Ok(Verdict::Keep),
        }
    }
}

/// Says the whole event, in two ways.
fn say_all(bytes: &[u8]) {
    plugin_sdk::log!(Error, "this is the event: {}", String::from_utf8_lossy(bytes));
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    plugin_sdk::log!(Debug, "and in hex: {hex}");
}

/// Fails in one way or another, with the whole event in its words.
fn tell_all(event: Event<'_>) -> String {
    let bytes = event.doc().as_bytes();
    say_all(bytes);
    let text = String::from_utf8_lossy(bytes);
    if bytes.len() % 2 == 0 { out_of_bounds(&text) } else { format!("I refuse {text}") }
}

/// Panics with what it was given, as careless code does.
fn out_of_bounds(secret: &str) -> String {
    assert!(black_box(secret).is_empty(), "panic about {secret}");
    String::new()
}

plugin_sdk::export!(Misbehave);
