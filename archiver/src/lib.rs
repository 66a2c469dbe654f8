//! Archiver: captures sensitive MongoDB changes, redacts them in a sandbox, and keeps them for ever.
//!
//! The modules follow the flow: [`capture`] reads change events, [`plugin`] redacts or drops them, [`audit_log`]
//! appends them as records, [`archive`] rolls records into segments, and [`history`] reads them all back.
#![forbid(unsafe_code)]

pub mod archive;
pub mod audit_log;
pub mod authoring;
pub mod backoff;
pub mod capture;
pub mod check;
pub mod checkpoint;
pub mod config;
pub mod deployment;
pub mod error;
pub mod event;
mod fail_point;
pub mod fault;
pub mod history;
pub mod hold;
pub mod metrics;
pub mod notice;
pub mod plugin;
mod post_image;
pub mod progress;
pub mod quarantine;
pub mod record;
pub mod salt;
pub mod service;
pub mod sql;
pub mod status;
pub mod stream_id;
pub mod telemetry;

pub use error::{Error, Kind, Result};
