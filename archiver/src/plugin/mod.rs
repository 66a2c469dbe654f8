//! The plugin chain: every event passes through the source's plugins in order, and none gets past a failing one.
