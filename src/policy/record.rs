//! Values of a calibration text's first tokens.

use std::sync::Arc;

use super::table::Context;
use super::{Calibrate, Calibration, PolicyConfig, Values, check_layer};
use crate::error::Result;

/// Holds what each layer computes of the first tokens of a calibration text.
#[derive(Debug)]
pub(super) struct Record {
    values: Values,
    tokens: usize,
    seen: Vec<usize>,
    /// f32 \[tokens, width\], by layer.
    layers: Vec<Vec<f32>>,
}

impl Record {
    /// Runs the calibration text and returns values of its first `tokens` tokens, f32 \[tokens, width\] of each layer.
    pub(super) fn of(context: &mut dyn Context, values: Values, tokens: usize) -> Result<Vec<Vec<f32>>> {
        let n_layers = context.model().n_layers;
        let record = Record { values, tokens, seen: vec![0; n_layers], layers: vec![Vec::new(); n_layers] };
        let calibrate = Calibrate::new(record);
        context.run(vec![Arc::new(calibrate.clone()) as Arc<dyn PolicyConfig>])?;
        Ok(calibrate.with(|record| std::mem::take(&mut record.layers)))
    }
}

impl Calibration for Record {
    fn values(&self) -> Values {
        self.values
    }

    fn observe(&mut self, layer: usize, values: &[f32]) -> Result<()> {
        check_layer(layer, self.layers.len())?;
        if self.seen[layer] < self.tokens {
            self.layers[layer].extend_from_slice(values);
            self.seen[layer] += 1;
        }
        Ok(())
    }
}
