//! The end-to-end tests: the real binary on a real MongoDB, looked at from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod append;
mod bad_input;
mod bson_types;
mod capture;
mod document_from_deltas;
mod harness;
mod history;
mod lost_history;
mod operating;
mod plugins;
mod recover;
mod redaction;
mod renamed_into;
mod restart;
mod rolling;
mod segments;
mod sql;
mod tidy;
mod verify;
