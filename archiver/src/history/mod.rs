//! Everything that was kept of a document, from the cold and the hot tier, in one order.
