//! The agent core: builder, registry, shards, in-flight operations, ordered stop.
