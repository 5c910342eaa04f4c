//! The CPU device: a team of threads and an instruction set.

use crate::error::{Error, Result};
use crate::simd::Available;
use crate::threads::{Pool, Team};

/// An instruction set that the CPU operations have code for, best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust; runs everywhere and reads as the definition.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX2 with the 256-bit dot-product instructions (AVX-VNNI).
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL with VNNI.
    Avx512Vnni,
}

impl Isa {
    /// Every instruction set, worst first.
    pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Avx2, Isa::AvxVnni, Isa::Avx512Vnni];

    /// Says whether this machine can run it.
    pub fn is_available(self) -> bool {
        Available::of(self).is_some()
    }

    /// The best instruction set of this machine.
    pub fn detect() -> Isa {
        Available::best().isa()
    }

    /// The name used on the command line and in result files.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avx-vnni",
            Isa::Avx512Vnni => "avx512-vnni",
        }
    }
}

/// More threads than any machine has cores for. Where memory for stacks ends, a thread that starts ends the process.
const MAX_THREADS: usize = 4096;

/// The CPU as a device: the handle that every CPU operation takes.
///
/// # Example
/// ```
/// let cpu = moray::Cpu::detect();
/// assert!(cpu.threads() >= 1);
/// ```
#[derive(Debug)]
pub struct Cpu {
    team: Team,
    simd: Available,
}

impl Cpu {
    /// All cores this process may use and the best instruction set.
    pub fn detect() -> Cpu {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Cpu { team: Team::new(threads), simd: Available::best() }
    }

    /// A given number of threads and instruction set.
    ///
    /// # Errors
    /// [`Error::Shape`] if `threads` is 0, above 4096 or more than the system starts, [`Error::Unsupported`] if this machine lacks `isa`.
    pub fn new(threads: usize, isa: Isa) -> Result<Cpu> {
        check_threads(threads)?;
        let simd = available(isa)?;
        let team = Team::new(threads);
        if team.len() < threads {
            return Err(Error::Shape { what: "threads", expected: "as many as the system starts", got: threads });
        }
        Ok(Cpu { team, simd })
    }

    /// An engine's own threads and a given instruction set; none is started.
    ///
    /// # Errors
    /// [`Error::Shape`] if the pool says more than 4096 threads, [`Error::Unsupported`] if this machine lacks `isa`.
    pub fn on(pool: impl Pool + 'static, isa: Isa) -> Result<Cpu> {
        let simd = available(isa)?;
        let team = Team::on(pool);
        check_threads(team.len())?;
        Ok(Cpu { team, simd })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.simd.isa()
    }

    /// The token of the instruction set in use.
    pub(crate) fn simd(&self) -> Available {
        self.simd
    }

    /// The number of threads in use.
    pub fn threads(&self) -> usize {
        self.team.len()
    }

    /// The threads.
    pub fn team(&self) -> &Team {
        &self.team
    }
}

fn check_threads(got: usize) -> Result<()> {
    match (1..=MAX_THREADS).contains(&got) {
        true => Ok(()),
        false => Err(Error::Shape { what: "threads", expected: "1 to 4096", got }),
    }
}

fn available(isa: Isa) -> Result<Available> {
    let expected = "an instruction set of this machine";
    Available::of(isa).ok_or_else(|| Error::Unsupported { what: "isa", expected, got: isa.name().into() })
}
