//! One weight matrix of a model on the CPU, unquantized or W4A8.

use super::dense::DenseWeight;
use super::preview::Preview;
use crate::attention::{AttentionShape, MAX_HEAD_DIM};
use crate::cpu::Cpu;
use crate::error::{Error, Result, check_len};
use crate::input_sparse::{self, Workspace};
use crate::norm::rms_norm;
use crate::w4a8::{self, ActScales, Epilogue, PackedWeight};
use std::num::NonZeroUsize;
use std::ops::Range;

/// The numbers of a [`Linear`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Weight {
    /// Floating point.
    Dense(DenseWeight),
    /// 4- or 8-bit integers, multiplied with int8 activations.
    W4a8(PackedWeight),
    /// By input, for thresholds on inputs.
    ByInput(input_sparse::Weight),
}

/// A weight matrix \[N, K\] with an optional bias \[N\], and perhaps norms of the query and key heads that it makes.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    bias: Option<Vec<f32>>,
    act_scales: ActScales,
    input_order: Option<Vec<u32>>,
    qk_norm: Option<QkNorm>,
    preview: Option<Preview>,
}

/// RMSNorm of each query and key head of a joint projection \[M, q + 2·kv\], before RoPE.
///
/// # Source
/// Qwen3 (arXiv 2505.09388).
#[derive(Debug, Clone)]
pub struct QkNorm {
    /// The heads.
    pub shape: AttentionShape,
    /// Of query heads, f32 \[head_dim\].
    pub q: Vec<f32>,
    /// Of key heads, f32 \[head_dim\].
    pub k: Vec<f32>,
    /// Added to the mean square.
    pub eps: f32,
}

impl QkNorm {
    /// Normalises the heads within the output features in `rows`, of every token of qkv.
    fn apply(&self, cpu: &Cpu, rows: &[Range<usize>], qkv: &mut [f32]) -> Result<()> {
        let (shape, d) = (self.shape, self.shape.head_dim);
        let mut x = [0.0; MAX_HEAD_DIM];
        for token in qkv.chunks_exact_mut(shape.q_elems() + 2 * shape.kv_elems()) {
            let heads = token.chunks_exact_mut(d).take(shape.n_q_heads + shape.n_kv_heads).enumerate();
            for (head, y) in heads.filter(|(head, _)| rows.iter().any(|row| row.contains(&(head * d)))) {
                let weight = if head < shape.n_q_heads { &self.q } else { &self.k };
                x[..d].copy_from_slice(y);
                rms_norm(cpu, &x[..d], weight, self.eps, y)?;
            }
        }
        Ok(())
    }
}

impl From<Weight> for Linear {
    fn from(weight: Weight) -> Self {
        Linear { weight, bias: None, act_scales: ActScales::Token, input_order: None, qk_norm: None, preview: None }
    }
}

impl From<PackedWeight> for Linear {
    fn from(weight: PackedWeight) -> Self {
        Weight::W4a8(weight).into()
    }
}

impl From<DenseWeight> for Linear {
    fn from(weight: DenseWeight) -> Self {
        Weight::Dense(weight).into()
    }
}

impl From<input_sparse::Weight> for Linear {
    fn from(weight: input_sparse::Weight) -> Self {
        Weight::ByInput(weight).into()
    }
}

impl Linear {
    /// Adds a bias, f32 \[N\].
    ///
    /// # Errors
    /// [`crate::Error::Length`] unless it has N elements.
    pub fn with_bias(mut self, bias: Vec<f32>) -> Result<Self> {
        check_len("bias", self.n(), bias.len())?;
        self.bias = Some(bias);
        Ok(self)
    }

    /// Says how finely int8 inputs are scaled; by default one scale for each token.
    pub fn with_act_scales(mut self, scales: ActScales) -> Self {
        self.act_scales = scales;
        self
    }

    /// How finely int8 inputs are scaled.
    pub fn act_scales(&self) -> ActScales {
        self.act_scales
    }

