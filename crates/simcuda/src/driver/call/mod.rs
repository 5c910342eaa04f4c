//! The exported calls: each turns C arguments into checked ones and says what the objects do.

mod capture;
mod context;
mod copy;
mod device;
mod event;
mod function;
mod graph;
mod graph_node;
mod host;
mod launch;
mod library;
mod memory;
mod module;
mod occupancy;
mod pool;
mod proc_address;
mod stream;
mod stubs;
