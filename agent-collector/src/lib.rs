//! The collector: plans what is collected when.
