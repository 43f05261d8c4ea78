//! Bus driver inside one process.
