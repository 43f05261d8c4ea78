//! The report worker: a bounded batcher in front of the rpc client.
