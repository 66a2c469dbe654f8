//! Runs capture and archive for every source until stopped.
