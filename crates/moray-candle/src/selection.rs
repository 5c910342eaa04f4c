//! Which neurons a call computes.

use candle_core::{Result, Tensor, WithDType, bail};
use moray::sparse_mlp::{IndexList, Score, ScoreOn, Selection as Neurons, Shape, TokenMasks};

use crate::rows::host_f32;

/// Which neurons of an MLP are computed. Lists, masks and factors are tensors that a call reads and checks; they may be on the CPU
/// wherever x is.
#[derive(Debug, Clone)]
pub enum Selection {
    /// All of them.
    All,
    /// One list for every token: u32 \[count\], strictly increasing.
    List(Tensor),
    /// One mask for each token: u8 \[.., d_ff\] with the leading dimensions of x, not 0 for what is kept.
    Masks(Tensor),
    /// Each token keeps what scores above a threshold. A score is the size of a value, times `channel_scale` \[d_ff\] (or
    /// \[d_model\] on inputs), where there is one.
    Threshold {
        /// Whose size.
        on: ScoreOn,
        /// Factors.
        channel_scale: Option<Tensor>,
        /// Finite, at least 0.
        threshold: f32,
    },
    /// Each token keeps exactly the `k` highest scores.
    TopK {
        /// Whose size.
        on: ScoreOn,
        /// Factors, as above.
        channel_scale: Option<Tensor>,
        /// From 1.
        k: usize,
    },
    /// A list that every token shares and a mask for each: token t computes list ∩ mask t, and rows are read once for all.
    Union {
        /// As in [`Selection::List`].
        list: Tensor,
        /// As in [`Selection::Masks`].
        masks: Tensor,
    },
}

impl Selection {
    /// Each token keeps the neurons whose gate is above a threshold in size, as CATS does.
    pub fn gate_above(threshold: f32) -> Self {
        Selection::Threshold { on: ScoreOn::Gate, channel_scale: None, threshold }
    }

    /// Each token keeps the `k` neurons whose part is largest.
    pub fn top_k(k: usize) -> Self {
        Selection::TopK { on: ScoreOn::Hidden, channel_scale: None, k }
    }

    /// What a call with inputs of these dimensions computes, read from whatever device the tensors are on.
    pub(crate) fn resolve(&self, x: &[usize], d_ff: usize) -> Result<Resolved> {
        let scale = |scale: &Option<Tensor>| {
            scale.as_ref().map(|scale| host_f32("channel_scale", scale, &[scale.elem_count()])).transpose()
        };
        Ok(match self {
            Selection::All => Resolved::All,
            Selection::List(list) => Resolved::List(indices(list)?),
            Selection::Masks(masks) => Resolved::Masks(words(masks, x, d_ff)?),
            Selection::Union { list, masks } => Resolved::Union { list: indices(list)?, masks: words(masks, x, d_ff)? },
            Selection::Threshold { on, channel_scale, threshold } => {
                Resolved::Threshold { on: *on, scale: scale(channel_scale)?, threshold: *threshold }
            }
            Selection::TopK { on, channel_scale, k } => Resolved::TopK { on: *on, scale: scale(channel_scale)?, k: *k },
        })
    }
}

/// A [`Selection`] as numbers on the host.
#[derive(Debug, Clone)]
pub(crate) enum Resolved {
    All,
    List(Vec<u32>),
    Masks(Vec<u64>),
    Union { list: Vec<u32>, masks: Vec<u64> },
    Threshold { on: ScoreOn, scale: Option<Vec<f32>>, threshold: f32 },
    TopK { on: ScoreOn, scale: Option<Vec<f32>>, k: usize },
}

impl Resolved {
    /// As moray's CPU operation takes it.
    ///
    /// # Errors
    /// Those of lists and masks that are out of order or out of range, and of [`Neurons::check`].
    pub(crate) fn view(&self, tokens: usize, Shape { d_model, d_ff, .. }: Shape) -> moray::Result<Neurons<'_>> {
        let score = |on: &ScoreOn, scale| Score { on: *on, channel_scale: Option::as_deref(scale) };
        let neurons = match self {
            Resolved::All => Neurons::All,
            Resolved::List(list) => Neurons::List(IndexList::new(list, d_ff)?),
            Resolved::Masks(masks) => Neurons::Masks(TokenMasks::new(masks, tokens, d_ff)?),
            Resolved::Union { list, masks } => {
                Neurons::Union { list: IndexList::new(list, d_ff)?, masks: TokenMasks::new(masks, tokens, d_ff)? }
            }
            Resolved::Threshold { on, scale, threshold } => {
                Neurons::Threshold { score: score(on, scale), threshold: *threshold }
            }
            Resolved::TopK { on, scale, k } => Neurons::TopK { score: score(on, scale), k: *k },
        };
        neurons.check(tokens, d_model, d_ff)?;
        Ok(neurons)
    }
}

/// The elements of a tensor on any device, if it has this type.
fn host<T: WithDType>(what: &'static str, tensor: &Tensor) -> Result<Vec<T>> {
    if tensor.dtype() != T::DTYPE {
        bail!("{what}: expected {}, got {}", T::DTYPE.as_str(), tensor.dtype().as_str());
    }
    tensor.flatten_all()?.to_vec1()
}

/// The numbers of a list.
fn indices(list: &Tensor) -> Result<Vec<u32>> {
    if list.rank() != 1 {
        bail!("list: expected one dimension, got the shape {:?}", list.dims());
    }
    host::<u32>("list", list)
}

/// Masks of one byte an index as words: u64 \[tokens, ⌈d_ff/64⌉\].
fn words(masks: &Tensor, x: &[usize], d_ff: usize) -> Result<Vec<u64>> {
    let expected = [&x[..x.len().saturating_sub(1)], &[d_ff]].concat();
    if masks.dims() != expected {
        bail!("masks: expected the shape {expected:?}, got {:?}", masks.dims());
    }
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |word, &kept| word << 1 | u64::from(kept != 0));
    Ok(host::<u8>("masks", masks)?.chunks_exact(d_ff).flat_map(|token| token.chunks(64).map(word)).collect())
}
