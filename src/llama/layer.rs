//! One layer, once for every device.

use super::backend::{Backend, Input, LinearCall, MlpCall, Norm, WholeMlpCall};
use super::config::Config;
use super::mlp::Mlp;
use super::recompute::Recompute;
use crate::attention::{Call, Heads, KvPolicy, Span};
use crate::error::{Error, Result, check_len};
use crate::policy::{Projection, Wanted};
use crate::sparse_mlp::Selection;
use std::ops::Range;

/// The weights of one layer.
#[derive(Debug)]
pub struct Layer<B: Backend> {
    /// Before attention.
    pub attn_norm: B::Norm,
    /// Query, key and value rows, one below the other.
    pub qkv: B::Linear,
    /// The output projection.
    pub o: B::Linear,
    /// Before the MLP.
    pub mlp_norm: B::Norm,
    /// The MLP.
    pub mlp: Mlp<B>,
}

/// What a call's layers write, f32, for up to as many tokens as they were made for.
#[derive(Debug)]
pub struct Buffers<B: Backend> {
    /// \[M, d\]: the residual stream, and where its next value is written.
    pub x: B::Buffer,
    pub(super) next: B::Buffer,
    /// \[M, q + 2·kv\].
    pub(super) qkv: B::Buffer,
    /// \[M, q\].
    q: B::Buffer,
    /// \[M, q\]: attention's output.
    pub(super) out: B::Buffer,
    /// \[M, 2·d_ff\], for MLPs that are whole.
    gate_up: Option<B::Buffer>,
    /// Rows of the joint projection that a call needs.
    rows: Vec<Range<usize>>,
}

impl<B: Backend> Buffers<B> {
    /// Allocates for up to `max_tokens` tokens and layers whose MLP is like `mlp`.
    ///
    /// # Errors
    /// As [`Backend::zeros`].
    pub fn new(backend: &B, config: &Config, mlp: &Mlp<B>, max_tokens: usize) -> Result<Self> {
        let shape = config.attention;
        let rows = |width: usize| backend.zeros(max_tokens * width);
        Ok(Buffers {
            x: rows(config.d_model)?,
            next: rows(config.d_model)?,
            qkv: rows(config.qkv_features())?,
            q: rows(shape.q_elems())?,
            out: rows(shape.q_elems())?,
            gate_up: matches!(mlp, Mlp::Whole { .. }).then(|| rows(2 * config.d_ff)).transpose()?,
            rows: Vec::with_capacity(shape.n_q_heads + 2 * shape.n_kv_heads),
        })
    }
}

/// Inputs that are kept, by matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MatrixInputs<'a> {
    /// Of query, key and value.
    pub qkv: Selection<'a>,
    /// Of the output projection.
    pub output: Selection<'a>,
    /// Of down.
    pub down: Selection<'a>,
}

impl Default for MatrixInputs<'_> {
    /// All of them.
    fn default() -> Self {
        MatrixInputs { qkv: Selection::All, output: Selection::All, down: Selection::All }
    }
}

/// A call's way through the layers.
#[derive(Debug)]
pub struct Pass<'a, B: Backend> {
    /// The device.
    pub backend: &'a B,
    /// The model's sizes and constants.
    pub config: &'a Config,
    /// The tokens, M in all.
    pub spans: &'a [Span],
    /// What is stored for heads that do not run.
    pub kv: KvPolicy,
    /// Which inputs are kept, where the selection of the MLP does not say it.
    pub inputs: MatrixInputs<'a>,
    /// What the layers pass on.
    pub buffers: &'a mut Buffers<B>,
    /// What the device keeps besides.
    pub work: &'a mut B::Work,
}

impl<B: Backend> Pass<'_, B> {
    fn tokens(&self) -> usize {
        self.spans.iter().map(|span| span.len).sum()
    }
}

impl<B: Backend> Layer<B> {
    /// A matrix by its place; none for those of an MLP that lies by neuron.
    pub fn matrix(&self, projection: Projection) -> Option<&B::Linear> {
        match (projection, &self.mlp) {
            (Projection::Qkv, _) => Some(&self.qkv),
            (Projection::Output, _) => Some(&self.o),
            (Projection::GateUp, Mlp::Whole { gate_up, .. }) => Some(gate_up),
            (Projection::Down, Mlp::Whole { down, .. }) => Some(down),
            (Projection::GateUp | Projection::Down, _) => None,
        }
    }

    /// Checks the sizes against the model's.
    ///
    /// # Errors
    /// [`crate::Error::Length`] naming the first that differs.
    pub(super) fn check(&self, config: &Config) -> Result<()> {
        let (d, q) = (config.d_model, config.attention.q_elems());
        let (qkv, o) = (B::matrix_shape(&self.qkv), B::matrix_shape(&self.o));
        let sizes = [
            ("attention norm", d, B::norm_len(&self.attn_norm)),
            ("qkv rows", config.qkv_features(), qkv[0]),
            ("qkv columns", d, qkv[1]),
            ("o rows", d, o[0]),
            ("o columns", q, o[1]),
            ("mlp norm", d, B::norm_len(&self.mlp_norm)),
        ];
        sizes.into_iter().try_for_each(|(what, expected, got)| check_len(what, expected, got))?;
        self.mlp.check(d, config.d_ff)
    }

