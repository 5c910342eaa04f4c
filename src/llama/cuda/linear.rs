//! One weight matrix of a model on the device, unquantized or W4A8.

use super::kernels::{self, DenseWeight};
use super::raw::RmsNorm;
use crate::attention::AttentionShape;
use crate::device::{Arguments, Device, ElementKind};
use crate::error::{Error, Result};
use crate::input_sparse::cuda as input_sparse;
use crate::llama::{self, DenseType, Input, Norm};
use crate::sparse_mlp::Activation;
use crate::w4a8::ActScales;
use crate::w4a8::cuda::{self as w4a8, Activations, Epilogue, Workspace};
use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};

/// The numbers of a [`Linear`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Weight {
    /// Floating point.
    Dense(DenseWeight),
    /// 4- or 8-bit integers, multiplied with int8 activations.
    W4a8(w4a8::Weight),
    /// Floating point or 4 bits by input, read where an input is above a threshold.
    ByInput(input_sparse::Weight),
}

/// A weight matrix \[N, K\] with an optional bias \[N\], in device memory.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    bias: Option<CudaSlice<f32>>,
    act_scales: ActScales,
    qk_norm: Option<QkNorm>,
}

/// [`llama::QkNorm`] in device memory.
#[derive(Debug, Clone)]
struct QkNorm {
    shape: AttentionShape,
    q: CudaSlice<f32>,
    k: CudaSlice<f32>,
    eps: f32,
}

impl QkNorm {
    fn upload(device: &Device, norm: &llama::QkNorm) -> Result<Self> {
        Ok(QkNorm { shape: norm.shape, q: device.upload(&norm.q)?, k: device.upload(&norm.k)?, eps: norm.eps })
    }

    /// Normalises the heads of qkv \[M, q + 2·kv\].
    fn apply(&self, device: &Device, m: usize, qkv: &mut CudaViewMut<'_, f32>) -> Result<()> {
        let (q, kv, shape) = (self.shape.q_elems(), self.shape.kv_elems(), self.shape);
        for (weight, start, heads) in [(&self.q, 0, shape.n_q_heads), (&self.k, q, shape.n_kv_heads)] {
            let mut x = qkv.slice_mut(start..);
            let mut arguments = Arguments::new(device);
            let x = arguments.write("qkv", &mut x)?;
            let norm = RmsNorm {
                x,
                x_rows: m,
                x_stride: q + 2 * kv,
                rows: None,
                weight: arguments.read("norm", weight)?,
                eps: self.eps,
                m,
                heads,
                k: shape.head_dim,
                y: x,
                y_stride: q + 2 * kv,
            };
            arguments.launch(&norm)?;
        }
        Ok(())
    }
}

/// Tokens that are quantized where they are multiplied.
struct Few<'a> {
    x: CudaView<'a, f32>,
    m: usize,
    norm: Option<(&'a CudaSlice<f32>, f32)>,
    scales: ActScales,
}

impl Few<'_> {
    fn borrow(&self) -> w4a8::FewTokens<'_, f32> {
        w4a8::FewTokens { x: &self.x, m: self.m, norm: self.norm, scales: self.scales }
    }
}

/// What multiplications of a session work in, one after another.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) int8: Activations,
    pub(super) workspace: Workspace,
    pub(super) by_input: input_sparse::Workspace,
    /// f32 \[M, K\]: inputs of dense matrices after what is done to them.
    pub(super) plain: CudaSlice<f32>,
}

impl Scratch {
    /// Allocates for up to M tokens, N outputs and K features.
    pub(super) fn new(device: &Device, m: usize, n: usize, k: usize) -> Result<Self> {
        Ok(Scratch {
            int8: Activations::with_capacity(device, m, k)?,
            workspace: Workspace::new(device)?,
            by_input: input_sparse::Workspace::with_capacity(device, m, n, k)?,
            plain: device.zeros(m * k)?,
        })
    }
}

impl Linear {
    /// Copies a matrix to the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if it does not fit, [`Error::Unsupported`] for another order of its inputs and a preview.
    pub fn upload(device: &Device, linear: &llama::Linear) -> Result<Self> {
        if linear.input_order().is_some() {
            let (expected, got) = ("columns in the order of the inputs on a CUDA device", "another order".into());
            return Err(Error::Unsupported { what: "weights", expected, got });
        }
        if linear.preview().is_some() {
            let (expected, got) = ("an output layer that computes every logit on a CUDA device", "a preview".into());
            return Err(Error::Unsupported { what: "weights", expected, got });
        }
        let weight = match linear.weight() {
            llama::Weight::Dense(dense) => Weight::Dense(DenseWeight {
                n: dense.n(),
                k: dense.k(),
                element: match dense.dtype() {
                    DenseType::F32 => ElementKind::F32,
                    DenseType::F16 => ElementKind::F16,
                    DenseType::Bf16 => ElementKind::Bf16,
                },
                data: device.upload(dense.data())?,
            }),
            llama::Weight::W4a8(packed) => Weight::W4a8(w4a8::Weight::upload(device, packed)?),
            llama::Weight::ByInput(weight) => Weight::ByInput(input_sparse::Weight::upload(device, weight)?),
        };
        let bias = linear.bias().map(|bias| device.upload(bias)).transpose()?;
        Ok(Linear {
            weight,
            bias,
            act_scales: linear.act_scales(),
            qk_norm: linear.qk_norm().map(|norm| QkNorm::upload(device, norm)).transpose()?,
        })
    }

