//! The CPU as a device for the forward pass.

use super::backend::{Backend, Input, LinearCall, MlpCall, Norm};
use super::config::Config;
use super::gathers::Gathers;
use super::kept_inputs::KeptInputs;
use super::linear::Linear;
use super::preview::PreviewRoom;
use super::sampler::Sampler;
use super::settings::Settings;
use crate::attention::{
    self, AttentionShape, Call, InputRows, KvCache, KvPolicy, KvRow, Rope, Span, Workspace, attend, write_row,
};
use crate::cpu::Cpu;
use crate::error::{Error, Result, check_len};
use crate::input_sparse;
use crate::norm::rms_norm;
use crate::policy::{Observed, Projection, Values, Wanted};
use crate::sparse_mlp::{self, Activation, Selection, activate_product};
use crate::threads::Pieces;

/// Neurons that are worth a barrier.
const PARALLEL_ELEMENTS: usize = 16_384;

/// What a session keeps on the CPU besides buffers.
#[derive(Debug)]
pub struct CpuWork {
    shape: AttentionShape,
    vocab: usize,
    tokens: Vec<u32>,
    /// Rows of the current call's logits.
    rows: Vec<usize>,
    cache: KvCache,
    inputs: Option<InputRows>,
    rope: Rope,
    attention: Workspace,
    sparse: Option<sparse_mlp::Workspace>,
    /// None where lists are read in place.
    gathers: Option<Gathers>,
    /// Of the current call's first token.
    slot: usize,
    linear: input_sparse::Workspace,
    preview: PreviewRoom,
    kept: KeptInputs,
    d: usize,
    d_ff: usize,
    /// \[M, d\]: what was normed last.
    normed: Vec<f32>,
    /// \[M, d_ff\]: the inputs of a whole MLP's down.
    gated: Vec<f32>,
    /// \[M, kv\].
    k: Vec<f32>,
    v: Vec<f32>,
}

impl CpuWork {
    fn new(cpu: &Cpu, config: &Config, neurons: Option<&sparse_mlp::Weights>, settings: &Settings) -> Result<Self> {
        let Settings { slots, context, max_tokens, max_logits, .. } = *settings;
        let (shape, d) = (config.attention, config.d_model);
        let inputs = match settings.kv.lag() {
            0 => None,
            lag => Some(InputRows::new(config.n_layers * slots * lag, d, settings.kv_dtype)?),
        };
        let d_ff = if neurons.is_none() { config.d_ff } else { 0 };
        Ok(CpuWork {
            shape,
            vocab: config.vocab,
            tokens: Vec::with_capacity(max_tokens),
            rows: Vec::with_capacity(max_logits),
            cache: KvCache::new(settings.kv_shape(config), settings.kv_dtype)?,
            inputs,
            rope: Rope::new(shape.head_dim, config.rope_theta, &config.rope_scaling, context)?,
            attention: Workspace::new(cpu, shape, settings.attention_limits())?,
            sparse: neurons.map(|neurons| sparse_mlp::Workspace::new(neurons, max_tokens)).transpose()?,
            gathers: settings.gather_lists.then(|| Gathers::new(slots, config.n_layers)),
            slot: 0,
            linear: input_sparse::Workspace::with_capacity(max_tokens, d.max(d_ff).max(shape.q_elems())),
            preview: PreviewRoom::default(),
            kept: KeptInputs::default(),
            d,
            d_ff,
            normed: vec![0.0; max_tokens * d],
            gated: vec![0.0; max_tokens * d_ff],
            k: vec![0.0; max_tokens * shape.kv_elems()],
            v: vec![0.0; max_tokens * shape.kv_elems()],
        })
    }
}

impl Backend for Cpu {
    type Linear = Linear;
    type Norm = Vec<f32>;
    type Neurons = sparse_mlp::Weights;
    type Buffer = Vec<f32>;
    type Work = CpuWork;
    type Samplers = Vec<Sampler>;

