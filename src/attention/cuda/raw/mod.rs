//! Attention by addresses, for engines that own their memory and their stream: what the safe functions of [`super`] fill in.
//!
//! Each call is plain data with [`RawCall::check`], [`RawCall::buffers`] and [`RawCall::launch`]. Kernels read spans, pages and
//! heads from device memory, so a captured call replays with others.
//!
//! [`RawCall::check`]: crate::device::RawCall::check
//! [`RawCall::buffers`]: crate::device::RawCall::buffers
//! [`RawCall::launch`]: crate::device::RawCall::launch
//!
//! # Example
//! One decode step of four sequences over pages of 16 positions, as an engine with a pool of its own would run it.
//! ```no_run
//! use moray::Device;
//! use moray::attention::{AttentionShape, PageLayout};
//! use moray::attention::cuda::raw::{Attend, Heads, Kv, Spans};
//! use moray::attention::cuda::{KvFormat, Split};
//! use moray::device::{Address, ElementKind, RawCall};
//!
//! # fn main() -> moray::Result<()> {
//! let device = Device::new(0)?;
//! let shape = AttentionShape::new(32, 8, 128)?;
//! let (n_pages, page_size, capacity, slots) = (4096, 16, 8192, 4);
//! let kv = Kv {
//!     format: KvFormat::Bf16,
//!     k: Address::new(0x7f00_0000_0000), // bf16 [n_pages, page_size, n_kv_heads, head_dim]
//!     v: Address::new(0x7f10_0000_0000),
//!     k_scale: None,
//!     v_scale: None,
//!     present: None,
//!     page_table: Some(Address::new(0x7f20_0000_0000)), // u32 [slots, capacity / page_size]
//!     layout: PageLayout {
//!         n_kv_heads: shape.n_kv_heads,
//!         head_dim: shape.head_dim,
//!         n_slots: slots,
//!         capacity,
//!         n_pages,
//!         page_size,
//!         max_pages: capacity / page_size,
//!         page_stride: page_size * shape.kv_elems(),
//!         head_stride: shape.head_dim,
//!         row_stride: shape.kv_elems(),
//!     },
//! };
//! let mut call = Attend {
//!     shape,
//!     kv,
//!     heads: Heads::All,
//!     spans: Spans { records: Address::new(0x7f20_0100_0000), n_spans: slots, longest: 1, rows: slots },
//!     q: Address::new(0x7f20_0200_0000),
//!     out: Address::new(0x7f20_0300_0000),
//!     out_type: ElementKind::Bf16,
//!     split: Split::choose(shape.n_kv_heads, slots, capacity, device.multiprocessors() as usize),
//!     workspace: Address::new(0x7f20_0400_0000),
//!     workspace_bytes: 0,
//!     arrived: None,
//! };
//! call.workspace_bytes = call.workspace_bytes(); // what the engine must have there
//! // SAFETY: the engine has this memory, and its stream is of the device's context.
//! unsafe { call.launch(&device, device.raw_stream())? };
//! # Ok(())
//! # }
//! ```

mod advance;
mod attend;
mod heads;
mod kv;
mod spans;
mod write_attend;
mod write_kv;

pub use advance::AdvanceSpans;
pub use attend::Attend;
pub use heads::Heads;
pub use kv::Kv;
pub use spans::{SpanRecord, Spans};
pub use write_attend::WriteAttend;
pub use write_kv::{Queries, RopeTable, Skipped, WriteKv};

use super::{MAX_GROUP, MAX_HEAD_DIM};
use crate::attention::AttentionShape;
use crate::error::{Error, Result};

/// Checks what all kernels ask of the heads.
fn check_shape(shape: &AttentionShape, kv: &Kv) -> Result<()> {
    shape.check()?;
    let refuse = |what, expected, got| Err(Error::Shape { what, expected, got });
    if shape.head_dim > MAX_HEAD_DIM {
        return refuse("head_dim", "a positive multiple of 8, at most 256", shape.head_dim);
    }
    if shape.n_kv_heads != kv.layout.n_kv_heads {
        return refuse("n_kv_heads", "the cache's n_kv_heads", shape.n_kv_heads);
    }
    if shape.head_dim != kv.layout.head_dim {
        return refuse("head_dim", "the cache's head_dim", shape.head_dim);
    }
    if shape.group_size() > MAX_GROUP {
        return refuse("query heads per KV head", "at most 256", shape.group_size());
    }
    if shape.n_q_heads > 0xffff {
        return refuse("n_q_heads", "at most 65535", shape.n_q_heads);
    }
    kv.check()
}

/// Checks that a size fits the 32 bits in which kernels have it.
fn check_u32(what: &'static str, got: usize) -> Result<()> {
    match u32::try_from(got) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::Shape { what, expected: "fewer than 2^32", got }),
    }
}
