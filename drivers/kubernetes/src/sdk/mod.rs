//! What stands between the driver and the kube library: connections, discovery, counting and bounds.

pub(crate) mod cluster;
pub(crate) mod connect;
pub(crate) mod discovery;
pub(crate) mod link;
pub(crate) mod requests;

pub(crate) use cluster::Cluster;
pub(crate) use discovery::Resource;