    /// Says that column j of the matrix goes with input `order[j]`, as where groups of inputs are not neighbours.
    ///
    /// # Errors
    /// [`Error::Length`] unless it has K entries, [`Error::Index`] for one that is K or more, [`Error::Unsupported`] for a matrix in
    /// floating point or by input, whose columns can be stored in the inputs' order.
    pub fn with_input_order(mut self, order: Vec<u32>) -> Result<Self> {
        let k = self.k();
        check_len("input order", k, order.len())?;
        if let Some(&got) = order.iter().find(|&&input| input as usize >= k) {
            return Err(Error::Index { what: "input order", limit: k, got: got as usize });
        }
        if !matches!(self.weight, Weight::W4a8(_)) {
            let (expected, got) = ("packed integer weights", "others".into());
            return Err(Error::Unsupported { what: "input order", expected, got });
        }
        self.input_order = Some(order);
        Ok(self)
    }

    /// The input of each column, where that is not its own.
    pub fn input_order(&self) -> Option<&[u32]> {
        self.input_order.as_deref()
    }

    /// Adds norms of the query and key heads, for a joint projection.
    ///
    /// # Errors
    /// [`crate::Error::Length`] unless N is that of the heads and there is a weight for each element of one.
    pub fn with_qk_norm(mut self, norm: QkNorm) -> Result<Self> {
        let shape = norm.shape;
        check_len("qkv rows", shape.q_elems() + 2 * shape.kv_elems(), self.n())?;
        check_len("query norm", shape.head_dim, norm.q.len())?;
        check_len("key norm", shape.head_dim, norm.k.len())?;
        self.qk_norm = Some(norm);
        Ok(self)
    }

    /// The norms of query and key heads, if there are any.
    pub fn qk_norm(&self) -> Option<&QkNorm> {
        self.qk_norm.as_ref()
    }

    /// Adds a copy in few bits, for an output layer: a forward pass computes the `exact` largest logits of each token with the matrix, and
    /// the others are the copy's, of which it reads the share `read` of the inputs. [`Linear::forward`] computes all with the matrix. `sizes` f32
    /// \[K\] are typical sizes of the inputs.
    ///
    /// # Errors
    /// As [`Preview::new`]; [`Error::Unsupported`] for a matrix by input or with norms of heads.
    pub fn with_preview(mut self, sizes: &[f32], exact: NonZeroUsize, read: f32) -> Result<Self> {
        if self.is_by_input() || self.qk_norm.is_some() {
            let (expected, got) = ("an output layer by output", "another matrix".into());
            return Err(Error::Unsupported { what: "preview", expected, got });
        }
        self.preview = Some(Preview::new(&self, sizes, exact, read)?);
        Ok(self)
    }

    /// The copy that says which rows are computed, if there is one.
    pub fn preview(&self) -> Option<&Preview> {
        self.preview.as_ref()
    }

    /// The numbers.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }

    /// f32 \[N\], if there is one.
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// Output features N.
    pub fn n(&self) -> usize {
        match &self.weight {
            Weight::Dense(weight) => weight.n(),
            Weight::W4a8(weight) => weight.n(),
            Weight::ByInput(weight) => weight.n(),
        }
    }

    /// Input features K.
    pub fn k(&self) -> usize {
        match &self.weight {
            Weight::Dense(weight) => weight.k(),
            Weight::W4a8(weight) => weight.k(),
            Weight::ByInput(weight) => weight.k(),
        }
    }

    /// Bytes that one multiplication of all inputs reads.
    pub fn bytes(&self) -> usize {
        self.bytes_read(1.0)
    }

    /// Bytes that one multiplication reads whose tokens keep this fraction of the inputs: less than all where weights are by input.
    pub fn bytes_read(&self, kept: f64) -> usize {
        let weight = match &self.weight {
            Weight::Dense(weight) => weight.bytes(),
            Weight::W4a8(weight) => weight.bytes(),
            Weight::ByInput(weight) => weight.bytes_read(kept),
        };
        let weight = self.preview.as_ref().map_or(weight, |preview| preview.bytes_read(weight));
        weight + self.bias.as_ref().map_or(0, |bias| size_of_val(&bias[..]))
    }

