//! Formats and parses every object key.
