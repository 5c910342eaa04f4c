//! One layer of a model in f32, as quantization works on it.

use super::matrix::Matrix;
use crate::checkpoint::{Checkpoint, LayerTensor};
use crate::error::{Error, Result};

/// A matrix with its bias.
#[derive(Debug, Clone)]
pub struct Projection {
    /// f32 \[N, K\].
    pub weight: Matrix,
    /// f32 \[N\].
    pub bias: Option<Vec<f32>>,
}

/// The places in a layer whose inputs are quantized: each is one matrix or several side by side that read the same input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Site {
    /// Query, key and value.
    Qkv,
    /// The attention's output projection.
    O,
    /// Gate and up.
    GateUp,
    /// Down.
    Down,
}

impl Site {
    /// In the order of the forward pass.
    pub const ALL: [Site; 4] = [Site::Qkv, Site::O, Site::GateUp, Site::Down];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Site::Qkv => "qkv",
            Site::O => "o",
            Site::GateUp => "gate_up",
            Site::Down => "down",
        }
    }

    /// The tensors of a site, one below the other, with their biases.
    pub fn tensors(self) -> &'static [(LayerTensor, LayerTensor)] {
        use LayerTensor::{Down, DownBias, Gate, GateBias, K, KBias, O, OBias, Q, QBias, Up, UpBias, V, VBias};
        match self {
            Site::Qkv => &[(Q, QBias), (K, KBias), (V, VBias)],
            Site::O => &[(O, OBias)],
            Site::GateUp => &[(Gate, GateBias), (Up, UpBias)],
            Site::Down => &[(Down, DownBias)],
        }
    }
}

/// The weights of one layer. Norms are folded into the projections that follow, so they are 1.
#[derive(Debug, Clone)]
pub struct FloatLayer {
    /// RMSNorm before attention, f32 \[d\].
    pub attn_norm: Vec<f32>,
    /// RMSNorm before the MLP, f32 \[d\].
    pub mlp_norm: Vec<f32>,
    /// By site, in the order of [`Site::ALL`].
    pub sites: [Projection; 4],
}

impl FloatLayer {
    /// Reads layer `index`, matrices that share an input one below the other.
    ///
    /// # Errors
    /// [`crate::Error::NotFinite`] for NaN or infinite weights.
    pub fn read(checkpoint: &Checkpoint, index: usize) -> Result<Self> {
        if checkpoint.config().qk_norm {
            let (expected, got) = ("heads that are not normalised", "norms of query and key heads".into());
            return Err(Error::Kernel(moray::Error::Unsupported { what: "layer", expected, got }));
        }
        let vector = |tensor| checkpoint.layer(index, tensor)?.to_f32();
        let [qkv, o, gate_up, down] = Site::ALL.map(|site| read_site(checkpoint, index, site));
        Ok(FloatLayer {
            attn_norm: vector(LayerTensor::AttnNorm)?,
            mlp_norm: vector(LayerTensor::FfnNorm)?,
            sites: [qkv?, o?, gate_up?, down?],
        })
    }

    /// The projection of a site.
    pub fn site(&self, site: Site) -> &Projection {
        &self.sites[site as usize]
    }

    /// The projection of a site, to change it.
    pub fn site_mut(&mut self, site: Site) -> &mut Projection {
        &mut self.sites[site as usize]
    }
}

fn read_site(checkpoint: &Checkpoint, index: usize, site: Site) -> Result<Projection> {
    let (mut parts, mut bias, mut any) = (Vec::new(), Vec::new(), false);
    for &(tensor, bias_tensor) in site.tensors() {
        let stored = checkpoint.layer(index, tensor)?;
        let [rows, columns] = stored.shape;
        parts.push(Matrix { rows, columns, data: stored.to_f32()? });
        checkpoint.release(&stored);
        let values = checkpoint.layer_optional(index, bias_tensor)?.map(|tensor| tensor.to_f32()).transpose()?;
        any |= values.is_some();
        bias.extend(values.unwrap_or_else(|| vec![0.0; rows]));
    }
    Ok(Projection { weight: Matrix::stack(&parts), bias: any.then_some(bias) })
}
