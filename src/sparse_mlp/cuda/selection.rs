//! Selections resident on the device, and the kernels that make them.

use super::params::{MaskParams, Neurons};
use super::{check_context, check_room};
use crate::device::Device;
use crate::device::cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};
use crate::error::{Error, Result, check_len};
use crate::sparse_mlp::{IndexList, ScoreOn, TokenMasks};
use std::ffi::c_void;

/// u32 words of a mask over `n` indices: whole pairs, so that a pair is a word of [`TokenMasks`].
pub fn mask_words(n: usize) -> usize {
    2 * n.div_ceil(64)
}

/// Copies masks to the device: u32 \[tokens, [`mask_words`]\].
///
/// # Errors
/// [`Error::OutOfMemory`] if there is no room.
pub fn upload_masks(device: &Device, masks: &TokenMasks<'_>) -> Result<CudaSlice<u32>> {
    let words: Vec<u32> = masks.words().iter().flat_map(|&word| [word as u32, (word >> 32) as u32]).collect();
    if words.is_empty() { device.zeros(1) } else { device.upload(&words) }
}

/// A list of neurons and its count, both on the device: what a selection kernel leaves and a gather reads.
#[derive(Debug)]
pub struct NeuronList {
    pub(super) list: CudaSlice<u32>,
    pub(super) count: CudaSlice<u32>,
    limit: usize,
}

impl NeuronList {
    /// Allocates an empty list with room for every neuron below `limit`.
    ///
    /// # Errors
    /// [`Error::Shape`] for a limit of 0 or above 2²⁴, [`Error::OutOfMemory`] if there is no room.
    pub fn new(device: &Device, limit: usize) -> Result<NeuronList> {
        if !(1..=1 << 24).contains(&limit) {
            return Err(Error::Shape { what: "neurons", expected: "1 to 2^24", got: limit });
        }
        Ok(NeuronList { list: device.zeros(limit)?, count: device.zeros(1)?, limit })
    }

    /// Copies a checked list to the device.
    ///
    /// # Errors
    /// [`Error::Length`] if it is over another number of neurons, [`Error::Driver`] if the copy fails.
    pub fn set(&mut self, device: &Device, list: IndexList<'_>) -> Result<()> {
        check_len("list's limit", self.limit, list.limit())?;
        check_context("list", device, &self.list)?;
        let failed = crate::device::call("copy to the device");
        let indices = list.indices();
        if !indices.is_empty() {
            let mut room = self.list.slice_mut(..indices.len());
            device.stream().memcpy_htod(indices, &mut room).map_err(&failed)?;
        }
        device.stream().memcpy_htod(&[indices.len() as u32], &mut self.count).map_err(&failed)
    }

    /// Copies it to the host and waits for it.
    ///
    /// # Errors
    /// [`Error::Driver`] if a copy, or a kernel before it, fails.
    pub fn download(&self, device: &Device) -> Result<Vec<u32>> {
        let count = device.download(&self.count)?[0] as usize;
        let mut list = device.download(&self.list)?;
        list.truncate(count);
        Ok(list)
    }

    /// The first index that would be too large.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The neurons that any of `tokens` masks keeps, increasing, and their count, left on the device.
    ///
    /// # Errors
    /// [`Error::Length`] if there are fewer masks, [`Error::Launch`] if the kernel cannot be started.
    pub fn set_union(&mut self, device: &Device, masks: &impl DevicePtr<u32>, tokens: usize) -> Result<()> {
        let words = mask_words(self.limit);
        check_context("masks", device, masks)?;
        check_context("list", device, &self.list)?;
        check_room("masks", tokens.saturating_mul(words), masks.len())?;
        let (masks, _read) = masks.device_ptr(device.stream());
        // SAFETY: there are tokens · words words of masks.
        unsafe { self.union_of(device, masks, tokens) }
    }

