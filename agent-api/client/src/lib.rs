//! Typed client of the wire API, over any bus.
