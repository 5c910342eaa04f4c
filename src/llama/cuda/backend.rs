//! The forward pass's primitives on the device.

use super::kernels::{self, NO_TOKEN};
use super::linear::Linear;
use super::sampling::Samplers;
use super::work::Work;
use crate::attention::cuda::{self as device_attention, NewTokens, Projections};
use crate::attention::cuda::{attend, write_attend, write_kv, write_rows};
use crate::attention::{Call, KvPolicy, KvRow, Span};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::llama::{Backend, Config, Input, LinearCall, MlpCall, Norm, Sampler, Settings, WholeMlpCall};
use crate::policy::{Observed, Wanted};
use crate::sparse_mlp::Shape;
use crate::sparse_mlp::cuda::Weights;
use cudarc::driver::CudaSlice;

impl Backend for Device {
    type Linear = Linear;
    type Norm = CudaSlice<f32>;
    type Neurons = Weights;
    type Buffer = CudaSlice<f32>;
    type Work = Work;
    type Samplers = Samplers;

    const ON_HOST: bool = false;

    fn matrix_shape(linear: &Linear) -> [usize; 2] {
        [linear.n(), linear.k()]
    }

    fn norm_len(norm: &CudaSlice<f32>) -> usize {
        norm.len()
    }

    fn neurons_shape(neurons: &Weights) -> Shape {
        neurons.shape()
    }

    fn zeros(&self, elems: usize) -> Result<CudaSlice<f32>> {
        Device::zeros(self, elems)
    }

    fn work(&self, config: &Config, neurons: Option<&Weights>, settings: &Settings) -> Result<Work> {
        Work::new(self, config, neurons, settings)
    }

    fn kv_bytes(work: &Work) -> usize {
        work.cache.memory_bytes()
    }

    fn begin(&self, work: &mut Work, tokens: &[u32], spans: &[Span], rows: &[usize]) -> Result<()> {
        if tokens.len() > work.tokens.len() || rows.len() > work.rows.len() {
            let expected = "no more than the session's max_tokens and max_logits";
            return Err(Error::Shape { what: "tokens", expected, got: tokens.len() });
        }
        let words: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        for (host, room) in [(tokens, &mut work.tokens), (&words[..], &mut work.rows)] {
            if !host.is_empty() {
                let mut room = room.slice_mut(..host.len());
                self.upload_into(host, &mut room)?;
            }
        }
        (work.m, work.n_rows) = (tokens.len(), rows.len());
        work.spans.set(self, spans)
    }

    fn embed(&self, work: &mut Work, table: &Linear, x: &mut CudaSlice<f32>) -> Result<()> {
        table.embed(self, &work.tokens.slice(..work.m), &mut x.slice_mut(..work.m * table.k()))
    }

    fn linear(
        &self,
        work: &mut Work,
        call: LinearCall<'_, Device>,
        residual: Option<&CudaSlice<f32>>,
        y: &mut CudaSlice<f32>,
    ) -> Result<()> {
        let LinearCall { weight, input, m, inputs, .. } = call;
        let threshold = inputs.input_threshold().ok_or_else(|| {
            let (expected, got) = ("one threshold on the sizes of inputs", "another".into());
            Error::Unsupported { what: "selection of inputs on a CUDA device", expected, got }
        })?;
        let outputs = m * weight.n();
        let residual = residual.map(|residual| residual.slice(..outputs));
        let mut y = y.slice_mut(..outputs);
        weight.forward(self, (input, m, threshold), residual.as_ref(), &mut y, &mut work.scratch)
    }

    fn whole_mlp(
        &self,
        work: &mut Work,
        call: WholeMlpCall<'_, Device>,
        gated: &mut CudaSlice<f32>,
        y: &mut CudaSlice<f32>,
    ) -> Result<()> {
        let WholeMlpCall { gate_up, down, activation, m, norm, gate_up_inputs, down_inputs: inputs } = call;
        let all = gate_up_inputs.input_threshold() == Some(0.0);
        if all && inputs.input_threshold() == Some(0.0) {
            let workspace = &mut work.scratch.workspace;
            if gate_up.forward_mlp(self, (norm, m), activation, gated, (down, &mut *y), workspace)? {
                return Ok(());
            }
        }
        if !(all && gate_up.forward_gated(self, (norm, m), activation, gated)?) {
            return call.by_matrix(self, work, gated, y);
        }
        let call = LinearCall { weight: down, input: Input::Plain(gated), m, rows: None, inputs };
        self.linear(work, call, Some(norm.x), y)
    }

    fn rms_norm(&self, norm: Norm<'_, Device>, m: usize, y: &mut CudaSlice<f32>) -> Result<()> {
        let used = m * norm.weight.len();
        kernels::rms_norm(self, &norm.x.slice(..used), None, norm.weight, norm.eps, &mut y.slice_mut(..used))
    }

    fn rms_norm_rows(&self, work: &mut Work, norm: Norm<'_, Device>, y: &mut CudaSlice<f32>) -> Result<()> {
        let d = norm.weight.len();
        let (x, rows) = (norm.x.slice(..work.m * d), work.rows.slice(..work.n_rows));
        kernels::rms_norm(self, &x, Some(&rows), norm.weight, norm.eps, &mut y.slice_mut(..work.n_rows * d))
    }