    /// Writes row `n` as f32 \[K\].
    ///
    /// # Errors
    /// [`crate::Error::Index`] if `n` is not a row, [`crate::Error::Length`] unless `out` has K elements.
    pub fn row(&self, n: usize, out: &mut [f32]) -> Result<()> {
        match &self.weight {
            Weight::Dense(weight) => weight.row(n, out),
            Weight::W4a8(weight) => {
                weight.dequantize_row(n, out)?;
                if let Some(order) = &self.input_order {
                    let columns = out.to_vec();
                    order.iter().zip(columns).for_each(|(&input, value)| out[input as usize] = value);
                }
                Ok(())
            }
            Weight::ByInput(weight) => weight.row(n, out),
        }
    }

    /// Whether its weights lie by input, so that inputs can be selected.
    pub fn is_by_input(&self) -> bool {
        matches!(self.weight, Weight::ByInput(_))
    }

    /// Checks that its weights are read input by input.
    pub(super) fn check_by_input(&self) -> Result<()> {
        if self.is_by_input() {
            return Ok(());
        }
        let (expected, got) = ("weights by input for a selection of inputs", "weights by output".into());
        Err(Error::Unsupported { what: "linear", expected, got })
    }

    /// Multiplies: y\[M, N\] = x\[M, K\] · wᵀ + bias + residual, then normalises heads if it has norms. Inputs of at most
    /// `threshold` count as 0.
    ///
    /// # Errors
    /// [`crate::Error::Length`] for a buffer of another size, [`crate::Error::Value`] for activations that are not finite
    /// where they have to be quantized, [`Error::Unsupported`] for a threshold above 0 where weights are not by input.
    pub fn forward(
        &self,
        cpu: &Cpu,
        (x, threshold): (&[f32], f32),
        residual: Option<&[f32]>,
        y: &mut [f32],
        workspace: &mut Workspace,
    ) -> Result<()> {
        self.forward_rows(cpu, &[0..self.n()], (x, threshold), residual, y, workspace)
    }

    /// Multiplies as [`Linear::forward`], only for the output features in `rows`, see [`w4a8::linear_rows`].
    ///
    /// # Errors
    /// As [`Linear::forward`] and [`w4a8::linear_rows`].
    pub fn forward_rows(
        &self,
        cpu: &Cpu,
        rows: &[Range<usize>],
        (x, threshold): (&[f32], f32),
        residual: Option<&[f32]>,
        y: &mut [f32],
        workspace: &mut Workspace,
    ) -> Result<()> {
        let epilogue = Epilogue { bias: self.bias.as_deref(), residual };
        match &self.weight {
            Weight::ByInput(weight) if weight.is_integer() && self.act_scales != ActScales::Token => {
                let (expected, got) = ("one scale a token for inputs of weights by input", "fine scales".into());
                return Err(Error::Unsupported { what: "activations", expected, got });
            }
            Weight::ByInput(weight) => {
                input_sparse::linear_rows(cpu, weight, rows, x, threshold, epilogue, &mut *y, workspace)?;
                if weight.is_integer() {
                    workspace.int8.check_finite()?;
                }
            }
            _ if threshold > 0.0 => self.check_by_input()?,
            Weight::Dense(weight) => weight.linear_rows(cpu, rows, x, epilogue, y)?,
            Weight::W4a8(weight) => {
                let int8 = &mut workspace.int8;
                int8.set_scales(self.act_scales);
                let (m, k) = (x.len() / weight.k(), weight.k());
                match &self.input_order {
                    Some(order) => int8.quantize_in_order(cpu, x, order, m, k)?,
                    None => int8.quantize(cpu, x, m, k)?,
                }
                // attention would hide the NaN of a token's K and V
                int8.check_finite()?;
                w4a8::linear_rows(cpu, weight, rows, int8, epilogue, &mut *y)?;
            }
        }
        self.qk_norm.as_ref().map_or(Ok(()), |norm| norm.apply(cpu, rows, y))
    }
}
