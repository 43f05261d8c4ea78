//! The bundle of drivers: one feature per driver.
