//! A plugin for the tests: does what the document's field `do` tells it, all of it bad.

use std::hint::black_box;

use plugin_sdk::prelude::*;

struct Misbehave;

impl Plugin for Misbehave {
    const NAME: &'static str = "misbehave";
    const MAY_DROP: bool = true;

    fn configure(_config: &str) -> Result<Self, String> {
        Ok(Misbehave)
    }

    fn process(&self, event: Event<'_>, out: &mut Output<'_>) -> Result<Verdict, String> {
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

/// Panics with what it was given, as careless code does.
fn out_of_bounds(secret: &str) -> String {
    assert!(black_box(secret).is_empty(), "panic about {secret}");
    String::new()
}

plugin_sdk::export!(Misbehave);
