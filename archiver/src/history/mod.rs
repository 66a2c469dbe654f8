//! The whole history of documents: one ordered stream over the archive and the log, and what is made of it.

pub mod document;
