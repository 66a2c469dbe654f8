//! The DuckDB statements that create views and macros over an archive.
