//! The reporter: topics, leases, routes.
