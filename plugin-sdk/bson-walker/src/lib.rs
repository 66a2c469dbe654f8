//! Reads, checks and writes raw BSON without allocation per field.
//!
//! Shared by the plugin SDK (inside the sandbox) and the host. It has no dependencies, never panics on any
//! input, and keeps what it does not understand byte for byte. It does not decode values into a tree: an
//! [`Element`] is a view of the bytes, and a [`Writer`] copies such views.
#![forbid(unsafe_code)]

mod read;
mod write;

pub use read::{Doc, Element, Elements, Error, kind, validate};
pub use write::Writer;
