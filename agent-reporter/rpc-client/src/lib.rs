//! The rpc client: guid, register, withdraw, publish, call.
