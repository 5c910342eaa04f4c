//! The choice of tokens from logits.

use super::{SAMPLING, check_rows, launch};
use crate::device::{Device, input, output};
use crate::error::Result;
use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};

/// What [`argmax`] writes for logits without a largest one.
pub const NO_TOKEN: u32 = u32::MAX;

#[repr(C)]
struct ArgmaxParams {
    logits: u64,
    token: u64,
    vocab: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<ArgmaxParams>() == 24);

/// token\[r\] = the largest logit of row r, the first of equals, as greedy [`crate::llama::Sampler`]; [`NO_TOKEN`] if one is
/// NaN or +∞, or all are −∞.
///
/// # Errors
/// [`crate::Error::Length`] unless logits are \[R, vocab\] for R tokens.
pub fn argmax(
    device: &Device,
    logits: &CudaView<'_, f32>,
    vocab: usize,
    token: &mut CudaViewMut<'_, u32>,
) -> Result<()> {
    let rows = token.len();
    check_rows("rows", rows)?;
    let (logits, _logits) = input(device, "logits", rows * vocab, logits)?;
    let (token, _token) = output(device, "token", rows, token)?;
    let mut params = ArgmaxParams { logits, token, vocab: vocab as u32, reserved: 0 };
    // SAFETY: the buffers were checked above.
    unsafe { launch(device, (SAMPLING, "llama_argmax"), [rows as u32, 1, 1], 512, &mut params) }
}

#[repr(C)]
struct SampleParams {
    logits: u64,
    probability: u64,
    samplers: u64,
    token: u64,
    vocab: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<SampleParams>() == 40);

/// Words of a sampler in device memory.
const SAMPLER_WORDS: usize = 3;

/// token\[r\] = what sampler r chooses of row r; see [`crate::llama::cuda::Samplers`].
///
/// # Errors
/// [`Error::Length`] unless logits are \[R, vocab\] for R tokens.
pub(in crate::llama::cuda) fn sample(
    device: &Device,
    (rows, vocab): (usize, usize),
    logits: &CudaView<'_, f32>,
    probability: &mut CudaSlice<f32>,
    samplers: &mut CudaSlice<u64>,
    token: &mut CudaViewMut<'_, u32>,
) -> Result<()> {
    check_rows("rows", rows)?;
    let (logits, _logits) = input(device, "logits", rows * vocab, logits)?;
    let (probability, _probability) = output(device, "probability", rows * vocab, probability)?;
    let (samplers, _samplers) = output(device, "samplers", rows * SAMPLER_WORDS, samplers)?;
    let (token, _token) = output(device, "token", rows, token)?;
    let mut params = SampleParams { logits, probability, samplers, token, vocab: vocab as u32, reserved: 0 };
    // SAFETY: the buffers were checked above.
    unsafe { launch(device, (SAMPLING, "llama_sample"), [rows as u32, 1, 1], 512, &mut params) }
}
