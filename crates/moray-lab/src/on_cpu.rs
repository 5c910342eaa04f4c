//! The processor as a device for the forward pass, but for its matrices, which are another's.

use std::convert::Infallible;
use std::fmt::Debug;
use std::ops::Range;

use moray::attention::{Call, KvPolicy, KvRow, Span};
use moray::llama::{Backend, Config, CpuWork, Input, LinearCall, MlpCall, Norm, Sampler, Settings};
use moray::policy::{Observed, Wanted};
use moray::sparse_mlp::{Selection, Shape};
use moray::{Cpu, Result};

/// What stands for the matrices of a model.
pub trait Matrices {
    /// One of them.
    type Matrix: Debug;

    /// The processor.
    fn cpu(&self) -> &Cpu;

    /// N and K.
    fn shape(matrix: &Self::Matrix) -> [usize; 2];

    /// As [`Backend::embed`].
    ///
    /// # Errors
    /// As [`Backend::embed`].
    fn embed(&self, work: &mut CpuWork, table: &Self::Matrix, x: &mut Vec<f32>) -> Result<()>;

    /// As [`Backend::linear`].
    ///
    /// # Errors
    /// As [`Backend::linear`].
    fn multiply(
        &self,
        work: &mut CpuWork,
        call: Product<'_, Self::Matrix>,
        residual: Option<&Vec<f32>>,
        y: &mut Vec<f32>,
    ) -> Result<()>;

    /// Whether the pass is at its end: nothing is computed any more.
    fn has_ended(&self) -> bool {
        false
    }
}

/// A [`LinearCall`] with an input on the processor.
#[derive(Debug)]
pub struct Product<'a, M> {
    /// \[N, K\].
    pub weight: &'a M,
    /// \[M, K\].
    pub input: Input<'a, Cpu>,
    /// M.
    pub m: usize,
    /// The output features that are needed; all if none are given.
    pub rows: Option<&'a [Range<usize>]>,
    /// Inputs that are kept.
    pub inputs: Selection<'a>,
}

/// The device.
#[derive(Debug)]
pub struct OnCpu<M>(pub M);

fn norm_on_cpu<'a, M: Matrices>(norm: Norm<'a, OnCpu<M>>) -> Norm<'a, Cpu> {
    Norm { x: norm.x, weight: norm.weight, eps: norm.eps }
}

impl<M: Matrices> Backend for OnCpu<M> {
    type Linear = M::Matrix;
    type Norm = Vec<f32>;
    type Neurons = Infallible;
    type Buffer = Vec<f32>;
    type Work = CpuWork;
    type Samplers = Vec<Sampler>;

    const ON_HOST: bool = true;

    fn matrix_shape(matrix: &M::Matrix) -> [usize; 2] {
        M::shape(matrix)
    }

    fn norm_len(norm: &Vec<f32>) -> usize {
        norm.len()
    }

    fn neurons_shape(neurons: &Infallible) -> Shape {
        match *neurons {}
    }

    fn zeros(&self, elems: usize) -> Result<Vec<f32>> {
        self.0.cpu().zeros(elems)
    }

    fn work(&self, config: &Config, _: Option<&Infallible>, settings: &Settings) -> Result<CpuWork> {
        self.0.cpu().work(config, None, settings)
    }

    fn kv_bytes(work: &CpuWork) -> usize {
        Cpu::kv_bytes(work)
    }

    fn begin(&self, work: &mut CpuWork, tokens: &[u32], spans: &[Span], rows: &[usize]) -> Result<()> {
        self.0.cpu().begin(work, tokens, spans, rows)
    }

    fn embed(&self, work: &mut CpuWork, table: &M::Matrix, x: &mut Vec<f32>) -> Result<()> {
        self.0.embed(work, table, x)
    }

    fn linear(
        &self,
        work: &mut CpuWork,
        call: LinearCall<'_, Self>,
        residual: Option<&Vec<f32>>,
        y: &mut Vec<f32>,
    ) -> Result<()> {
        if self.0.has_ended() {
            return Ok(());
        }
        let LinearCall { weight, input, m, rows, inputs } = call;
        let input = match input {
            Input::Plain(x) => Input::Plain(x),
            Input::RmsNorm(norm) => Input::RmsNorm(norm_on_cpu(norm)),
            Input::SwiGlu { gate_up, activation } => Input::SwiGlu { gate_up, activation },
        };
        self.0.multiply(work, Product { weight, input, m, rows, inputs }, residual, y)
    }

    fn rms_norm(&self, norm: Norm<'_, Self>, m: usize, y: &mut Vec<f32>) -> Result<()> {
        self.0.cpu().rms_norm(norm_on_cpu(norm), m, y)
    }

    fn rms_norm_rows(&self, work: &mut CpuWork, norm: Norm<'_, Self>, y: &mut Vec<f32>) -> Result<()> {
        self.0.cpu().rms_norm_rows(work, norm_on_cpu(norm), y)
    }

    fn write_kv(
        &self,
        work: &mut CpuWork,
        call: &Call<'_>,
        policy: KvPolicy,
        qkv: &Vec<f32>,
        q: &mut Vec<f32>,
    ) -> Result<()> {
        if self.0.has_ended() { Ok(()) } else { self.0.cpu().write_kv(work, call, policy, qkv, q) }
    }

    fn attend(&self, work: &mut CpuWork, call: &Call<'_>, q: &Vec<f32>, out: &mut Vec<f32>) -> Result<()> {
        if self.0.has_ended() { Ok(()) } else { self.0.cpu().attend(work, call, q, out) }
    }

    fn keep_inputs(&self, work: &mut CpuWork, x: &Vec<f32>, from: &[u32], to: &[u32]) -> Result<()> {
        self.0.cpu().keep_inputs(work, x, from, to)
    }

    fn kept_inputs(&self, work: &mut CpuWork, from: &[u32], x: &mut Vec<f32>) -> Result<()> {
        self.0.cpu().kept_inputs(work, from, x)
    }

    fn write_rows(&self, work: &mut CpuWork, layer: usize, rows: &[KvRow], qkv: &Vec<f32>) -> Result<()> {
        self.0.cpu().write_rows(work, layer, rows, qkv)
    }

    fn mlp(&self, _: &mut CpuWork, call: MlpCall<'_, Self>, _: &mut Vec<f32>) -> Result<()> {
        match *call.neurons {}
    }

    fn seen(work: &CpuWork, wanted: Wanted) -> Observed<'_> {
        Cpu::seen(work, wanted)
    }

    fn samplers(&self, samplers: &[Sampler], vocab: usize) -> Result<Vec<Sampler>> {
        self.0.cpu().samplers(samplers, vocab)
    }

    fn sample(&self, work: &mut CpuWork, samplers: &mut Vec<Sampler>, logits: &Vec<f32>) -> Result<()> {
        self.0.cpu().sample(work, samplers, logits)
    }

    fn sampled<'a>(&self, work: &'a CpuWork, host: &'a mut Vec<u32>) -> Result<&'a [u32]> {
        self.0.cpu().sampled(work, host)
    }

    fn read<'a>(&self, buffer: &'a Vec<f32>, elems: usize, host: &'a mut Vec<f32>) -> Result<&'a [f32]> {
        self.0.cpu().read(buffer, elems, host)
    }

    fn truncate(&self, work: &mut CpuWork, slot: usize, len: usize) -> Result<()> {
        self.0.cpu().truncate(work, slot, len)
    }
}
