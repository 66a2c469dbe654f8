//! The Parquet schema of a segment.
