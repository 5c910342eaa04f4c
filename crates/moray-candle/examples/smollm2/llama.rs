//! The forward pass of a LLaMA in a GGUF file, of candle's operations, with any linear layer.
//!
//! The structs of candle-transformers keep their layers to themselves, so this is what `models::quantized_llama` computes, over a
//! [`Module`]; main.rs checks that both continue a text alike.

use std::io::{Read, Seek};

use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Embedding, Module};

/// A model whose linear layers are `L`.
pub struct Llama<L> {
    embedding: Embedding,
    layers: Vec<Layer<L>>,
    norm: Tensor,
    output: L,
    shape: Shape,
    /// f32 \[positions, head_dim / 2\].
    cos: Tensor,
    sin: Tensor,
}

#[derive(Clone, Copy)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    epsilon: f32,
}

struct Layer<L> {
    attention_norm: Tensor,
    q: L,
    k: L,
    v: L,
    o: L,
    mlp_norm: Tensor,
    gate: L,
    up: L,
    down: L,
    /// \[1, kv_heads, positions, head_dim\] each.
    kv: Option<(Tensor, Tensor)>,
}

impl<L: Module> Llama<L> {
    /// Reads a model, with room for so many positions; `make` makes a layer of each matrix.
    pub fn load<R: Read + Seek>(
        content: &Content,
        file: &mut R,
        positions: usize,
        make: impl Fn(QTensor) -> Result<L>,
    ) -> Result<Self> {
        let key = |name: &str| format!("llama.{name}");
        let number = |name: &str| metadata(content, &key(name))?.to_u32().map(|number| number as usize);
        let float = |name: &str| metadata(content, &key(name))?.to_f32();
        let (width, heads) = (number("embedding_length")?, number("attention.head_count")?);
        let (kv_heads, epsilon) = (number("attention.head_count_kv")?, float("attention.layer_norm_rms_epsilon")?);
        let shape = Shape { heads, kv_heads, head_dim: width / heads, epsilon };
        let (cos, sin) = turns(shape.head_dim, float("rope.freq_base")?, positions)?;

        let mut tensor = |name: &str| content.tensor(file, name, &Device::Cpu);
        let embedding = tensor("token_embd.weight")?;
        let rows = Embedding::new(embedding.dequantize(&Device::Cpu)?, width);
        let norm = tensor("output_norm.weight")?.dequantize(&Device::Cpu)?;
        let output = make(tensor("output.weight").unwrap_or(embedding))?;
        let layers =
            (0..number("block_count")?).map(|index| layer(index, &mut tensor, &make)).collect::<Result<_>>()?;
        Ok(Llama { embedding: rows, layers, norm, output, shape, cos, sin })
    }

    /// Computes the logits \[vocabulary\] after these tokens, the first of which is at `position`; 0 begins a text anew.
    pub fn forward(&mut self, tokens: &[u32], position: usize) -> Result<Tensor> {
        let (count, shape) = (tokens.len(), self.shape);
        let (cos, sin) = (self.cos.narrow(0, position, count)?, self.sin.narrow(0, position, count)?);
        let mask = (count > 1).then(|| causal(count, position)).transpose()?;
        let mut x = self.embedding.forward(&Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?)?;
        for layer in &mut self.layers {
            let normed = candle_nn::ops::rms_norm(&x, &layer.attention_norm, shape.epsilon)?;
            x = (layer.attend(&normed, shape, (&cos, &sin), mask.as_ref(), position)? + x)?;
            let normed = candle_nn::ops::rms_norm(&x, &layer.mlp_norm, shape.epsilon)?;
            let hidden = (candle_nn::ops::silu(&layer.gate.forward(&normed)?)? * layer.up.forward(&normed)?)?;
            x = (layer.down.forward(&hidden)? + x)?;
        }
        let x = candle_nn::ops::rms_norm(&x, &self.norm, shape.epsilon)?.narrow(1, count - 1, 1)?;
        self.output.forward(&x)?.flatten_all()
    }
}

