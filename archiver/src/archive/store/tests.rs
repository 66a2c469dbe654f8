//! What the commit protocol promises, whatever the store does.
