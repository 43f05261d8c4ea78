//! The manager: lifecycle, object table, journal, driver calls, recovery, dependencies.
