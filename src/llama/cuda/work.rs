//! What a session keeps on the device besides buffers.

use super::inputs::Inputs;
use super::linear::Scratch;
use super::neurons::Neurons;
use crate::attention::cuda::{self as device_attention, KvCache, KvFormat, KvLayout, Rope, Spans, Workspace};
use crate::attention::{self, AttentionShape, Heads, KvDtype, KvPolicy};
use crate::device::Device;
use crate::error::Result;
use crate::llama::{Config, Settings};
use crate::sparse_mlp::Selection;
use crate::sparse_mlp::cuda::Weights;
use cudarc::driver::CudaSlice;

/// What a session keeps on the device besides buffers.
#[derive(Debug)]
pub struct Work {
    pub(super) shape: AttentionShape,
    pub(super) cache: KvCache,
    pub(super) inputs: Option<Inputs>,
    pub(super) rope: Rope,
    pub(super) spans: Spans,
    pub(super) attention: Workspace,
    pub(super) head_masks: HeadMasks,
    pub(super) neurons: Option<Neurons>,
    pub(super) scratch: Scratch,
    /// Tokens of the current call.
    pub(super) m: usize,
    /// u32 \[M\].
    pub(super) tokens: CudaSlice<u32>,
    /// u32 \[max_logits\]: rows of the current call's logits, and how many.
    pub(super) rows: CudaSlice<u32>,
    pub(super) n_rows: usize,
}

/// The head masks of every layer: in device memory, and as they were last copied there.
#[derive(Debug)]
pub(super) struct HeadMasks {
    /// Each u32 \[spans, ⌈n_q_heads/32⌉\].
    layers: Vec<(CudaSlice<u32>, Vec<u32>)>,
}

impl HeadMasks {
    fn new(device: &Device, n_layers: usize, words: usize) -> Result<Self> {
        let layer = |_| Ok((device.zeros(words)?, vec![0; words]));
        Ok(HeadMasks { layers: (0..n_layers).map(layer).collect::<Result<_>>()? })
    }

    /// Brings a layer's masks to the device, if they are not there: a captured pass has them already.
    pub(super) fn set(&mut self, device: &Device, layer: usize, heads: &Heads<'_>) -> Result<()> {
        let Heads::Mask { words } = *heads else { return Ok(()) };
        let (slice, held) = &mut self.layers[layer];
        if held[..words.len()] != *words {
            held[..words.len()].copy_from_slice(words);
            let mut target = slice.slice_mut(..words.len());
            device.upload_into(words, &mut target)?;
        }
        Ok(())
    }

    /// The device's form of heads that [`HeadMasks::set`] has brought there.
    pub(super) fn get(&self, layer: usize, heads: &Heads<'_>) -> device_attention::Heads<'_> {
        match heads {
            Heads::All => device_attention::Heads::All,
            _ => device_attention::Heads::Mask { words: &self.layers[layer].0 },
        }
    }
}

impl Work {
    pub(super) fn new(
        device: &Device,
        config: &Config,
        neurons: Option<&Weights>,
        settings: &Settings,
    ) -> Result<Self> {
        let Settings { slots, context, max_tokens, max_logits, .. } = *settings;
        let (shape, kv_shape, d) = (config.attention, settings.kv_shape(config), config.d_model);
        let holes = !matches!(settings.kv, KvPolicy::WriteAll | KvPolicy::Zero);
        let inputs = (settings.kv.lag() > 0).then(|| Inputs::new(device, config, settings)).transpose()?;
        let words = slots * shape.n_q_heads.div_ceil(32);
        let rope = attention::Rope::new(shape.head_dim, config.rope_theta, &config.rope_scaling, context)?;
        let widest = [d, shape.q_elems(), config.d_ff].into_iter().max().unwrap_or(d);
        let qkv = shape.q_elems() + 2 * shape.kv_elems();
        let most = [d, qkv, 2 * config.d_ff, config.vocab].into_iter().max().unwrap_or(d);
        let neurons = neurons.map(|weights| Neurons::new(device, weights, config.n_layers, max_tokens, slots));
        Ok(Work {
            shape,
            cache: KvCache::new(device, kv_shape, format(settings.kv_dtype), KvLayout::Contiguous, holes)?,
            inputs,
            rope: Rope::upload(device, &rope)?,
            spans: Spans::new(device, slots)?,
            attention: Workspace::new(device, shape, settings.attention_limits())?,
            head_masks: HeadMasks::new(device, config.n_layers, words)?,
            neurons: neurons.transpose()?,
            scratch: Scratch::new(device, max_tokens.max(max_logits), most, widest)?,
            m: 0,
            tokens: device.zeros(max_tokens)?,
            rows: device.zeros(max_logits)?,
            n_rows: 0,
        })
    }

    /// Brings the heads of a layer to the device, so that a captured pass has nothing to copy.
    pub(super) fn prepare_heads(&mut self, device: &Device, layer: usize, heads: &Heads<'_>) -> Result<()> {
        self.head_masks.set(device, layer, heads)
    }

    /// Brings the neurons of a layer to the device, as [`Work::prepare_heads`].
    pub(super) fn prepare_neurons(&mut self, device: &Device, layer: usize, selection: &Selection<'_>) -> Result<()> {
        self.neurons.as_mut().map_or(Ok(()), |neurons| neurons.prepare(device, layer, selection))
    }
}

fn format(dtype: KvDtype) -> KvFormat {
    match dtype {
        KvDtype::F32 => KvFormat::F32,
        KvDtype::F16 => KvFormat::F16,
        KvDtype::Bf16 => KvFormat::Bf16,
        KvDtype::Int8 => KvFormat::Int8,
    }
}
