//! Selections resident on the device, and the kernels that make them.

use super::keep::{Keep, mask_words};
use super::raw;
use crate::device::cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};
use crate::device::{Arguments, Device, check_context};
use crate::error::{Error, Result, check_len};
use crate::sparse_mlp::{IndexList, ScoreOn, TokenMasks};

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
    list: CudaSlice<u32>,
    count: CudaSlice<u32>,
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
        device.prepare(super::MODULES)?;
        Ok(NeuronList { list: device.zeros(limit)?, count: device.zeros(1)?, limit })
    }

    /// Copies a checked list to the device.
    ///
    /// # Errors
    /// [`Error::Length`] if it is over another number of neurons, [`Error::Driver`] if the copy fails.
    pub fn set(&mut self, device: &Device, list: IndexList<'_>) -> Result<()> {
        check_len("list's limit", self.limit, list.limit())?;
        check_context("list", device, &self.list)?;
        let indices = list.indices();
        if !indices.is_empty() {
            let mut room = self.list.slice_mut(..indices.len());
            device.upload_into(indices, &mut room)?;
        }
        device.upload_into(&[indices.len() as u32], &mut self.count)
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
        let limit = self.limit;
        let mut arguments = Arguments::new(device);
        let masks = arguments.read("masks", masks)?;
        let list = self.hold_mut(&mut arguments)?;
        arguments.launch(&raw::Union { masks, tokens, limit, list })
    }

    /// Holds the list for a call that reads it.
    pub(super) fn hold<'a>(&'a self, arguments: &mut Arguments<'a>) -> Result<raw::List> {
        Ok(raw::List {
            list: arguments.read("selection list", &self.list)?,
            count: arguments.read("selection list", &self.count)?,
        })
    }

    /// Holds the list for a call that writes it.
    pub(super) fn hold_mut<'a>(&'a mut self, arguments: &mut Arguments<'a>) -> Result<raw::List> {
        Ok(raw::List {
            list: arguments.write("list", &mut self.list)?,
            count: arguments.write("list", &mut self.count)?,
        })
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

    pub(super) fn check(&self, tokens: usize, d_model: usize, d_ff: usize) -> Result<()> {
        let list = |list: &NeuronList| check_len("selection list's limit", d_ff, list.limit);
        let masks = |masks: &CudaSlice<u32>| {
            check_room("selection masks", tokens.saturating_mul(mask_words(d_ff)), masks.len())
        };
        let n = match self.score() {
            Some(Score { on: ScoreOn::Input, .. }) => d_model,
            _ => d_ff,
        };
        if let Some(scale) = self.score().and_then(|score| score.channel_scale) {
            check_len("channel_scale", n, scale.len())?;
        }
        match self {
            Selection::All => Ok(()),
            Selection::List(l) => list(l),
            Selection::Masks(m) => masks(m),
            Selection::Union { list: l, masks: m } => list(l).and_then(|()| masks(m)),
            Selection::Threshold { threshold, .. } => Keep::Above(*threshold).check(n),
            Selection::TopK { k, .. } => Keep::Top(*k).check(n),
        }
    }

    /// Holds the memory for a call.
    pub(super) fn hold(&self, arguments: &mut Arguments<'a>) -> Result<raw::Selection> {
        let mut score = |score: Score<'a>| -> Result<raw::Score> {
            let channel_scale = score.channel_scale.map(|scale| arguments.read("channel_scale", scale)).transpose()?;
            Ok(raw::Score { on: score.on, channel_scale })
        };
        Ok(match *self {
            Selection::All => raw::Selection::All,
            Selection::Threshold { score: s, threshold } => raw::Selection::Threshold { score: score(s)?, threshold },
            Selection::TopK { score: s, k } => raw::Selection::TopK { score: score(s)?, k },
            Selection::List(list) => raw::Selection::List(list.hold(arguments)?),
            Selection::Masks(masks) => raw::Selection::Masks(arguments.read("selection masks", masks)?),
            Selection::Union { list, masks } => {
                let list = list.hold(arguments)?;
                raw::Selection::Union { list, masks: arguments.read("selection masks", masks)? }
            }
        })
    }
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
    if let Some(scale) = channel_scale {
        check_len("channel_scale", n, scale.len())?;
    }
    let mut arguments = Arguments::new(device);
    let select = raw::SelectMask {
        values: arguments.read("values", values)?,
        n,
        stride,
        tokens,
        channel_scale: channel_scale.map(|scale| arguments.read("channel_scale", scale)).transpose()?,
        keep,
        masks: arguments.write("masks", masks)?,
    };
    arguments.launch(&select)
}

/// Checks that a buffer has at least `expected` elements; one that is longer serves smaller calls too.
pub(super) fn check_room(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if got >= expected { Ok(()) } else { Err(Error::Length { what, expected, got }) }
}
