//! What each verb needs.

use agent_api_bus_in::Access;
use agent_api_model::Verb;

/// The access that a verb needs: `Read` for what changes nothing and shows no logs, `Full` for the rest.
///
/// A verb that is new and not named here needs `Full`.
#[must_use]
pub const fn access_needed(verb: Verb) -> Access {
    match verb {
        Verb::Describe
        | Verb::List
        | Verb::Watch
        | Verb::Plan
        | Verb::Explain
        | Verb::Info
        | Verb::Drivers
        | Verb::Schema
        | Verb::Health => Access::Read,
        _ => Access::Full,
    }
}
