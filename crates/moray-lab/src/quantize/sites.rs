//! The processor as a device for the forward pass whose matrices a caller multiplies.

use std::cell::RefCell;
use std::convert::Infallible;

use moray::attention::{Call, KvPolicy, KvRow, Span};
use moray::llama::{Backend, Config, CpuWork, Input, LinearCall, MlpCall, Norm, Sampler, Settings};
use moray::policy::{Observed, Wanted};
use moray::sparse_mlp::Shape;
use moray::{Cpu, Error, Result};
use rayon::prelude::*;

use super::layer::Site;
use crate::error;

/// A site's outputs \[T, N\] from its inputs \[T, K\]; none to end the pass there.
pub type AtSite<'a> = &'a mut dyn FnMut(Site, Vec<f32>) -> error::Result<Option<Vec<f32>>>;

/// What stands for a site's matrix.
#[derive(Debug)]
pub struct Place {
    /// The site.
    pub site: Site,
    /// N and K.
    pub shape: [usize; 2],
}

/// A device like the processor, but for matrices: what their inputs become, [`AtSite`] says.
pub struct Sites<'a> {
    cpu: &'a Cpu,
    at: RefCell<AtSite<'a>>,
    /// How the pass ended before its end: nothing is computed after that.
    ended: RefCell<Option<error::Result<()>>>,
}

impl<'a> Sites<'a> {
    /// Makes the device for one pass.
    pub fn new(cpu: &'a Cpu, at: AtSite<'a>) -> Self {
        Sites { cpu, at: RefCell::new(at), ended: RefCell::new(None) }
    }

    /// Whether the pass went to its end.
    ///
    /// # Errors
    /// The caller's, from a site.
    pub fn finish(self) -> error::Result<bool> {
        self.ended.into_inner().map_or(Ok(true), |ended| ended.map(|()| false))
    }

    fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }
}

fn on_cpu<'a>(norm: Norm<'a, Sites<'_>>) -> Norm<'a, Cpu> {
    Norm { x: norm.x, weight: norm.weight, eps: norm.eps }
}

impl Backend for Sites<'_> {
    type Linear = Place;
    type Norm = Vec<f32>;
    type Neurons = Infallible;
    type Buffer = Vec<f32>;
    type Work = CpuWork;
    type Samplers = Vec<Sampler>;

    const ON_HOST: bool = true;

    fn matrix_shape(place: &Place) -> [usize; 2] {
        place.shape
    }

    fn norm_len(norm: &Vec<f32>) -> usize {
        norm.len()
    }

    fn neurons_shape(neurons: &Infallible) -> Shape {
        match *neurons {}
    }

    fn zeros(&self, elems: usize) -> Result<Vec<f32>> {
        self.cpu.zeros(elems)
    }

    fn work(&self, config: &Config, _: Option<&Infallible>, settings: &Settings) -> Result<CpuWork> {
        self.cpu.work(config, None, settings)
    }

    fn kv_bytes(work: &CpuWork) -> usize {
        Cpu::kv_bytes(work)
    }

    fn begin(&self, work: &mut CpuWork, tokens: &[u32], spans: &[Span], rows: &[usize]) -> Result<()> {
        self.cpu.begin(work, tokens, spans, rows)
    }

    fn embed(&self, _: &mut CpuWork, _: &Place, _: &mut Vec<f32>) -> Result<()> {
        let (expected, got) = ("the matrices of a layer", "an embedding".into());
        Err(Error::Unsupported { what: "sites", expected, got })
    }

    fn linear(
        &self,
        _: &mut CpuWork,
        call: LinearCall<'_, Self>,
        residual: Option<&Vec<f32>>,
        y: &mut Vec<f32>,
    ) -> Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        let Place { site, shape: [_, k] } = *call.weight;
        let mut room = vec![0.0; call.m * k];
        let x = match call.input {
            Input::Plain(x) => x[..call.m * k].to_vec(),
            made => {
                made.plain(self.cpu, call.m, k, &mut room)?;
                room
            }
        };
        match (*self.at.borrow_mut())(site, x) {
            Ok(Some(outputs)) => {
                *y = outputs;
                if let Some(residual) = residual {
                    y.par_iter_mut().zip(residual).for_each(|(y, x)| *y += x);
                }
            }
            Ok(None) => *self.ended.borrow_mut() = Some(Ok(())),
            Err(error) => *self.ended.borrow_mut() = Some(Err(error)),
        }
        Ok(())
    }

    fn rms_norm(&self, norm: Norm<'_, Self>, m: usize, y: &mut Vec<f32>) -> Result<()> {
        self.cpu.rms_norm(on_cpu(norm), m, y)
    }

    fn rms_norm_rows(&self, work: &mut CpuWork, norm: Norm<'_, Self>, y: &mut Vec<f32>) -> Result<()> {
        self.cpu.rms_norm_rows(work, on_cpu(norm), y)
    }

    fn write_kv(
        &self,
        work: &mut CpuWork,
        call: &Call<'_>,
        policy: KvPolicy,
        qkv: &Vec<f32>,
        q: &mut Vec<f32>,
    ) -> Result<()> {
        if self.has_ended() { Ok(()) } else { self.cpu.write_kv(work, call, policy, qkv, q) }
    }

    fn attend(&self, work: &mut CpuWork, call: &Call<'_>, q: &Vec<f32>, out: &mut Vec<f32>) -> Result<()> {
        if self.has_ended() { Ok(()) } else { self.cpu.attend(work, call, q, out) }
    }

    fn keep_inputs(&self, work: &mut CpuWork, x: &Vec<f32>, from: &[u32], to: &[u32]) -> Result<()> {
        self.cpu.keep_inputs(work, x, from, to)
    }

    fn kept_inputs(&self, work: &mut CpuWork, from: &[u32], x: &mut Vec<f32>) -> Result<()> {
        self.cpu.kept_inputs(work, from, x)
    }

    fn write_rows(&self, work: &mut CpuWork, layer: usize, rows: &[KvRow], qkv: &Vec<f32>) -> Result<()> {
        self.cpu.write_rows(work, layer, rows, qkv)
    }

    fn mlp(&self, _: &mut CpuWork, call: MlpCall<'_, Self>, _: &mut Vec<f32>) -> Result<()> {
        match *call.neurons {}
    }

    fn seen(work: &CpuWork, wanted: Wanted) -> Observed<'_> {
        Cpu::seen(work, wanted)
    }

    fn samplers(&self, samplers: &[Sampler], vocab: usize) -> Result<Vec<Sampler>> {
        self.cpu.samplers(samplers, vocab)
    }

    fn sample(&self, work: &mut CpuWork, samplers: &mut Vec<Sampler>, logits: &Vec<f32>) -> Result<()> {
        self.cpu.sample(work, samplers, logits)
    }

    fn sampled<'a>(&self, work: &'a CpuWork, host: &'a mut Vec<u32>) -> Result<&'a [u32]> {
        self.cpu.sampled(work, host)
    }

    fn read<'a>(&self, buffer: &'a Vec<f32>, elems: usize, host: &'a mut Vec<f32>) -> Result<&'a [f32]> {
        self.cpu.read(buffer, elems, host)
    }

    fn truncate(&self, work: &mut CpuWork, slot: usize, len: usize) -> Result<()> {
        self.cpu.truncate(work, slot, len)
    }
}