    fn write_kv(
        &self,
        work: &mut Work,
        call: &Call<'_>,
        policy: KvPolicy,
        qkv: &CudaSlice<f32>,
        q: &mut CudaSlice<f32>,
    ) -> Result<()> {
        let Work { cache, rope, spans, head_masks, .. } = work;
        head_masks.set(self, call.layer, &call.heads)?;
        let heads = head_masks.get(call.layer, &call.heads);
        let projections = Projections::fused(qkv, &call.shape);
        let call = device_attention::Call { shape: call.shape, layer: call.layer, spans, heads };
        write_kv(self, &call, policy, Some(rope), &projections, Some(q), cache)
    }

    fn attend(&self, work: &mut Work, call: &Call<'_>, q: &CudaSlice<f32>, out: &mut CudaSlice<f32>) -> Result<()> {
        let Work { cache, spans, head_masks, attention, .. } = work;
        head_masks.set(self, call.layer, &call.heads)?;
        let heads = head_masks.get(call.layer, &call.heads);
        let call = device_attention::Call { shape: call.shape, layer: call.layer, spans, heads };
        attend(self, &call, q, cache, out, attention)
    }

    fn write_attend(
        &self,
        work: &mut Work,
        call: &Call<'_>,
        policy: KvPolicy,
        qkv: &CudaSlice<f32>,
        q: &mut CudaSlice<f32>,
        out: &mut CudaSlice<f32>,
    ) -> Result<()> {
        let Work { cache, rope, spans, head_masks, attention, .. } = work;
        head_masks.set(self, call.layer, &call.heads)?;
        let heads = head_masks.get(call.layer, &call.heads);
        let projections = &Projections::fused(qkv, &call.shape);
        let call = device_attention::Call { shape: call.shape, layer: call.layer, spans, heads };
        let tokens = NewTokens { policy, rope: Some(rope), projections };
        write_attend(self, &call, tokens, q, cache, out, attention)
    }

    fn keep_inputs(&self, work: &mut Work, x: &CudaSlice<f32>, from: &[u32], to: &[u32]) -> Result<()> {
        work.inputs.as_mut().map_or(Ok(()), |inputs| inputs.keep(self, x, from, to))
    }

    fn kept_inputs(&self, work: &mut Work, from: &[u32], x: &mut CudaSlice<f32>) -> Result<()> {
        work.inputs.as_mut().map_or(Ok(()), |inputs| inputs.read(self, from, x))
    }

    fn write_rows(&self, work: &mut Work, layer: usize, rows: &[KvRow], qkv: &CudaSlice<f32>) -> Result<()> {
        let Work { shape, cache, rope, inputs, .. } = work;
        let Some(inputs) = inputs else { return Ok(()) };
        inputs.set_rows(self, rows)?;
        write_rows(self, shape, layer, &inputs.rows, Some(rope), qkv, cache)
    }

    fn mlp(&self, work: &mut Work, call: MlpCall<'_, Device>, y: &mut CudaSlice<f32>) -> Result<()> {
        match &mut work.neurons {
            Some(neurons) => neurons.forward(self, call, y),
            None => {
                let (expected, got) = ("layers of one kind", "one by neuron after whole ones".into());
                Err(Error::Unsupported { what: "mlp", expected, got })
            }
        }
    }

    fn seen(work: &Work, wanted: Wanted) -> Observed<'_> {
        work.neurons.as_ref().map_or(Observed::LENGTHS, |neurons| neurons.seen(wanted))
    }

    fn samplers(&self, samplers: &[Sampler], vocab: usize) -> Result<Samplers> {
        Samplers::new(self, samplers, vocab)
    }

    fn sample(&self, work: &mut Work, samplers: &mut Samplers, logits: &CudaSlice<f32>) -> Result<()> {
        let rows = work.n_rows;
        samplers.sample(self, &logits.slice(..rows * samplers.vocab), &mut work.tokens.slice_mut(..rows))
    }

    fn sampled<'a>(&self, work: &'a Work, host: &'a mut Vec<u32>) -> Result<&'a [u32]> {
        host.resize(work.n_rows, NO_TOKEN);
        self.download_into(&work.tokens.slice(..work.n_rows), &mut host[..])?;
        match host.contains(&NO_TOKEN) {
            true => Err(Error::Value { what: "logits", expected: "finite logits", got: f32::NAN }),
            false => Ok(host),
        }
    }

    fn read<'a>(&self, buffer: &'a CudaSlice<f32>, elems: usize, host: &'a mut Vec<f32>) -> Result<&'a [f32]> {
        host.resize(elems, 0.0);
        if elems > 0 {
            self.download_into(&buffer.slice(..elems), &mut host[..])?;
        }
        Ok(host)
    }

    /// What the cache holds past `len` is written again before it is read.
    fn truncate(&self, _: &mut Work, _: usize, _: usize) -> Result<()> {
        Ok(())
    }
}
