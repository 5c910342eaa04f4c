//! What a device does for the forward pass: primitives over its buffers.

use super::config::Config;
use super::sampler::Sampler;
use super::settings::Settings;
use crate::attention::{Call, KvPolicy, KvRow, Span};
use crate::error::Result;
use crate::policy::{Observed, Wanted};
use crate::sparse_mlp::{Activation, Selection, Shape};
use std::ops::Range;

/// A device that runs the forward pass: what the pass is made of. The order of a layer is not a device's business; it is
/// [`super::Layer::attention`] and [`super::Layer::mlp`].
///
/// Buffers are f32, row-major, of at least the rows that a call needs; M is the number of tokens of the call.
pub trait Backend: Sized {
    /// A weight matrix \[N, K\], perhaps with a bias.
    type Linear: std::fmt::Debug;
    /// RMSNorm weights \[d\].
    type Norm: std::fmt::Debug;
    /// The weights of one gated MLP, neuron by neuron.
    type Neurons: std::fmt::Debug;
    /// f32 numbers in the device's memory.
    type Buffer: std::fmt::Debug;
    /// What a session keeps on the device besides buffers: KV cache, rotary table, the tokens of the current call, and what
    /// the primitives work in. It never grows.
    type Work: std::fmt::Debug;
    /// Samplers where the device draws, one for each row of logits.
    type Samplers: std::fmt::Debug;

    /// Whether buffers are the host's memory, so that [`Wanted::AtHand`] can be shown.
    const ON_HOST: bool;

    /// N and K of a matrix.
    fn matrix_shape(linear: &Self::Linear) -> [usize; 2];

    /// d of RMSNorm weights.
    fn norm_len(norm: &Self::Norm) -> usize;

    /// The sizes of an MLP by neuron.
    fn neurons_shape(neurons: &Self::Neurons) -> Shape;

    /// Allocates a buffer.
    ///
    /// # Errors
    /// An [`crate::Error`] if there is no room.
    fn zeros(&self, elems: usize) -> Result<Self::Buffer>;

    /// Allocates what a session of `settings` needs besides buffers, for layers whose MLPs are by neuron like `neurons`, or whole.
    ///
    /// # Errors
    /// An [`crate::Error`] for settings that the device or the model cannot take.
    fn work(&self, config: &Config, neurons: Option<&Self::Neurons>, settings: &Settings) -> Result<Self::Work>;

    /// Takes memory for a list of a layer's neurons, where it will be computed from a copy; most devices read lists in place.
    ///
    /// # Errors
    /// An [`crate::Error`] for weights of which no copy can be made.
    fn expect_list(&self, work: &mut Self::Work, layer: usize, neurons: &Self::Neurons, longest: usize) -> Result<()> {
        let _ = (work, layer, neurons, longest);
        Ok(())
    }

    /// Bytes of the KV cache.
    fn kv_bytes(work: &Self::Work) -> usize;

    /// Brings a call's tokens, spans and rows of logits to where the primitives read them.
    ///
    /// # Errors
    /// An [`crate::Error`] if they cannot be copied.
    fn begin(&self, work: &mut Self::Work, tokens: &[u32], spans: &[Span], rows: &[usize]) -> Result<()>;

    /// x \[M, d\] = the table's rows of the call's tokens.
    ///
    /// # Errors
    /// [`crate::Error::Index`] for a token that is no row.
    fn embed(&self, work: &mut Self::Work, table: &Self::Linear, x: &mut Self::Buffer) -> Result<()>;

    /// y\[M, N\] = input\[M, K\] · wᵀ + bias + residual. Of the output features those in `rows` are computed, increasing ranges
    /// without overlap; all if none are given, and perhaps others.
    ///
    /// # Errors
    /// [`crate::Error::Value`] for inputs that are not finite where they have to be quantized, [`crate::Error::Unsupported`] for a
    /// selection of inputs that the device or the form of the weights does not take.
    fn linear(
        &self,
        work: &mut Self::Work,
        call: LinearCall<'_, Self>,
        residual: Option<&Self::Buffer>,
        y: &mut Self::Buffer,
    ) -> Result<()>;

    /// y \[M, d\] = x + down(act(gate(n)) ⊙ up(n)), n = RMSNorm of x, of two whole matrices and the inputs of each that are kept. `gated`
    /// \[M, 2·d_ff\] is worked in. As two calls of [`Backend::linear`], unless the device has a shorter way to the same numbers.
    ///
    /// # Errors
    /// As [`Backend::linear`].
    fn whole_mlp(
        &self,
        work: &mut Self::Work,
        call: WholeMlpCall<'_, Self>,
        gated: &mut Self::Buffer,
        y: &mut Self::Buffer,
    ) -> Result<()> {
        call.by_matrix(self, work, gated, y)
    }

