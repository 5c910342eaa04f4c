//! The driver's objects and how each behaves. None knows the exported functions, nor the one driver that holds them all.

pub(crate) mod attributes;
pub(crate) mod capture;
pub(crate) mod cluster;
pub(crate) mod context;
pub(crate) mod device;
pub(crate) mod event;
pub(crate) mod fill;
pub(crate) mod graph;
pub(crate) mod graph_memory;
pub(crate) mod host_memory;
pub(crate) mod interleaving;
pub(crate) mod kernel;
pub(crate) mod launch;
pub(crate) mod library;
pub(crate) mod occupancy;
pub(crate) mod pool;
pub(crate) mod record;
pub(crate) mod schedule;
pub(crate) mod stream;
pub(crate) mod transfer;
pub(crate) mod work;
