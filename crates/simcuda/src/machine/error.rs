//! What can go wrong: in host calls on device memory, in reading PTX, and in a running kernel.

use std::fmt;

/// One live or freed range of device memory, as named in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// First address.
    pub base: u64,
    /// Length as asked for.
    pub size_bytes: usize,
    /// Whether the range has been freed.
    pub freed: bool,
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.freed { "freed allocation" } else { "allocation" };
        write!(f, "{state} {:#x}..{:#x} of {} bytes", self.base, self.base + self.size_bytes as u64, self.size_bytes)
    }
}

/// A host-side call on device memory that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryError {
    /// The pointer is not the start of a live allocation (free), or lies in none (copy).
    InvalidPointer {
        /// The pointer given.
        ptr: u64,
    },
    /// The range starts in an allocation and leaves it.
    OutOfBounds {
        /// First address of the range.
        ptr: u64,
        /// Length of the range.
        bytes: usize,
        /// The allocation it starts in.
        allocation: Allocation,
    },
    /// The pointer is not a multiple of the element size, or the element size is not 1, 2 or 4.
    Misaligned {
        /// The pointer given.
        ptr: u64,
        /// The element size that it must be a multiple of.
        align_bytes: usize,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidPointer { ptr } => write!(f, "expected a device pointer, got {ptr:#x}"),
            Self::OutOfBounds { ptr, bytes, allocation } => {
                write!(f, "expected a range inside {allocation}, got {bytes} bytes at {ptr:#x}")
            }
            Self::Misaligned { ptr, align_bytes } => {
                write!(f, "expected a pointer aligned to 1, 2 or 4 byte elements, got {ptr:#x} for {align_bytes}")
            }
        }
    }
}

impl std::error::Error for MemoryError {}

/// Why a PTX text was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PtxError {
    /// The name the module was loaded under.
    pub module: String,
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// What was expected and what was found.
    pub message: String,
    /// The device's memory could not hold the module's variables.
    pub out_of_memory: bool,
}

impl fmt::Display for PtxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.module, self.line, self.message)
    }
}

impl std::error::Error for PtxError {}

/// The kind of a [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// The launch itself is impossible: grid, block, shared memory, cluster or argument size.
    InvalidLaunch,
    /// The kernel needs more shared memory or threads than the device has.
    OutOfResources,
    /// An instruction form that this machine does not implement.
    Unsupported,
    /// Access outside every live allocation, or outside the block's shared or local memory.
    OutOfBounds,
    /// Access to an allocation after it was freed.
    UseAfterFree,
    /// Address not a multiple of the access size.
    Misaligned,
    /// Read of bytes that nothing has written.
    Uninitialized,
    /// Two unordered accesses to the same shared memory, one of them a write.
    SharedRace,
    /// Threads of one warp that must reach a barrier together did not.
    DivergentBarrier,
    /// Read of the destination of an asynchronous copy before its wait.
    AsyncNotWaited,
    /// Asynchronous-proxy read of generic writes without a proxy fence between.
    MissingProxyFence,
    /// An mbarrier used before its initialisation or against its counts.
    MbarrierMisuse,
    /// No thread of a block or cluster can ever run again.
    Deadlock,
    /// The launch executed more instructions than its budget.
    Budget,
    /// `trap`.
    Trap,
    /// A device-side `assert` failed.
    Assert,
    /// The machine itself failed.
    Internal,
}

/// A kernel that was stopped, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// Name of the kernel's entry.
    pub kernel: String,
    /// Line in the PTX text, from 1; 0 where no single instruction is to blame.
    pub ptx_line: u32,
    /// Source file and line, where the PTX carries `.loc` (nvcc `-lineinfo`).
    pub source: Option<(String, u32)>,
    /// Block index.
    pub block: [u32; 3],
    /// Thread index in the block.
    pub thread: [u32; 3],
    /// The address that was accessed.
    pub address: Option<u64>,
    /// The allocation it belongs to or lies next to.
    pub allocation: Option<Allocation>,
    /// What was expected and what was found.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in kernel {}", self.kind, self.kernel)?;
        if self.ptx_line != 0 {
            write!(f, " at ptx line {}", self.ptx_line)?;
        }
        if let Some((file, line)) = &self.source {
            write!(f, " ({file}:{line})")?;
        }
        let (b, t) = (self.block, self.thread);
        write!(f, ", block ({},{},{}) thread ({},{},{})", b[0], b[1], b[2], t[0], t[1], t[2])?;
        if let Some(address) = self.address {
            write!(f, ", address {address:#x}")?;
        }
        if let Some(allocation) = &self.allocation {
            write!(f, ", {allocation}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Fault {}
