//! The machine: device memory, PTX modules, and the interpreter that launches their kernels.
//!
//! A module is parsed, each entry is decoded to an array of instructions whose operands are places in tables of 32-lane rows,
//! and a launch runs its blocks over the host's threads, warp by warp.
//!
//! # Not covered
//! `wgmma`, `tcgen05`, tensor maps, multicast and reducing bulk copies, `st.async`, `red.async`, `multimem`, textures and
//! surfaces, video instructions, sparse, block-scaled, f64 and 1-bit `mma`, `.b128` values, indirect and
//! recursive calls, `alloca`, 32-bit generic addresses, `cp.async` with an ignore-src predicate, `redux` on f32, and `fma.f64`
//! with a directed rounding. Such an instruction is a fault when a thread reaches it.
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

mod arch;
mod check;
mod checks;
mod config;
mod decode;
mod env;
mod error;
mod exec;
mod launch;
mod memory;
mod meter;
mod module;
mod options;
mod parse;
mod sample;
mod sched;
mod tensor_operand;

pub use arch::{Arch, Limits};
pub use checks::{Check, Checks, Level, Levels};
pub use config::LaunchConfig;
pub use error::{Allocation, Fault, FaultKind, MemoryError, PtxError};
pub use launch::launch;
pub use memory::Memory;
pub use meter::{Class, Report, Warning};
pub use module::{CompiledRegisters, Function, Module, Param};
pub use options::Options;
pub use sample::Sample;
pub use tensor_operand::TensorOperand;
