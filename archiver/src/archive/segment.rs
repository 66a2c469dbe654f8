//! Builds and reads one segment.