    /// x ← x + o(attend(rope(qkv(norm(x))))) for the heads that run, as layer `index`; before it, what the cache lacks of them is
    /// computed where `recompute` has the inputs.
    ///
    /// # Errors
    /// An [`crate::Error`] for spans that the cache does not hold, or activations that are not finite.
    pub fn attention(
        &self,
        pass: &mut Pass<'_, B>,
        index: usize,
        heads: Heads<'_>,
        recompute: Option<&mut Recompute<B>>,
    ) -> Result<()> {
        let (shape, m) = (pass.config.attention, pass.tokens());
        let call = Call { shape, layer: index, spans: pass.spans, heads };
        let Pass { backend, config, kv, buffers, work, inputs, .. } = pass;
        let Buffers { x, next, qkv, q, out, rows, .. } = &mut **buffers;
        let norm = Norm { x: &*x, weight: &self.attn_norm, eps: config.rms_eps };
        let input = match recompute {
            None => Input::RmsNorm(norm),
            Some(recompute) => {
                // before the new inputs take the oldest ones' places
                recompute.fill(*backend, work, (&self.qkv, inputs.qkv), &call, qkv)?;
                Input::Plain(recompute.keep(*backend, work, &call, norm)?)
            }
        };
        let rows = needed_rows(&call, *kv, rows);
        let projection = LinearCall { weight: &self.qkv, input, m, rows, inputs: inputs.qkv };
        backend.linear(work, projection, None, qkv)?;
        backend.write_attend(work, &call, *kv, qkv, q, out)?;
        let input = Input::Plain(out);
        let o = LinearCall { weight: &self.o, input, m, rows: None, inputs: inputs.output };
        backend.linear(work, o, Some(x), next)?;
        std::mem::swap(x, next);
        Ok(())
    }

    /// x ← x + down(act(gate(n)) ⊙ up(n)), n = norm(x), over the selected neurons or inputs, as layer `index`. What is `wanted` of them can
    /// be seen afterwards.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a selection that the form of the weights does not serve, [`Error::Value`] for activations that are not finite.
    pub fn mlp(&self, pass: &mut Pass<'_, B>, index: usize, selection: &Selection<'_>, wanted: Wanted) -> Result<()> {
        let m = pass.tokens();
        let Pass { backend, config, buffers, work, inputs, .. } = pass;
        let Buffers { x, next, gate_up: rows, .. } = &mut **buffers;
        let norm = Norm { x: &*x, weight: &self.mlp_norm, eps: config.rms_eps };
        match (&self.mlp, rows, selection.is_of_inputs()) {
            (Mlp::Whole { gate_up, down }, Some(gated), true) => {
                let (activation, gate_up_inputs, down_inputs) = (config.activation, *selection, inputs.down);
                let call = WholeMlpCall { gate_up, down, activation, m, norm, gate_up_inputs, down_inputs };
                backend.whole_mlp(work, call, gated, next)?;
            }
            (Mlp::ByNeuron(neurons), ..) if inputs.down.input_threshold() == Some(0.0) => {
                backend.mlp(work, MlpCall { neurons, layer: index, m, norm, selection, wanted }, next)?;
            }
            (Mlp::ByNeuron(_), ..) => {
                let (expected, got) = ("weights by input for a threshold on the inputs of down", "by neuron".into());
                return Err(Error::Unsupported { what: "mlp", expected, got });
            }
            _ => {
                let (expected, got) = ("weights by neuron for a selection of neurons", "a whole MLP".into());
                return Err(Error::Unsupported { what: "mlp", expected, got });
            }
        }
        std::mem::swap(x, next);
        Ok(())
    }
}

/// The rows of the joint projection that the call's heads and the KV policy need; None for all.
fn needed_rows<'a>(call: &Call<'_>, kv: KvPolicy, rows: &'a mut Vec<Range<usize>>) -> Option<&'a [Range<usize>]> {
    if call.heads == Heads::All {
        return None;
    }
    let shape = call.shape;
    let head = |first: usize, h: usize| first + h * shape.head_dim..first + (h + 1) * shape.head_dim;
    let runs = |h: usize| (0..call.spans.len()).any(|span| call.heads.contains(&shape, span, h));
    rows.clear();
    rows.extend((0..shape.n_q_heads).filter(|&h| runs(h)).map(|h| head(0, h)));
    for first in [shape.q_elems(), shape.q_elems() + shape.kv_elems()] {
        rows.extend((0..shape.n_kv_heads).filter(|&h| kv.projects_any(call, h)).map(|h| head(first, h)));
    }
    Some(rows)
}
