//! Random calls.

use moray::Cpu;
use moray::input_sparse::{Weight, Workspace, linear};
use moray::w4a8::Epilogue;

use crate::common::Random;

/// What a product takes besides its weights.
pub struct Call {
    pub x: Vec<f32>,
    pub threshold: f32,
    pub bias: Vec<f32>,
    pub residual: Vec<f32>,
}

impl Call {
    /// Random tokens, some inputs of which are 0.
    pub fn new(random: &mut Random, m: usize, n: usize, k: usize, threshold: f32) -> Self {
        let mut x = random.weights(m * k, 1.0);
        x.iter_mut().filter(|_| random.below(7) == 0).for_each(|x| *x = 0.0);
        Call { x, threshold, bias: random.weights(n, 1.0), residual: random.weights(m * n, 1.0) }
    }

    pub fn epilogue(&self) -> Epilogue<'_, f32> {
        Epilogue { bias: Some(&self.bias), residual: Some(&self.residual) }
    }

    pub fn run(&self, cpu: &Cpu, weight: &Weight, workspace: &mut Workspace) -> Vec<f32> {
        let mut y = vec![f32::NAN; self.residual.len()];
        linear(cpu, weight, &self.x, self.threshold, self.epilogue(), &mut y, workspace).unwrap();
        y
    }

    /// One token of several.
    pub fn token(&self, m: usize, n: usize, k: usize) -> Call {
        Call {
            x: self.x[m * k..(m + 1) * k].to_vec(),
            threshold: self.threshold,
            bias: self.bias.clone(),
            residual: self.residual[m * n..(m + 1) * n].to_vec(),
        }
    }
}

/// Bits, those of NaN and of zero alike whatever their sign.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| if v.is_nan() { f32::NAN } else { v + 0.0 }.to_bits()).collect()
}
