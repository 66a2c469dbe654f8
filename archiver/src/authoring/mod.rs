//! The plugin author's loop: a new crate, its build, sample events, what a plugin did to them, and what it costs natively.
//! Knows cargo, and not the sandbox: loading and running plugins is [`workbench`](crate::plugin::workbench).

pub mod cargo;
pub mod diff;
pub mod native;
pub mod samples;
mod sdk;
pub mod template;
