//! Object driver for local processes.
