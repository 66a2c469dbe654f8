//! What a plugin for Archiver depends on: one trait, one macro, and a redactor that knows every place of an event in
//! which a value can stand.
//!
//! ```
//! use plugin_sdk::prelude::*;
//!
//! struct Pii;
//!
//! impl Plugin for Pii {
//!     const NAME: &'static str = "pii";
//!     fn configure(_config: &str) -> Result<Self, String> {
//!         Ok(Pii)
//!     }
//!     fn process(&self, event: Event<'_>, out: &mut Output<'_>) -> Result<Verdict, String> {
//!         event.rewrite(out, |path, _value| match path.leaf() {
//!             "email" | "phone" => Action::replace("[redacted]"),
//!             "password" => Action::Remove,
//!             _ => Action::Keep,
//!         })
//!     }
//! }
//!
//! plugin_sdk::export!(Pii);
//! # fn main() {}
//! ```

pub mod batch;
pub mod changed;
pub mod config;
pub mod event;
pub mod guest;
pub mod guide;
pub mod log;
pub mod plugin;
mod rewrite;
pub mod rules;
pub mod testing;
pub mod token;
pub mod value;

pub use bson_walker;

/// What a plugin's source file begins with.
pub mod prelude {
    pub use crate::config;
    pub use crate::event::Event;
    pub use crate::guide::Path;
    pub use crate::log::Level;
    pub use crate::plugin::{Output, Plugin, Verdict};
    pub use crate::token::{Hasher, Key};
    pub use crate::value::{Action, Value};
    pub use bson_walker::{Doc, Element, Writer};
}
