//! The capture loop: events are read, redacted, and appended together with the checkpoint after them.
