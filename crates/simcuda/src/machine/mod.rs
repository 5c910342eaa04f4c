//! The machine: device memory, PTX modules, and the interpreter that launches their kernels.
//!
//! ```
//! use simcuda::machine::{launch, LaunchConfig, Memory, Module, Options};
//!
//! let memory = Memory::new(1 << 20)?;
//! let ptx = ".version 8.0\n.target sm_80\n.address_size 64\n
//!     .visible .entry seven(.param .u64 out) {
//!         .reg .b64 %rd<2>; .reg .b32 %r<2>;
//!         ld.param.u64 %rd1, [out];
//!         mov.u32 %r1, 7;
//!         st.global.u32 [%rd1], %r1;
//!         ret; }";
//! let module = Module::load(&memory, ptx, "seven.ptx")?;
//! let function = module.function("seven").expect("the module has this entry");
//! let out = memory.alloc(4).expect("one MiB holds four bytes");
//! launch(&memory, &function, &LaunchConfig::new([1, 1, 1], [1, 1, 1]), &out.to_le_bytes(), &Options::default())?;
//! let mut bytes = [0; 4];
//! memory.read(&mut bytes, out)?;
//! assert_eq!(u32::from_le_bytes(bytes), 7);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod decode;
mod error;
mod exec;
mod launch;
mod memory;
mod meter;
mod module;
mod parse;
mod sched;

pub use error::{Allocation, Fault, FaultKind, MemoryError, PtxError};
pub use launch::{Arch, LaunchConfig, Options, launch};
pub use memory::Memory;
pub use meter::{Class, Report};
pub use module::{Function, Module, Param};
