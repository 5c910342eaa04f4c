//! Copies of rectangles between device and host.

use std::sync::Arc;

use super::device::Device;
use crate::driver::abi::{read_host, write_host};
use crate::driver::codes::{Code, Error, Result};
use crate::machine::MemoryError;

/// One end of a copy.
#[derive(Clone)]
pub(crate) enum Place {
    /// Device memory, pinned host memory included.
    Device(u64),
    /// The caller's memory, accessed when the copy runs.
    Host(usize),
    /// Bytes of the caller taken at submission, as the driver stages pageable memory.
    Staged(Arc<[u8]>),
}

/// A copy of `rows` rows of `width` bytes.
#[derive(Clone)]
pub(crate) struct Transfer {
    pub(crate) dst: Place,
    pub(crate) src: Place,
    pub(crate) dst_pitch: usize,
    pub(crate) src_pitch: usize,
    pub(crate) width: usize,
    pub(crate) rows: usize,
}

/// A range that was valid at submission and is not any more was freed by work that ran in between.
pub(crate) fn lost(what: &str, error: &MemoryError) -> Error {
    Code::ILLEGAL_ADDRESS.because(format_args!("{what} after its memory was freed: {error}"))
}

impl Transfer {
    pub(crate) fn run(&self, device: &Device) -> Result<()> {
        for row in 0..self.rows {
            self.run_row(device, row * self.dst_pitch, row * self.src_pitch)?;
        }
        Ok(())
    }

    fn run_row(&self, device: &Device, to: usize, from: usize) -> Result<()> {
        let (memory, width) = (&device.memory, self.width);
        let result = match (&self.dst, &self.src) {
            (Place::Device(dst), Place::Device(src)) => memory.copy(dst + to as u64, src + from as u64, width),
            (Place::Device(dst), Place::Host(src)) => memory.write(dst + to as u64, &read_host(src + from, width)),
            (Place::Device(dst), Place::Staged(bytes)) => memory.write(dst + to as u64, &bytes[from..from + width]),
            (Place::Host(dst), Place::Device(src)) => {
                let mut bytes = vec![0; width];
                memory.read(&mut bytes, src + from as u64).map(|()| write_host(dst + to, &bytes))
            }
            (Place::Host(dst), Place::Host(src)) => {
                write_host(dst + to, &read_host(src + from, width));
                Ok(())
            }
            (Place::Host(dst), Place::Staged(bytes)) => {
                write_host(dst + to, &bytes[from..from + width]);
                Ok(())
            }
            (Place::Staged(_), _) => return Err(Code::INVALID_VALUE.because("a copy into staged bytes")),
        };
        result.map_err(|e| lost("a copy ran", &e))
    }
}
