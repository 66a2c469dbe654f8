//! The cold tier: records become segments, segments are sealed by manifests, and the log is trimmed behind them.

mod arena;
pub mod day;
pub mod delta;
pub mod extjson;
pub mod manifest;
pub mod merkle;
pub mod paths;
pub mod retention;
pub mod roll;
mod row;
pub mod schema;
pub mod segment;
mod spool;
pub mod store;
pub mod tombstone;