    /// y \[M, d\] = RMSNorm of x.
    ///
    /// # Errors
    /// An [`crate::Error`] if the device fails.
    fn rms_norm(&self, norm: Norm<'_, Self>, m: usize, y: &mut Self::Buffer) -> Result<()>;

    /// y \[rows, d\] = RMSNorm of those rows of x that [`Backend::begin`] named for logits.
    ///
    /// # Errors
    /// An [`crate::Error`] if the device fails.
    fn rms_norm_rows(&self, work: &mut Self::Work, norm: Norm<'_, Self>, y: &mut Self::Buffer) -> Result<()>;

    /// Turns q and k of qkv \[M, q + 2·kv\] by RoPE, writes q to `q` \[M, q\] and K and V into the cache: `policy` says what of
    /// heads that do not run.
    ///
    /// # Errors
    /// An [`crate::Error`] for a call that the cache does not take.
    fn write_kv(
        &self,
        work: &mut Self::Work,
        call: &Call<'_>,
        policy: KvPolicy,
        qkv: &Self::Buffer,
        q: &mut Self::Buffer,
    ) -> Result<()>;

    /// out \[M, q\] = attention of q over what the cache holds, 0 for heads that do not run.
    ///
    /// # Errors
    /// As [`Backend::write_kv`].
    fn attend(&self, work: &mut Self::Work, call: &Call<'_>, q: &Self::Buffer, out: &mut Self::Buffer) -> Result<()>;

    /// [`Backend::write_kv`] and [`Backend::attend`], unless the device has a shorter way to the same numbers: `q` \[M, q\] is worked in.
    ///
    /// # Errors
    /// As [`Backend::write_kv`].
    fn write_attend(
        &self,
        work: &mut Self::Work,
        call: &Call<'_>,
        policy: KvPolicy,
        qkv: &Self::Buffer,
        q: &mut Self::Buffer,
        out: &mut Self::Buffer,
    ) -> Result<()> {
        self.write_kv(work, call, policy, qkv, q)?;
        self.attend(work, call, q, out)
    }

    /// Keeps rows of x \[M, d\], rounded to the cache's type: row `from[i]` at place `to[i]`.
    ///
    /// # Errors
    /// An [`crate::Error`] if the device fails.
    fn keep_inputs(&self, work: &mut Self::Work, x: &Self::Buffer, from: &[u32], to: &[u32]) -> Result<()>;

    /// x\[i\] = what was kept at place `from[i]`.
    ///
    /// # Errors
    /// An [`crate::Error`] if the device fails.
    fn kept_inputs(&self, work: &mut Self::Work, from: &[u32], x: &mut Self::Buffer) -> Result<()>;

    /// Writes K, turned, and V of single rows into a layer's cache. Rows of one token stand together in `rows`, and the i-th
    /// token's are in row i of qkv.
    ///
    /// # Errors
    /// As [`Backend::write_kv`].
    fn write_rows(&self, work: &mut Self::Work, layer: usize, rows: &[KvRow], qkv: &Self::Buffer) -> Result<()>;

    /// y \[M, d\] = x + down(act(gate(n)) ⊙ up(n)), n = RMSNorm of x, over the neurons that are selected in layer `layer`, and
    /// has ready what is wanted of them.
    ///
    /// # Errors
    /// An [`crate::Error`] for a selection that the device does not take.
    fn mlp(&self, work: &mut Self::Work, call: MlpCall<'_, Self>, y: &mut Self::Buffer) -> Result<()>;

    /// What was wanted of the last [`Backend::mlp`] or [`Backend::linear`].
    fn seen(work: &Self::Work, wanted: Wanted) -> Observed<'_>;

    /// Brings samplers, in the state that they are in, to where [`Backend::sample`] draws with them.
    ///
    /// # Errors
    /// An [`crate::Error`] if the device does not take as many, or as many logits.
    fn samplers(&self, samplers: &[Sampler], vocab: usize) -> Result<Self::Samplers>;

    /// Chooses a token of each row of logits \[R, vocab\], R as [`Backend::begin`] named them. They stay on the device, as the
    /// first tokens of the work.
    ///
    /// # Errors
    /// [`crate::Error::Length`] unless there is a sampler for each row; as [`Backend::sampled`] where that is known at once.
    fn sample(&self, work: &mut Self::Work, samplers: &mut Self::Samplers, logits: &Self::Buffer) -> Result<()>;

    /// What [`Backend::sample`] chose, copied to `host` unless it is there.
    ///
    /// # Errors
    /// [`crate::Error::Value`] if logits of a row were NaN or +∞, or all −∞: its sampler has not drawn then, the others have.
    fn sampled<'a>(&self, work: &'a Self::Work, host: &'a mut Vec<u32>) -> Result<&'a [u32]>;

    /// The first `elems` numbers of a buffer, copied to `host` unless they are there.
    ///
    /// # Errors
    /// An [`crate::Error`] if the device fails.
    fn read<'a>(&self, buffer: &'a Self::Buffer, elems: usize, host: &'a mut Vec<f32>) -> Result<&'a [f32]>;

    /// Forgets a slot's positions from `len` on in the cache.
    ///
    /// # Errors
    /// [`crate::Error::Index`] for a slot that is not there.
    fn truncate(&self, work: &mut Self::Work, slot: usize, len: usize) -> Result<()>;
}

/// x \[M, d\] and what it is normalised with.
#[derive(Debug)]
pub struct Norm<'a, B: Backend> {
    /// \[M, d\].
    pub x: &'a B::Buffer,
    /// \[d\].
    pub weight: &'a B::Norm,
    /// Added to the mean square.
    pub eps: f32,
}

/// What a matrix is multiplied with, and what is done to it first.
#[derive(Debug)]
pub enum Input<'a, B: Backend> {
    /// x \[M, K\].
    Plain(&'a B::Buffer),
    /// RMSNorm of x \[M, K\].
    RmsNorm(Norm<'a, B>),
    /// act(gate) ⊙ up of gate_up \[M, 2·K\], each row K gates and then K ups.
    SwiGlu {
        /// \[M, 2·K\].
        gate_up: &'a B::Buffer,
        /// act.
        activation: Activation,
    },
}

/// One multiplication.
#[derive(Debug)]
pub struct LinearCall<'a, B: Backend> {
    /// \[N, K\].
    pub weight: &'a B::Linear,
    /// \[M, K\].
    pub input: Input<'a, B>,
    /// M.
    pub m: usize,
    /// The output features that are needed; all if none are given.
    pub rows: Option<&'a [Range<usize>]>,
    /// Inputs that are kept, by their scores; the others count as 0, and their weights need not be read.
    pub inputs: Selection<'a>,
}

/// One MLP of two whole matrices.
#[derive(Debug)]
pub struct WholeMlpCall<'a, B: Backend> {
    /// \[2·d_ff, d\].
    pub gate_up: &'a B::Linear,
    /// \[d, d_ff\].
    pub down: &'a B::Linear,
    /// act.
    pub activation: Activation,
    /// M.
    pub m: usize,
    /// x, which is added too.
    pub norm: Norm<'a, B>,
    /// Inputs of gate and up that are kept.
    pub gate_up_inputs: Selection<'a>,
    /// Inputs of down that are kept.
    pub down_inputs: Selection<'a>,
}

impl<B: Backend> WholeMlpCall<'_, B> {
    /// Makes it of two multiplications.
    ///
    /// # Errors
    /// As [`Backend::linear`].
    pub fn by_matrix(self, backend: &B, work: &mut B::Work, gated: &mut B::Buffer, y: &mut B::Buffer) -> Result<()> {
        let WholeMlpCall { gate_up, down, activation, m, norm, gate_up_inputs, down_inputs } = self;
        let input = Input::RmsNorm(norm);
        let call = LinearCall { weight: gate_up, input, m, rows: None, inputs: gate_up_inputs };
        backend.linear(work, call, None, gated)?;
        let input = Input::SwiGlu { gate_up: gated, activation };
        let call = LinearCall { weight: down, input, m, rows: None, inputs: down_inputs };
        backend.linear(work, call, Some(norm.x), y)
    }
}

/// One MLP by neuron.
#[derive(Debug)]
pub struct MlpCall<'a, B: Backend> {
    /// The weights.
    pub neurons: &'a B::Neurons,
    /// The layer.
    pub layer: usize,
    /// M.
    pub m: usize,
    /// x, which is added too.
    pub norm: Norm<'a, B>,
    /// The neurons that are computed.
    pub selection: &'a Selection<'a>,
    /// What will be looked at.
    pub wanted: Wanted,
}

// derived, they would ask for `B: Clone`
impl<B: Backend> Clone for Norm<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Norm<'_, B> {}
