//! A layer's selection of neurons in device memory.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::sparse_mlp::cuda::{self as sparse, MAX_TOKENS, NeuronList, mask_words};
use crate::sparse_mlp::{Score, Selection};
use cudarc::driver::CudaSlice;

/// What of a layer's selections is on the device, and its copy on the host: what is there is not copied again, so a call with
/// the selection of the one before can be captured in a graph.
#[derive(Debug)]
pub(super) struct Resident {
    list: NeuronList,
    held_list: Option<Vec<u32>>,
    /// u32 \[tokens, words\].
    masks: CudaSlice<u32>,
    held_masks: Vec<u64>,
    /// Tokens that there is room for.
    mask_tokens: usize,
    scale: Option<(Vec<f32>, CudaSlice<f32>)>,
}

impl Resident {
    pub(super) fn new(device: &Device, d_ff: usize, mask_tokens: usize) -> Result<Self> {
        Ok(Resident {
            list: NeuronList::new(device, d_ff)?,
            held_list: None,
            masks: device.zeros(mask_tokens * mask_words(d_ff))?,
            held_masks: Vec::with_capacity(mask_tokens * d_ff.div_ceil(64)),
            mask_tokens,
            scale: None,
        })
    }

    pub(super) fn d_ff(&self) -> usize {
        self.list.limit()
    }

    /// Brings a selection to the device, if it is not there.
    pub(super) fn set(&mut self, device: &Device, selection: &Selection<'_>) -> Result<()> {
        match selection {
            Selection::List(list) => {
                if self.held_list.as_deref() != Some(list.indices()) {
                    self.list.set(device, *list)?;
                    self.held_list = Some(list.indices().to_vec());
                }
                Ok(())
            }
            Selection::Masks(masks) => self.set_masks(device, masks.words()),
            Selection::Threshold { score, .. } | Selection::TopK { score, .. } => self.set_scale(device, score),
            _ => Ok(()),
        }
    }

    fn set_masks(&mut self, device: &Device, words: &[u64]) -> Result<()> {
        if words.len() > self.mask_tokens * self.d_ff().div_ceil(64) {
            let expected = "at most 64 where sequences have selections of their own";
            return Err(Error::Shape { what: "tokens", expected, got: words.len() / self.d_ff().div_ceil(64) });
        }
        if self.held_masks != words {
            let halves: Vec<u32> = words.iter().flat_map(|&word| [word as u32, (word >> 32) as u32]).collect();
            let mut room = self.masks.slice_mut(..halves.len());
            device.upload_into(&halves, &mut room)?;
            self.held_masks.clear();
            self.held_masks.extend_from_slice(words);
        }
        Ok(())
    }

    fn set_scale(&mut self, device: &Device, score: &Score<'_>) -> Result<()> {
        let Some(scale) = score.channel_scale else { return Ok(()) };
        if self.scale.as_ref().is_none_or(|(held, _)| held != scale) {
            self.scale = Some((scale.to_vec(), device.upload(scale)?));
        }
        Ok(())
    }

    /// The device's form of a selection that [`Resident::set`] has brought there, for `m` tokens.
    pub(super) fn get(&self, selection: &Selection<'_>, m: usize) -> Result<sparse::Selection<'_>> {
        let score = |score: &Score<'_>| sparse::Score {
            on: score.on,
            channel_scale: score.channel_scale.and(self.scale.as_ref()).map(|(_, scale)| scale),
        };
        match selection {
            Selection::All => Ok(sparse::Selection::All),
            Selection::List(_) => Ok(sparse::Selection::List(&self.list)),
            Selection::Masks(_) if m <= MAX_TOKENS => Ok(sparse::Selection::Masks(&self.masks)),
            Selection::Threshold { score: s, threshold } => {
                Ok(sparse::Selection::Threshold { score: score(s), threshold: *threshold })
            }
            Selection::TopK { score: s, k } => Ok(sparse::Selection::TopK { score: score(s), k: *k }),
            _ => Err(Error::Unsupported {
                what: "selection",
                expected: "a list, a threshold, a top-k or masks of at most 64 tokens",
                got: "another".into(),
            }),
        }
    }
}
