//! The hot tier: one append-only collection per source, and the contract of what is durable when.

use crate::error::Error;

/// Classifies an error of the MongoDB driver and hides the server's message, which may hold document contents.
pub fn mongo_error(doing: &str, err: mongodb::error::Error) -> Error {
    let _ = err;
    Error::unavailable(format!("MongoDB failed: {doing}"))
}
