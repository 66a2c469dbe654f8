//! Extended JSON text of raw BSON and back, byte for byte.
