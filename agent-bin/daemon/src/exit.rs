//! The exit codes of `agent`: part of its interface, and never changed.

/// All is well.
pub const OK: u8 = 0;
/// A command was refused or failed; a running agent was forced to end, or could not write out all it had.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// A configuration or object file is wrong. Nothing was changed.
pub const INVALID: u8 = 3;
/// The state directory is locked by another agent, or cannot be used.
pub const STATE_DIR: u8 = 4;
/// An address to listen on is in use or not allowed.
pub const ADDRESS: u8 = 5;
/// No agent can be reached.
pub const UNREACHABLE: u8 = 6;
/// The object, kind or lease is not there.
pub const NOT_FOUND: u8 = 7;
/// It took longer than the time given.
pub const TIMEOUT: u8 = 8;
/// The caller has no right to do this.
pub const DENIED: u8 = 9;

/// All codes with their meaning, for help texts and docs.
pub const ALL: [(u8, &str); 10] = [
    (OK, "all is well"),
    (
        FAILED,
        "refused or failed; `run`: forced to end, or not all could be written out",
    ),
    (USAGE, "wrong command line"),
    (INVALID, "wrong configuration or object file; nothing was changed"),
    (STATE_DIR, "state directory locked by another agent, or unusable"),
    (ADDRESS, "address to listen on in use or not allowed"),
    (UNREACHABLE, "no agent can be reached"),
    (NOT_FOUND, "object, kind or lease not there"),
    (TIMEOUT, "not done in the time given"),
    (DENIED, "not allowed"),
];
