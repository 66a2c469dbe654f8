//! The archive in one object store location: listing, reading, and the commit protocol.
