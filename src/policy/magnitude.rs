//! A static list by magnitude over a calibration text.

use std::sync::Arc;

use super::table::{Arguments, Context, Policies};
use super::{Calibrate, Calibration, Found, Lists, ModelSizes, Site, Values, check_layer, kept_count};
use crate::attention::AttentionShape;
use crate::error::{Error, Result, check_len};
use crate::sparse_mlp::{NeuronList, check_finite};

/// Adds up what each neuron or head puts out over a calibration text, f64 in the order of the tokens: Σ_t |a_j| of neurons,
/// a = act(x·gate) ⊙ (x·up), and Σ_t ‖out\[t, h\]‖₂ of heads. [`Magnitude::finish`] keeps the largest of each layer for good.
///
/// # Source
/// Magnitude pruning by activations: what a policy that looks at the text at hand has to beat.
#[derive(Debug, Clone, PartialEq)]
pub struct Magnitude {
    site: Site,
    /// Values of a token that make one sum.
    width: usize,
    /// \[layer\]\[neurons or heads\].
    sums: Vec<Vec<f64>>,
    tokens: Vec<usize>,
}

impl Magnitude {
    /// Starts for the neurons of a model.
    ///
    /// # Errors
    /// [`Error::Shape`] for no layers or neurons.
    pub fn of_neurons(n_layers: usize, d_ff: usize) -> Result<Self> {
        Self::new(Site::Neurons, n_layers, d_ff, 1)
    }

    /// Starts for the query heads of a model.
    ///
    /// # Errors
    /// [`Error::Shape`] for no layers.
    pub fn of_heads(n_layers: usize, shape: AttentionShape) -> Result<Self> {
        Self::new(Site::Heads, n_layers, shape.n_q_heads, shape.head_dim)
    }

    fn new(site: Site, n_layers: usize, n: usize, width: usize) -> Result<Self> {
        for (what, got) in [("n_layers", n_layers), ("neurons", n)] {
            if got == 0 {
                return Err(Error::Shape { what, expected: "at least 1", got });
            }
        }
        Ok(Magnitude { site, width, sums: vec![vec![0.0; n]; n_layers], tokens: vec![0; n_layers] })
    }

    /// Keeps the ⌈kept · n⌉ largest of each layer, the lower index first where equal.
    ///
    /// # Errors
    /// [`Error::Value`] for a fraction outside (0, 1], [`Error::Shape`] if a layer has seen no token.
    pub fn finish(&self, kept: f32) -> Result<Lists> {
        if self.tokens.contains(&0) {
            let expected = "activations of every layer";
            return Err(Error::Shape { what: "calibration", expected, got: 0 });
        }
        let list = |sums: &Vec<f64>| Ok(NeuronList::of_largest(sums, kept_count(kept, sums.len())?));
        Ok(Lists::new(self.site, self.sums.iter().map(list).collect::<Result<_>>()?))
    }

    pub(super) fn find(arguments: &Arguments, context: &mut dyn Context) -> Result<Found> {
        let model = context.model();
        let calibrate = Calibrate::new(match arguments.site {
            Site::Heads => Magnitude::of_heads(model.n_layers, model.attention)?,
            _ => Magnitude::of_neurons(model.n_layers, model.d_ff)?,
        });
        context.run(vec![Arc::new(calibrate.clone())])?;
        calibrate.with(|magnitude| {
            let n = magnitude.sums.first().map_or(0, Vec::len);
            let order: Vec<u32> = magnitude.sums.iter().flat_map(|sums| by_size(sums)).collect();
            let mut found = Found::default();
            found.put_u32("order", &[magnitude.sums.len(), n], order)?;
            Ok(found)
        })
    }

    /// Keeps the first of the order of each layer.
    pub(super) fn make(arguments: &Arguments, model: &ModelSizes, found: &Found) -> Policies {
        let n = model.count(arguments.site);
        let list = |order: &[u32]| {
            let mut kept = order[..kept_count(arguments.fraction, n)?].to_vec();
            kept.sort_unstable();
            NeuronList::new(kept, n)
        };
        let lists = found.u32("order", &[model.n_layers, n])?.chunks_exact(n).map(list).collect::<Result<_>>()?;
        Ok(vec![Arc::new(Lists::new(arguments.site, lists))])
    }
}

/// The places of the sums, the largest first, the lower place first where equal.
fn by_size(sums: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..sums.len() as u32).collect();
    order.sort_unstable_by(|&a, &b| sums[b as usize].total_cmp(&sums[a as usize]).then(a.cmp(&b)));
    order
}

impl Calibration for Magnitude {
    fn values(&self) -> Values {
        if self.site == Site::Heads { Values::HeadOutputs } else { Values::Hidden }
    }

    fn observe(&mut self, layer: usize, values: &[f32]) -> Result<()> {
        check_layer(layer, self.sums.len())?;
        check_len("activations", self.sums[layer].len() * self.width, values.len())?;
        check_finite("activations", values)?;
        let norm = |values: &[f32]| values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
        self.sums[layer].iter_mut().zip(values.chunks_exact(self.width)).for_each(|(sum, values)| *sum += norm(values));
        self.tokens[layer] += 1;
        Ok(())
    }
}
