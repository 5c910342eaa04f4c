//! Fills of rectangles with a pattern.

use super::device::Device;
use super::transfer::lost;
use crate::driver::codes::Result;

/// `rows` rows of `width` elements set to one pattern.
#[derive(Clone)]
pub(crate) struct Fill {
    pub(crate) dst: u64,
    pub(crate) pitch: usize,
    pub(crate) pattern: [u8; 4],
    pub(crate) element_bytes: usize,
    pub(crate) width: usize,
    pub(crate) rows: usize,
}

impl Fill {
    pub(crate) fn run(&self, device: &Device) -> Result<()> {
        let pattern = &self.pattern[..self.element_bytes];
        for row in 0..self.rows {
            let dst = self.dst + (row * self.pitch) as u64;
            device.memory.fill(dst, pattern, self.width).map_err(|e| lost("a fill ran", &e))?;
        }
        Ok(())
    }
}