    const ON_HOST: bool = true;

    fn matrix_shape(linear: &Linear) -> [usize; 2] {
        [linear.n(), linear.k()]
    }

    fn norm_len(norm: &Vec<f32>) -> usize {
        norm.len()
    }

    fn neurons_shape(neurons: &sparse_mlp::Weights) -> sparse_mlp::Shape {
        neurons.shape()
    }

    fn zeros(&self, elems: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; elems])
    }

    fn work(&self, config: &Config, neurons: Option<&sparse_mlp::Weights>, settings: &Settings) -> Result<CpuWork> {
        CpuWork::new(self, config, neurons, settings)
    }

    fn expect_list(
        &self,
        work: &mut CpuWork,
        layer: usize,
        neurons: &sparse_mlp::Weights,
        longest: usize,
    ) -> Result<()> {
        work.gathers.as_mut().map_or(Ok(()), |gathers| gathers.expect(layer, neurons, longest))
    }

    fn kv_bytes(work: &CpuWork) -> usize {
        work.cache.memory_bytes()
    }

    fn begin(&self, work: &mut CpuWork, tokens: &[u32], spans: &[Span], rows: &[usize]) -> Result<()> {
        work.slot = spans.first().map_or(0, |span| span.slot);
        work.tokens.clear();
        work.tokens.extend_from_slice(tokens);
        work.rows.clear();
        work.rows.extend_from_slice(rows);
        Ok(())
    }

    fn embed(&self, work: &mut CpuWork, table: &Linear, x: &mut Vec<f32>) -> Result<()> {
        let rows = work.tokens.iter().zip(x.chunks_exact_mut(table.k()));
        rows.into_iter().try_for_each(|(&token, x)| table.row(token as usize, x))
    }

    fn linear(
        &self,
        work: &mut CpuWork,
        call: LinearCall<'_, Cpu>,
        residual: Option<&Vec<f32>>,
        y: &mut Vec<f32>,
    ) -> Result<()> {
        let LinearCall { weight, input, m, rows, inputs } = call;
        let outputs = m * weight.n();
        let room = if matches!(input, Input::SwiGlu { .. }) { &mut work.gated } else { &mut work.normed };
        let x = input.plain(self, m, weight.k(), room)?;
        let (x, threshold) = match inputs.input_threshold() {
            Some(threshold) => (x, threshold),
            None => {
                weight.check_by_input()?;
                (work.kept.keep(&inputs, x, weight.k())?, 0.0)
            }
        };
        let residual = residual.map(|residual| &residual[..outputs]);
        if let (Some(preview), None, None) = (weight.preview(), rows, residual) {
            return preview.multiply(self, weight, x, &mut y[..outputs], (&mut work.preview, &mut work.linear));
        }
        let all = [0..weight.n()];
        let rows = rows.unwrap_or(&all);
        weight.forward_rows(self, rows, (x, threshold), residual, &mut y[..outputs], &mut work.linear)
    }

    fn rms_norm(&self, norm: Norm<'_, Cpu>, m: usize, y: &mut Vec<f32>) -> Result<()> {
        let used = m * norm.weight.len();
        rms_norm(self, &norm.x[..used], norm.weight, norm.eps, &mut y[..used])
    }

    fn rms_norm_rows(&self, work: &mut CpuWork, norm: Norm<'_, Cpu>, y: &mut Vec<f32>) -> Result<()> {
        let d = norm.weight.len();
        let mut rest = &mut y[..];
        for run in work.rows.chunk_by(|before, after| before + 1 == *after) {
            let (y, later) = rest.split_at_mut(run.len() * d);
            rms_norm(self, &norm.x[run[0] * d..][..run.len() * d], norm.weight, norm.eps, y)?;
            rest = later;
        }
        Ok(())
    }

    fn write_kv(
        &self,
        work: &mut CpuWork,
        call: &Call<'_>,
        policy: KvPolicy,
        qkv: &Vec<f32>,
        q: &mut Vec<f32>,
    ) -> Result<()> {
        let (shape, m) = (call.shape, call.rows());
        let (q_elems, kv_elems) = (shape.q_elems(), shape.kv_elems());
        let CpuWork { cache, rope, k, v, .. } = work;
        let outs = q.chunks_exact_mut(q_elems).zip(k.chunks_exact_mut(kv_elems)).zip(v.chunks_exact_mut(kv_elems));
        for (row, ((q, k), v)) in qkv.chunks_exact(q_elems + 2 * kv_elems).take(m).zip(outs) {
            q.copy_from_slice(&row[..q_elems]);
            k.copy_from_slice(&row[q_elems..q_elems + kv_elems]);
            v.copy_from_slice(&row[q_elems + kv_elems..]);
        }
        rope.apply(self, call.spans, shape.n_q_heads, &mut q[..m * q_elems])?;
        attention::write_kv(self, call, policy, Some(rope), &k[..m * kv_elems], &v[..m * kv_elems], cache)
    }

    fn attend(&self, work: &mut CpuWork, call: &Call<'_>, q: &Vec<f32>, out: &mut Vec<f32>) -> Result<()> {
        let used = call.rows() * call.shape.q_elems();
        attend(self, call, &q[..used], &work.cache, &mut out[..used], &mut work.attention)
    }

    fn keep_inputs(&self, work: &mut CpuWork, x: &Vec<f32>, from: &[u32], to: &[u32]) -> Result<()> {
        work.inputs.as_mut().map_or(Ok(()), |inputs| inputs.keep(x, from, to))
    }

    fn kept_inputs(&self, work: &mut CpuWork, from: &[u32], x: &mut Vec<f32>) -> Result<()> {
        let Some(inputs) = &work.inputs else { return Ok(()) };
        let rows = from.iter().zip(x.chunks_exact_mut(inputs.hidden()));
        rows.into_iter().try_for_each(|(&place, x)| inputs.read(place as usize, x))
    }

    fn write_rows(&self, work: &mut CpuWork, layer: usize, rows: &[KvRow], qkv: &Vec<f32>) -> Result<()> {
        let CpuWork { cache, rope, shape, .. } = work;
        let (head_dim, kv_elems) = (shape.head_dim, shape.kv_elems());
        let tokens = rows.chunk_by(|a, b| (a.slot, a.position) == (b.slot, b.position));
        for (token, qkv) in tokens.zip(qkv.chunks_exact(shape.q_elems() + 2 * kv_elems)) {
            let (k, v) = qkv[shape.q_elems()..].split_at(kv_elems);
            for &row in token {
                let head = row.kv_head * head_dim..(row.kv_head + 1) * head_dim;
                write_row(self, layer, row, Some(rope), &k[head.clone()], &v[head], cache)?;
            }
        }
        Ok(())
    }

    fn mlp(&self, work: &mut CpuWork, call: MlpCall<'_, Cpu>, y: &mut Vec<f32>) -> Result<()> {
        let MlpCall { neurons, layer, m, norm, selection, .. } = call;
        let used = m * norm.weight.len();
        let (x, normed) = (&norm.x[..used], &mut work.normed[..used]);
        rms_norm(self, x, norm.weight, norm.eps, normed)?;
        let Some(sparse) = &mut work.sparse else {
            let (expected, got) = ("layers of one kind", "one by neuron after whole ones".into());
            return Err(Error::Unsupported { what: "mlp", expected, got });
        };
        let (neurons, selection) = match (&mut work.gathers, selection) {
            (Some(gathers), Selection::List(list)) => {
                (gathers.neurons(self, (work.slot, layer), neurons, *list)?, &Selection::All)
            }
            _ => (neurons, selection),
        };
        sparse_mlp::forward(self, neurons, normed, selection, Some(x), &mut y[..used], sparse)
    }

    fn seen(work: &CpuWork, wanted: Wanted) -> Observed<'_> {
        let (Wanted::AtHand(values) | Wanted::Copied(values)) = wanted else { return Observed::LENGTHS };
        match (values, &work.sparse) {
            (Values::Inputs(Projection::Qkv | Projection::GateUp), _) => Observed::new(&work.normed, work.d, work.d),
            (Values::Inputs(Projection::Down), None) => Observed::new(&work.gated, work.d_ff, work.d_ff),
            (Values::Gate, Some(sparse)) => {
                let width = if sparse.gate_by_neuron { sparse.neurons } else { sparse.kept.len() };
                Observed::new(&sparse.gate, sparse.stride, width)
            }
            (Values::Hidden, Some(sparse)) => Observed::new(&sparse.hidden, sparse.stride, sparse.kept.len()),
            _ => Observed::LENGTHS,
        }
    }

    fn samplers(&self, samplers: &[Sampler], _: usize) -> Result<Vec<Sampler>> {
        Ok(samplers.to_vec())
    }

    fn sample(&self, work: &mut CpuWork, samplers: &mut Vec<Sampler>, logits: &Vec<f32>) -> Result<()> {
        check_len("samplers", work.rows.len(), samplers.len())?;
        work.tokens.clear();
        let mut drawn = Ok(());
        for (sampler, logits) in samplers.iter_mut().zip(logits.chunks_exact(work.vocab)) {
            match sampler.sample(logits) {
                Ok(token) => work.tokens.push(token),
                Err(error) => drawn = drawn.and(Err(error)),
            }
        }
        drawn
    }

    fn sampled<'a>(&self, work: &'a CpuWork, _: &'a mut Vec<u32>) -> Result<&'a [u32]> {
        Ok(&work.tokens)
    }

    fn read<'a>(&self, buffer: &'a Vec<f32>, elems: usize, _: &'a mut Vec<f32>) -> Result<&'a [f32]> {
        Ok(&buffer[..elems])
    }

    fn truncate(&self, work: &mut CpuWork, slot: usize, len: usize) -> Result<()> {
        work.cache.truncate(slot, len)
    }
}

