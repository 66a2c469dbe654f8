//! The end-to-end tests: the real binary on a real MongoDB, looked at from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod actors;
mod append;
mod bad_input;
mod bson_types;
mod capture;
mod document_from_deltas;
mod faults;
mod harness;
mod high_availability;
mod history;
mod least_privilege;
mod lost_history;
mod operating;
mod partitions;
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
