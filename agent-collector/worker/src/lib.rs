//! The collect worker: one wheel, batches by driver.