impl<'a, B: Backend<Norm = Vec<f32>, Buffer = Vec<f32>>> Input<'a, B> {
    /// The M · K numbers that a matrix is multiplied with, for buffers in the host's memory: made in `room` unless they are there.
    ///
    /// # Errors
    /// [`Error::Length`] for weights that are not K.
    pub fn plain(self, cpu: &Cpu, m: usize, k: usize, room: &'a mut [f32]) -> Result<&'a [f32]> {
        let used = m * k;
        match self {
            Input::Plain(x) => return Ok(&x[..used]),
            Input::RmsNorm(Norm { x, weight, eps }) => rms_norm(cpu, &x[..used], weight, eps, &mut room[..used])?,
            Input::SwiGlu { gate_up, activation } => {
                gated(cpu, activation, &gate_up[..2 * used], k, &mut room[..used])?;
            }
        }
        Ok(&room[..used])
    }
}

/// hidden\[m\] = act(gate\[m\]) ⊙ up\[m\] for rows of gate and up side by side.
fn gated(cpu: &Cpu, activation: Activation, gate_up: &[f32], d_ff: usize, hidden: &mut [f32]) -> Result<()> {
    let failed = std::sync::Mutex::new(Ok(()));
    cpu.team().for_parts(Pieces::new(hidden, d_ff), (PARALLEL_ELEMENTS / d_ff).max(1), |token, hidden| {
        let (gate, up) = gate_up[token * 2 * d_ff..(token + 1) * 2 * d_ff].split_at(d_ff);
        hidden.copy_from_slice(up);
        if let Err(error) = activate_product(cpu, activation, gate, hidden) {
            *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Err(error);
        }
    });
    failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
