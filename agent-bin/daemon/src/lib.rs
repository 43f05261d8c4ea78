//! The daemon process: config, signals, assembly.
