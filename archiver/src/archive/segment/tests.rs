//! What building and reading a segment promise together.