    /// # Safety
    /// `masks` is the address of `tokens` masks over the list's limit.
    pub(super) unsafe fn union_of(&self, device: &Device, masks: u64, tokens: usize) -> Result<()> {
        let stream = device.stream();
        let (mut masks, mut tokens, mut words) = (masks, tokens as u32, mask_words(self.limit) as u32);
        let (mut list, mut count) = (self.list.device_ptr(stream).0, self.count.device_ptr(stream).0);
        let mut args = [
            (&raw mut masks).cast::<c_void>(),
            (&raw mut list).cast(),
            (&raw mut count).cast(),
            (&raw mut tokens).cast(),
            (&raw mut words).cast(),
        ];
        // SAFETY: the parameters are those of the kernel; the list has room for every bit below the limit, and no mask that
        // a kernel or `TokenMasks` made has others.
        unsafe { launch(device, "sparse_mlp_union", [1, 1], 1024, &mut args) }
    }

    pub(super) fn neurons(&self, device: &Device) -> Neurons {
        let stream = device.stream();
        let (list, count) = (self.list.device_ptr(stream).0, self.count.device_ptr(stream).0);
        Neurons { list, count, limit: self.limit as u32, ..Neurons::default() }
    }
}

/// A score per token and channel: the size of a value, times a factor per channel if there is one.
#[derive(Debug, Clone, Copy)]
pub struct Score<'a> {
    /// Whose size.
    pub on: ScoreOn,
    /// f32, d_model for [`ScoreOn::Input`] and d_ff otherwise; finite and not negative.
    pub channel_scale: Option<&'a CudaSlice<f32>>,
}

/// Which neurons (or inputs) a call computes: the forms of [`crate::sparse_mlp::Selection`], in device memory.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Selection<'a> {
    /// All of them.
    All,
    /// One list for every token.
    List(&'a NeuronList),
    /// One mask for each token, u32 \[tokens, [`mask_words`]\]; the union is computed, masked.
    Masks(&'a CudaSlice<u32>),
    /// A list that every token shares and a mask for each: token t computes list ∩ mask t.
    Union {
        /// Neurons to read.
        list: &'a NeuronList,
        /// Neurons of each token.
        masks: &'a CudaSlice<u32>,
    },
    /// Each token keeps what scores above the threshold.
    Threshold {
        /// The score.
        score: Score<'a>,
        /// f32, finite, at least 0.
        threshold: f32,
    },
    /// Each token keeps exactly the `k` highest scores, the lower index first where equal.
    TopK {
        /// The score.
        score: Score<'a>,
        /// 1 to the number of channels.
        k: usize,
    },
}

impl<'a> Selection<'a> {
    pub(super) fn score(&self) -> Option<Score<'a>> {
        match self {
            Selection::Threshold { score, .. } | Selection::TopK { score, .. } => Some(*score),
            _ => None,
        }
    }

    pub(super) fn check(&self, device: &Device, tokens: usize, d_model: usize, d_ff: usize) -> Result<()> {
        let list = |list: &NeuronList| {
            check_len("selection list's limit", d_ff, list.limit)?;
            check_context("selection list", device, &list.list)
        };
        let masks = |masks: &CudaSlice<u32>| {
            check_context("selection masks", device, masks)?;
            check_room("selection masks", tokens * mask_words(d_ff), masks.len())
        };
        let n = match self.score() {
            Some(Score { on: ScoreOn::Input, .. }) => d_model,
            _ => d_ff,
        };
        if let Some(scale) = self.score().and_then(|score| score.channel_scale) {
            check_context("channel_scale", device, scale)?;
            check_len("channel_scale", n, scale.len())?;
        }
        match self {
            Selection::All => Ok(()),
            Selection::List(l) => list(l),
            Selection::Masks(m) => masks(m),
            Selection::Union { list: l, masks: m } => list(l).and_then(|()| masks(m)),
            Selection::Threshold { threshold, .. } => check_threshold(*threshold),
            Selection::TopK { k, .. } => check_k(*k, n),
        }
    }
}

