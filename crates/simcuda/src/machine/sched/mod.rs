//! Scheduling: groups of lanes in a warp, warps in a cluster, clusters over the host's threads.

pub(crate) mod barrier;
pub(crate) mod cluster;
pub(crate) mod group;
pub(crate) mod pool;
pub(crate) mod run;
pub(crate) mod stuck;