    /// The numbers.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }

    /// Output features N.
    pub fn n(&self) -> usize {
        match &self.weight {
            Weight::Dense(weight) => weight.n,
            Weight::W4a8(weight) => weight.n(),
            Weight::ByInput(weight) => weight.n(),
        }
    }

    /// Input features K.
    pub fn k(&self) -> usize {
        match &self.weight {
            Weight::Dense(weight) => weight.k,
            Weight::W4a8(weight) => weight.k(),
            Weight::ByInput(weight) => weight.k(),
        }
    }

    /// Bytes that one multiplication of all inputs reads.
    pub fn bytes(&self) -> usize {
        let weight = match &self.weight {
            Weight::Dense(weight) => weight.data.len(),
            Weight::W4a8(weight) => weight.bytes(),
            Weight::ByInput(weight) => weight.bytes(),
        };
        weight + self.bias.as_ref().map_or(0, |bias| 4 * bias.len())
    }

    /// x\[m\] = row tokens\[m\]; tokens are below N.
    pub(super) fn embed(
        &self,
        device: &Device,
        tokens: &CudaView<'_, u32>,
        x: &mut CudaViewMut<'_, f32>,
    ) -> Result<()> {
        match &self.weight {
            Weight::Dense(weight) => kernels::embed_dense(device, weight, tokens, x),
            Weight::W4a8(weight) => w4a8::dequantize_rows(device, weight, tokens, x),
            Weight::ByInput(_) => {
                let (expected, got) = ("an embedding by output on a CUDA device", "one by input".into());
                Err(Error::Unsupported { what: "embed", expected, got })
            }
        }
    }

