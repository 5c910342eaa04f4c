//! Bytes of weights that a token reads.

use super::config::Config;
use super::forward::Model;
use super::layer::Layer;
use super::mlp::Mlp;
use crate::cpu::Cpu;
use crate::policy::{Projection, Site, Usage};

impl Model<Cpu> {
    /// Bytes of weights that a token reads on average, decoded alone, where tokens kept of each site what `usage` says; all of them
    /// where it says nothing. Of heads that do not run, only their rows of the query matrix are left out: what else a KV policy
    /// spares is not counted.
    pub fn bytes_read(&self, usage: &Usage) -> usize {
        let layers =
            self.layers().iter().enumerate().map(|(index, layer)| layer.bytes_read(self.config(), index, usage));
        layers.sum::<usize>() + self.lm_head().bytes()
    }
}

impl Layer<Cpu> {
    fn bytes_read(&self, config: &Config, index: usize, usage: &Usage) -> usize {
        let inputs = |projection| usage.kept(Site::Inputs(projection), index);
        let part = |bytes: usize, fraction: f64| (bytes as f64 * fraction).round() as usize;
        let queries = config.attention.q_elems() as f64 / config.qkv_features() as f64;
        let rows = 1.0 - queries * (1.0 - usage.kept(Site::Heads, index));
        let attention = part(self.qkv.bytes_read(inputs(Projection::Qkv)), rows);
        let mlp = match &self.mlp {
            Mlp::Whole { gate_up, down } => {
                gate_up.bytes_read(inputs(Projection::GateUp)) + down.bytes_read(inputs(Projection::Down))
            }
            Mlp::ByNeuron(neurons) => part(neurons.bytes(), usage.rows_read(index)),
        };
        attention + self.o.bytes_read(inputs(Projection::Output)) + mlp
    }
}
