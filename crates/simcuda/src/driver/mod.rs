//! The driver: CUDA's exported functions over the [machine](crate::machine).
//!
//! A call arrives in `abi`, which turns C arguments into checked ones, and ends in a [`codes`] value. Work goes through
//! `stream` (or `capture`) into `schedule`, which runs it as `work` when something waits for it. Kernels come from `image`
//! and `module`, their shapes are checked in `launch`. Names that have no implementation are exported by `stubs`.

mod abi;
mod attributes;
mod capture;
mod cluster;
mod codes;
mod context;
mod copy;
mod cubin;
mod device;
mod event;
mod function;
mod graph;
mod host;
mod image;
mod launch;
mod little_endian;
mod memory;
mod module;
mod occupancy;
mod pool;
mod proc_address;
mod registry;
mod schedule;
mod settings;
mod state;
mod stream;
mod stubs;
mod work;