fn check_threshold(threshold: f32) -> Result<()> {
    if threshold.is_finite() && threshold >= 0.0 {
        return Ok(());
    }
    Err(Error::Value { what: "threshold", expected: "a finite number of at least 0", got: threshold })
}

fn check_k(k: usize, n: usize) -> Result<()> {
    if (1..=n).contains(&k) {
        return Ok(());
    }
    Err(Error::Shape { what: "k", expected: "1 to the number of channels", got: k })
}

/// How a mask is made from scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keep {
    /// Scores above this.
    Above(f32),
    /// This many of the highest, the lower index first where equal.
    Top(usize),
}

/// Writes which of `n` values each token keeps: `masks` u32 \[tokens, [`mask_words`]\] from |values\[t, i\]| · channel_scale\[i\], values
/// f32 \[tokens, stride\]. A score that is NaN is not kept.
///
/// # Errors
/// [`Error::Length`] for a buffer that is too short, [`Error::Shape`] for `k` or `n` out of range, [`Error::Value`] for a threshold that
/// makes no sense, [`Error::Launch`] if the kernel cannot be started.
pub fn select_mask(
    device: &Device,
    values: &impl DevicePtr<f32>,
    tokens: usize,
    n: usize,
    stride: usize,
    channel_scale: Option<&CudaSlice<f32>>,
    keep: Keep,
    masks: &mut impl DevicePtrMut<u32>,
) -> Result<()> {
    if !(1..=1 << 24).contains(&n) || stride < n {
        return Err(Error::Shape { what: "n", expected: "1 to 2^24 and at most the stride", got: n });
    }
    check_context("values", device, values)?;
    check_context("masks", device, masks)?;
    let needed = tokens.checked_sub(1).map_or(0, |before| before.saturating_mul(stride).saturating_add(n));
    check_room("values", needed, values.len())?;
    check_room("masks", tokens.saturating_mul(mask_words(n)), masks.len())?;
    if let Some(scale) = channel_scale {
        check_len("channel_scale", n, scale.len())?;
        check_context("channel_scale", device, scale)?;
    }
    let (threshold, k) = match keep {
        Keep::Above(threshold) => (threshold, 0),
        Keep::Top(k) => (0.0, k),
    };
    check_threshold(threshold)?;
    if matches!(keep, Keep::Top(_)) {
        check_k(k, n)?;
    }
    let stream = device.stream();
    let (values, _read) = values.device_ptr(stream);
    let (masks, _write) = masks.device_ptr_mut(stream);
    let channel_scale = channel_scale.map_or(0, |scale| scale.device_ptr(stream).0);
    let params = MaskParams::new([values, channel_scale, masks], n, stride, (f64::from(threshold), k));
    // SAFETY: the checks above are what the kernel's table of arguments asks for.
    unsafe { launch_mask(device, "sparse_mlp_mask", tokens, params) }
}

/// # Safety
/// The addresses are valid for what `MaskParams` says of them.
pub(super) unsafe fn launch_mask(
    device: &Device,
    symbol: &'static str,
    tokens: usize,
    mut params: MaskParams,
) -> Result<()> {
    if tokens == 0 {
        return Ok(());
    }
    let mut args = [(&raw mut params).cast::<c_void>()];
    // SAFETY: the one parameter is a `MaskParams`; the rest is the caller's.
    unsafe { launch(device, symbol, [tokens as u32, 1], 1024, &mut args) }
}

/// Starts a kernel of `select.cu`.
///
/// # Safety
/// As [`Device::launch`].
pub(super) unsafe fn launch(
    device: &Device,
    symbol: &'static str,
    grid: [u32; 2],
    threads: u32,
    args: &mut [*mut c_void],
) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { device.launch("sparse_mlp/select", symbol, [grid[0], grid[1], 1], [threads, 1, 1], 0, args) }
}