    /// Multiplies: y\[M, N\] = input\[M, K\] · wᵀ + bias + residual, then normalises heads if it has norms. Inputs of at most
    /// `threshold` count as 0.
    ///
    /// # Errors
    /// [`Error::Length`] for a buffer of another size, [`Error::Shape`] for more tokens than the scratch is for, [`Error::Unsupported`] for
    /// a threshold above 0 where weights are not by input.
    pub(super) fn forward(
        &self,
        device: &Device,
        (input, m, threshold): (Input<'_, Device>, usize, f32),
        residual: Option<&CudaView<'_, f32>>,
        y: &mut CudaViewMut<'_, f32>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let bias = self.bias.as_ref();
        match &self.weight {
            Weight::ByInput(weight) => {
                let (x, bias) = (self.plain(device, (input, m), &mut scratch.plain)?, bias.map(|bias| bias.as_view()));
                let room = &mut scratch.by_input;
                input_sparse::linear(device, weight, &x, threshold, bias.as_ref(), residual, y, room)?;
            }
            _ if threshold > 0.0 => {
                let (expected, got) = ("weights by input for a threshold on inputs", "weights by output".into());
                return Err(Error::Unsupported { what: "linear", expected, got });
            }
            Weight::Dense(weight) => {
                let x = self.plain(device, (input, m), &mut scratch.plain)?;
                kernels::dense(device, weight, &x, bias, residual, y)?;
            }
            Weight::W4a8(weight) => match self.few(device, weight, &input, m) {
                Some(tokens) => w4a8::linear_few(device, weight, tokens.borrow(), Epilogue { bias, residual }, y)?,
                None => {
                    let int8 = &mut scratch.int8;
                    self.quantize(device, (input, m), int8)?;
                    w4a8::linear(device, weight, int8, Epilogue { bias, residual }, y, &mut scratch.workspace)?;
                }
            },
        }
        self.qk_norm.as_ref().map_or(Ok(()), |norm| norm.apply(device, m, y))
    }

    /// Multiplies as [`Linear::forward`] a matrix of gates and ups, M · N/2 numbers of y = act(first half of the outputs) ⊙ second half,
    /// where that is one launch; says whether it was.
    ///
    /// # Errors
    /// [`Error::Length`] for a buffer of another size.
    pub(super) fn forward_gated(
        &self,
        device: &Device,
        (norm, m): (Norm<'_, Device>, usize),
        activation: Activation,
        y: &mut CudaSlice<f32>,
    ) -> Result<bool> {
        let Weight::W4a8(weight) = &self.weight else { return Ok(false) };
        let pairs = self.n() % 32 == 0 && self.qk_norm.is_none();
        let Some(tokens) = self.few(device, weight, &Input::RmsNorm(norm), m).filter(|_| pairs) else {
            return Ok(false);
        };
        let mut y = y.slice_mut(..m * self.n() / 2);
        w4a8::gated_few(device, weight, tokens.borrow(), self.bias.as_ref(), activation, &mut y)?;
        Ok(true)
    }

    /// A whole MLP in one launch: y \[M, N\] = down of the gated outputs of this matrix + bias + residual, where the two take it; says whether
    /// they did. `gated` is worked in.
    ///
    /// # Errors
    /// [`Error::Length`] for a buffer of another size.
    pub(super) fn forward_mlp(
        &self,
        device: &Device,
        (norm, m): (Norm<'_, Device>, usize),
        activation: Activation,
        gated: &mut CudaSlice<f32>,
        (down, y): (&Linear, &mut CudaSlice<f32>),
        workspace: &mut Workspace,
    ) -> Result<bool> {
        let (Weight::W4a8(gate_up), Weight::W4a8(down_weight)) = (&self.weight, &down.weight) else { return Ok(false) };
        let residual = norm.x.slice(..m * down.n());
        let pairs = self.n() % 32 == 0 && self.qk_norm.is_none() && down.qk_norm.is_none();
        let both = pairs
            && w4a8::is_few(device, down_weight, down.act_scales, m)
            && w4a8::is_pair(device, gate_up, down_weight);
        let Some(tokens) = self.few(device, gate_up, &Input::RmsNorm(norm), m).filter(|_| both) else {
            return Ok(false);
        };
        let epilogue = Epilogue { bias: down.bias.as_ref(), residual: Some(&residual) };
        w4a8::mlp_few(
            device,
            (gate_up, tokens.borrow(), self.bias.as_ref()),
            activation,
            &mut gated.slice_mut(..m * self.n() / 2),
            (down_weight, down.act_scales, epilogue),
            &mut y.slice_mut(..m * down.n()),
            workspace,
        )?;
        Ok(true)
    }

    /// The inputs of a W4A8 matrix that is multiplied in the launch that quantizes them.
    fn few<'a>(&self, device: &Device, weight: &w4a8::Weight, input: &Input<'a, Device>, m: usize) -> Option<Few<'a>> {
        let (x, norm) = match *input {
            Input::Plain(x) => (x, None),
            Input::RmsNorm(Norm { x, weight, eps }) => (x, Some((weight, eps))),
            Input::SwiGlu { .. } => return None,
        };
        let few = Few { x: x.slice(..m * self.k()), m, norm, scales: self.act_scales };
        w4a8::is_few(device, weight, self.act_scales, m).then_some(few)
    }

    /// The inputs in int8, after what is done to them.
    fn quantize(&self, device: &Device, (input, m): (Input<'_, Device>, usize), int8: &mut Activations) -> Result<()> {
        let k = self.k();
        int8.set_scales(self.act_scales);
        match input {
            Input::Plain(x) => int8.quantize(device, &x.slice(..m * k), m, k),
            Input::RmsNorm(Norm { x, weight, eps }) => {
                int8.quantize_rms_norm(device, &x.slice(..m * k), m, weight, eps)
            }
            Input::SwiGlu { gate_up, activation } => {
                int8.quantize_swiglu(device, &gate_up.slice(..2 * m * k), m, k, activation)
            }
        }
    }

    /// The inputs in f32, after what is done to them: as they are, or in `room`.
    fn plain<'a>(
        &self,
        device: &Device,
        (input, m): (Input<'a, Device>, usize),
        room: &'a mut CudaSlice<f32>,
    ) -> Result<CudaView<'a, f32>> {
        let used = m * self.k();
        if let Input::Plain(x) = input {
            return Ok(x.slice(..used));
        }
        if used > room.len() {
            return Err(Error::Shape { what: "m", expected: "no more than the session's max_tokens", got: m });
        }
        let mut plain = room.slice_mut(..used);
        match input {
            Input::Plain(_) => {}
            Input::RmsNorm(Norm { x, weight, eps }) => {
                kernels::rms_norm(device, &x.slice(..used), None, weight, eps, &mut plain)?;
            }
            Input::SwiGlu { gate_up, activation } => {
                kernels::activate(device, activation, &gate_up.slice(..2 * used), self.k(), &mut plain)?;
            }
        }
        Ok(room.slice(..used))
    }
}
