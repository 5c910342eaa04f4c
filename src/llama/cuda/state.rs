//! What a session keeps on the device.

use super::linear::Scratch;
use super::mlp::MlpBuffers;
use super::recompute::Recompute;
use crate::attention::cuda::{KvCache, KvFormat, KvLayout, Rope, Spans, Workspace};
use crate::attention::{self, KvDtype, KvPolicy, KvShape, Limits, Span};
use crate::device::{Device, call};
use crate::error::Result;
use crate::llama::shared::{LayerSizes, policies};
use crate::llama::{Config, Layer, SessionState, Settings};
use crate::policy::{PolicySet, Site};
use cudarc::driver::CudaSlice;

/// What a session keeps on the device, and the policies' statistics on the host.
#[derive(Debug)]
pub struct State {
    pub(super) config: Config,
    pub(super) kv: KvPolicy,
    pub(super) cache: KvCache,
    pub(super) recompute: Option<Recompute>,
    pub(super) rope: Rope,
    pub(super) spans: Spans,
    pub(super) attention: Workspace,
    pub(super) policies: PolicySet,
    pub(super) head_masks: HeadMasks,
    pub(super) mlp: MlpBuffers,
    pub(super) scratch: Scratch,
    /// Tokens of the current call.
    pub(super) m: usize,
    /// u32 \[M\].
    pub(super) tokens: CudaSlice<u32>,
    /// \[M, d\]: the residual stream, and where its next value is written.
    pub(super) x: CudaSlice<f32>,
    pub(super) next: CudaSlice<f32>,
    /// \[M, q + 2·kv\], \[M, q\], \[M, q\].
    pub(super) qkv: CudaSlice<f32>,
    pub(super) q: CudaSlice<f32>,
    pub(super) out: CudaSlice<f32>,
    /// \[max_logits\], \[max_logits, d\], \[max_logits, vocab\].
    pub(super) rows: CudaSlice<u32>,
    pub(super) normed: CudaSlice<f32>,
    pub(super) logits: CudaSlice<f32>,
    pub(super) host_logits: Vec<f32>,
    /// Attention outputs for the policy's statistics.
    pub(super) host_out: Vec<f32>,
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

    /// Brings a layer's masks to the device, if they are not there.
    pub(super) fn set(&mut self, device: &Device, layer: usize, words: &[u32]) -> Result<()> {
        let (slice, held) = &mut self.layers[layer];
        if held[..words.len()] != *words {
            held[..words.len()].copy_from_slice(words);
            let mut target = slice.slice_mut(..words.len());
            device.stream().memcpy_htod(words, &mut target).map_err(call("copy to the device"))?;
        }
        Ok(())
    }

    pub(super) fn get(&self, layer: usize) -> &CudaSlice<u32> {
        &self.layers[layer].0
    }

    /// A layer's masks as the device holds them.
    pub(super) fn host(&self, layer: usize) -> &[u32] {
        &self.layers[layer].1
    }
}

impl State {
    pub(super) fn new(device: &Device, config: &Config, layers: &[Layer<Device>], settings: &Settings) -> Result<Self> {
        check_layers(config, layers)?;
        let Settings { slots, context, max_tokens, max_logits, .. } = *settings;
        let (shape, d) = (config.attention, config.d_model);
        let kv_shape = KvShape {
            n_layers: config.n_layers,
            n_slots: slots,
            n_kv_heads: shape.n_kv_heads,
            capacity: context,
            head_dim: shape.head_dim,
        };
        let (holes, recompute) = match settings.kv {
            KvPolicy::WriteAll | KvPolicy::Zero => (false, None),
            KvPolicy::Hole | KvPolicy::Recompute { lag: 0 } => (true, None),
            KvPolicy::Recompute { lag } => {
                let sizes = (config.n_layers, slots, lag);
                (true, Some(Recompute::new(device, shape, sizes, (d, max_tokens), settings.kv_dtype)?))
            }
        };
        let policies = policies(config, settings)?;
        let selects_heads = policies.has(Site::Heads);
        let masked_layers = if selects_heads { config.n_layers } else { 0 };
        let words = slots * shape.n_q_heads.div_ceil(32);
        let rope = attention::Rope::new(shape.head_dim, config.rope_theta, &config.rope_scaling, context)?;
        let limits = Limits { max_rows: max_tokens, max_spans: slots, capacity: context };
        let widest = [d, shape.q_elems(), config.d_ff].into_iter().max().unwrap_or(d);
        let rows = |width: usize| device.zeros::<f32>(max_tokens * width);
        Ok(State {
            config: config.clone(),
            kv: settings.kv,
            cache: KvCache::new(device, kv_shape, format(settings.kv_dtype), KvLayout::Contiguous, holes)?,
            recompute,
            rope: Rope::upload(device, &rope)?,
            spans: Spans::new(device, slots)?,
            attention: Workspace::new(device, shape, limits)?,
            host_out: vec![0.0; if selects_heads { max_tokens * shape.q_elems() } else { 0 }],
            policies,
            head_masks: HeadMasks::new(device, masked_layers, words)?,
            mlp: MlpBuffers::new(device, &layers[0].mlp, config.n_layers, max_tokens, slots)?,
            scratch: Scratch::new(device, max_tokens.max(max_logits), widest)?,
            m: 0,
            tokens: device.zeros(max_tokens)?,
            x: rows(d)?,
            next: rows(d)?,
            qkv: rows(config.qkv_features())?,
            q: rows(shape.q_elems())?,
            out: rows(shape.q_elems())?,
            rows: device.zeros(max_logits)?,
            normed: device.zeros(max_logits * d)?,
            logits: device.zeros(max_logits * config.vocab)?,
            host_logits: vec![0.0; max_logits * config.vocab],
        })
    }

    /// Says whether the policies have made their last choice for a slot, so that a [`super::Decoder`] can hold it.
    pub fn is_settled(&self, slot: usize) -> bool {
        self.policies.unsettled(&[Span { slot, start: 0, len: 1 }]).is_none()
    }

    /// Asks the policy which heads run in this layer, and brings the answer to the device.
    pub(super) fn select_heads(&mut self, device: &Device, index: usize, spans: &[Span]) -> Result<bool> {
        let n_q_heads = self.config.attention.n_q_heads;
        let mut masks = vec![0; spans.len() * n_q_heads.div_ceil(32)];
        let selects = self.policies.select_heads(index, spans, n_q_heads, &mut masks)?;
        if selects {
            self.head_masks.set(device, index, &masks)?;
        }
        Ok(selects)
    }
}

impl SessionState for State {
    fn kv_bytes(&self) -> usize {
        self.cache.memory_bytes()
    }

    fn policies(&self) -> &PolicySet {
        &self.policies
    }
}

fn format(dtype: KvDtype) -> KvFormat {
    match dtype {
        KvDtype::F32 => KvFormat::F32,
        KvDtype::F16 => KvFormat::F16,
        KvDtype::Bf16 => KvFormat::Bf16,
    }
}

fn check_layers(config: &Config, layers: &[Layer<Device>]) -> Result<()> {
    for layer in layers {
        let sizes = LayerSizes {
            attn_norm: layer.attn_norm.len(),
            qkv: [layer.qkv.n(), layer.qkv.k()],
            o: [layer.o.n(), layer.o.k()],
            mlp_norm: layer.mlp_norm.len(),
        };
        sizes.check(config)?;
        layer.mlp.check(config.d_model, config.d_ff)?;
    }
    Ok(())
}
