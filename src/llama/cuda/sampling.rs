//! Drawing tokens on the device.

use super::kernels::{self, Rooms};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::llama::Sampler;
use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};

/// Samplers in device memory, one for each row of logits: they draw what [`Sampler`]s on the CPU draw, and move on by themselves,
/// so that a captured graph draws anew with every replay.
///
/// # Example
/// ```
/// use moray::llama::cuda::Samplers;
/// use moray::llama::{Sampler, Sampling};
/// use moray::{Device, Error};
///
/// # fn main() -> moray::Result<()> {
/// let device = match Device::new(0) {
///     Ok(device) => device,
///     Err(Error::DriverAbsent { .. } | Error::KernelsNotBuilt { .. }) => return Ok(()),
///     Err(error) => return Err(error),
/// };
/// let mut on_cpu = Sampler::new(Sampling { temperature: 0.8, top_p: 0.9, min_p: 0.0 }, 7)?;
/// let mut on_device = Samplers::new(&device, &[on_cpu.clone()], 4)?;
/// let logits = [0.5, 2.0, -1.0, 1.5];
/// let mut token = device.zeros::<u32>(1)?;
/// on_device.sample(&device, &device.upload(&logits)?.as_view(), &mut token.as_view_mut())?;
/// assert_eq!(device.download(&token)?, [on_cpu.sample(&logits)?]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Samplers {
    pub(super) vocab: usize,
    rows: usize,
    /// (state, top_p, min_p | temperature) for each row.
    records: CudaSlice<u64>,
    /// f32 \[R, vocab\].
    probability: CudaSlice<f32>,
    rooms: Rooms,
}

impl Samplers {
    /// Copies samplers, with the state that they are in, to the device.
    ///
    /// # Errors
    /// [`Error::Shape`] for no samplers, no logits or more than 2²⁴, [`Error::OutOfMemory`] if there is no room.
    pub fn new(device: &Device, samplers: &[Sampler], vocab: usize) -> Result<Samplers> {
        let rows = samplers.len();
        for (what, got) in [("samplers", rows), ("vocab", vocab)] {
            if got == 0 || got > 1 << 24 {
                return Err(Error::Shape { what, expected: "1 to 2^24", got });
            }
        }
        let words: Vec<u64> = samplers.iter().flat_map(Sampler::words).collect();
        Ok(Samplers {
            vocab,
            rows,
            records: device.upload(&words)?,
            probability: device.zeros(rows * vocab)?,
            rooms: Rooms::new(device, rows)?,
        })
    }

    /// token\[r\] = what sampler r chooses of logits \[R, vocab\]; [`super::NO_TOKEN`] where [`Sampler::sample`] refuses them.
    ///
    /// # Errors
    /// [`Error::Length`] unless there is a row of logits and a token for each sampler, [`Error::Launch`] if the kernel cannot be
    /// started.
    pub fn sample(
        &mut self,
        device: &Device,
        logits: &CudaView<'_, f32>,
        token: &mut CudaViewMut<'_, u32>,
    ) -> Result<()> {
        let Samplers { vocab, rows, records, probability, rooms } = self;
        kernels::sample(device, (*rows, *vocab), logits, probability, records, token, rooms)
    }
}
