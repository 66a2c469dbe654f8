//! The end-to-end tests: the real binary on a real MongoDB, looked at from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod actors;
mod append;
mod bad_input;
mod bson_types;
mod capture;
mod connections;
mod document_from_deltas;
mod faults;
mod harness;
mod high_availability;
mod history;
mod images;
mod large_events;
mod least_privilege;
mod lifecycle;
mod lost_history;
mod operating;
mod partitions;
mod plugins;
mod positions;
mod quarantine;
mod recover;
mod redaction;
mod reload;
mod renamed_into;
mod restart;
mod rolling;
mod segments;
mod snapshots;
mod sql;
mod tidy;
mod verify;
