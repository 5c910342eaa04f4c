//! The choice of tokens from logits.

use crate::device::{Arguments, Device};
use crate::error::{Error, Result, check_len};
use crate::llama::cuda::raw;
use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};

/// What the blocks that share a row of logits tell each other, for so many rows: 30 KB each.
#[derive(Debug)]
pub struct Rooms(CudaSlice<u64>);

impl Rooms {
    /// Allocates.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if there is no room.
    pub fn new(device: &Device, rows: usize) -> Result<Rooms> {
        Ok(Rooms(device.zeros(raw::Argmax::room_words(rows))?))
    }
}

/// What [`argmax`] writes for logits without a largest one.
pub const NO_TOKEN: u32 = u32::MAX;

/// token\[r\] = the largest logit of row r, the first of equals, as greedy [`crate::llama::Sampler`]; [`NO_TOKEN`] if one is
/// NaN or +∞, or all are −∞.
///
/// # Errors
/// [`crate::Error::Length`] unless logits are \[R, vocab\] for R tokens, and for rooms of fewer rows.
pub fn argmax(
    device: &Device,
    logits: &CudaView<'_, f32>,
    vocab: usize,
    token: &mut CudaViewMut<'_, u32>,
    rooms: &mut Rooms,
) -> Result<()> {
    let rows = token.len();
    check_rooms(rows, rooms)?;
    check_len("logits", rows.saturating_mul(vocab), logits.len())?;
    let mut arguments = Arguments::new(device);
    let argmax = raw::Argmax {
        logits: arguments.read("logits", logits)?,
        token: arguments.write("token", token)?,
        rooms: arguments.write("rooms", &mut rooms.0)?,
        rows,
        vocab,
    };
    arguments.launch(&argmax)
}

fn check_rooms(rows: usize, rooms: &Rooms) -> Result<()> {
    match (raw::Argmax::room_words(rows), rooms.0.len()) {
        (expected, got) if got < expected => Err(Error::Length { what: "rooms", expected, got }),
        _ => Ok(()),
    }
}

/// token\[r\] = what sampler r chooses of row r; see [`crate::llama::cuda::Samplers`].
///
/// # Errors
/// [`crate::Error::Length`] unless logits are \[R, vocab\] for R tokens.
pub(in crate::llama::cuda) fn sample(
    device: &Device,
    (rows, vocab): (usize, usize),
    logits: &CudaView<'_, f32>,
    probability: &mut CudaSlice<f32>,
    samplers: &mut CudaSlice<u64>,
    token: &mut CudaViewMut<'_, u32>,
    rooms: &mut Rooms,
) -> Result<()> {
    check_rooms(rows, rooms)?;
    check_len("logits", rows.saturating_mul(vocab), logits.len())?;
    check_len("token", rows, token.len())?;
    let mut arguments = Arguments::new(device);
    let sample = raw::Sample {
        logits: arguments.read("logits", logits)?,
        probability: arguments.write("probability", probability)?,
        samplers: arguments.write("samplers", samplers)?.cast(),
        token: arguments.write("token", token)?,
        rooms: arguments.write("rooms", &mut rooms.0)?,
        rows,
        vocab,
    };
    arguments.launch(&sample)
}
