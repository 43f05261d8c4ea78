//! Object driver that simulates a substrate: latency, failures, hangs, gaps.
