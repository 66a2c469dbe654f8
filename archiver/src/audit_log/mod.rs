//! The hot tier: one append-only collection per source, and the contract of what is durable when.