fn layer<L>(
    index: usize,
    tensor: &mut impl FnMut(&str) -> Result<QTensor>,
    make: &impl Fn(QTensor) -> Result<L>,
) -> Result<Layer<L>> {
    let mut named = |name: &str| tensor(&format!("blk.{index}.{name}.weight"));
    let attention_norm = named("attn_norm")?.dequantize(&Device::Cpu)?;
    let mlp_norm = named("ffn_norm")?.dequantize(&Device::Cpu)?;
    let mut linear = |name: &str| make(named(name)?);
    Ok(Layer {
        attention_norm,
        q: linear("attn_q")?,
        k: linear("attn_k")?,
        v: linear("attn_v")?,
        o: linear("attn_output")?,
        mlp_norm,
        gate: linear("ffn_gate")?,
        up: linear("ffn_up")?,
        down: linear("ffn_down")?,
        kv: None,
    })
}

impl<L: Module> Layer<L> {
    fn attend(
        &mut self,
        x: &Tensor,
        shape: Shape,
        (cos, sin): (&Tensor, &Tensor),
        mask: Option<&Tensor>,
        position: usize,
    ) -> Result<Tensor> {
        let (batch, count, width) = x.dims3()?;
        let heads = |x: Tensor, heads| x.reshape((batch, count, heads, shape.head_dim))?.transpose(1, 2)?.contiguous();
        let turn = |x: Tensor| candle_nn::rotary_emb::rope_i(&x, cos, sin);
        let q = turn(heads(self.q.forward(x)?, shape.heads)?)?;
        let k = turn(heads(self.k.forward(x)?, shape.kv_heads)?)?;
        let v = heads(self.v.forward(x)?, shape.kv_heads)?;
        let (k, v) = match self.kv.take().filter(|_| position > 0) {
            Some((before_k, before_v)) => (Tensor::cat(&[&before_k, &k], 2)?, Tensor::cat(&[&before_v, &v], 2)?),
            None => (k, v),
        };
        self.kv = Some((k.clone(), v.clone()));
        let groups = shape.heads / shape.kv_heads;
        let (k, v) =
            (candle_transformers::utils::repeat_kv(k, groups)?, candle_transformers::utils::repeat_kv(v, groups)?);
        let mut scores = (q.matmul(&k.t()?)? / (shape.head_dim as f64).sqrt())?;
        if let Some(mask) = mask {
            scores = scores.broadcast_add(mask)?;
        }
        let out = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v.contiguous()?)?;
        self.o.forward(&out.transpose(1, 2)?.reshape((batch, count, width))?)
    }
}

fn metadata<'a>(content: &'a Content, key: &str) -> Result<&'a Value> {
    let missing = || candle_core::Error::Msg(format!("expected metadata {key}, got none"));
    content.metadata.get(key).ok_or_else(missing)
}

/// Cosines and sines of each position's angles.
fn turns(head_dim: usize, base: f32, positions: usize) -> Result<(Tensor, Tensor)> {
    let frequency = |i| 1.0 / base.powf(2.0 * i as f32 / head_dim as f32);
    let frequencies: Vec<f32> = (0..head_dim / 2).map(frequency).collect();
    let frequencies = Tensor::from_vec(frequencies, (1, head_dim / 2), &Device::Cpu)?;
    let positions = Tensor::arange(0, positions as u32, &Device::Cpu)?.to_dtype(DType::F32)?.unsqueeze(1)?;
    let angles = positions.matmul(&frequencies)?;
    Ok((angles.cos()?, angles.sin()?))
}

/// What is added to scores: −∞ for positions after a token's own.
fn causal(count: usize, position: usize) -> Result<Tensor> {
    let after =
        |i: usize| if i % (position + count) > position + i / (position + count) { f32::NEG_INFINITY } else { 0.0 };
    Tensor::from_vec((0..count * (position + count)).map(after).collect(), (count, position + count), &Device::Cpu)
}
