//! Conformance suite over any object driver, chosen by capability.
